//! Ctrl-C, and the request to end that systems send (SIGTERM): the first one asks the running flow to stop, a second one ends the process.
use nnq::{Error, ErrorKind, Result};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Whether the user, or the system, asked to stop.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on. A signal that the system does not let be listened to ends the process as usual.
    pub fn listen() -> Self {
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // The order counts: this one looks whether an earlier signal has set the flag. The status is what shells call an end by the signal.
            let _ = flag::register_conditional_shutdown(signal, 128 + signal, interrupt.flag());
            let _ = flag::register(signal, interrupt.flag());
        }
        interrupt
    }
    /// The flag itself, for flows that look at it.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
    /// An error once somebody asked to stop.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`].
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Interrupted, "stopped on request; nothing was written"));
        }
        Ok(())
    }
}
