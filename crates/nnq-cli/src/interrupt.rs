//! Ctrl-C: the first one asks the running flow to stop, a second one ends the process.
use nnq::{Error, ErrorKind, Result};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Whether the user asked to stop.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on. Where the system offers no such signal, Ctrl-C ends the process as usual.
    pub fn listen() -> Self {
        let interrupt = Self::default();
        let flag = interrupt.0.clone();
        let _ = ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        });
        interrupt
    }
    /// The flag itself, for flows that look at it.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
    /// An error once the user asked to stop.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`].
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Interrupted, "stopped by Ctrl-C; nothing was written"));
        }
        Ok(())
    }
}
