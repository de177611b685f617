//! `nnq calibrate`.
use crate::{args::Calibrate, interrupt::Interrupt};
use nnq::{Error, Result};

/// Runs the command.
pub fn run(_args: &Calibrate, _interrupt: &Interrupt) -> Result<()> {
    Err(Error::internal("nnq calibrate is not wired up yet"))
}
