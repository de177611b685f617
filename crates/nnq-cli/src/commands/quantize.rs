//! `nnq quantize`.
use crate::{args::Quantize, interrupt::Interrupt};
use nnq::{Error, Result};

/// Runs the command.
pub fn run(_args: &Quantize, _interrupt: &Interrupt) -> Result<()> {
    Err(Error::internal("nnq quantize is not wired up yet"))
}
