//! `nnq eval`.
use crate::{args::Eval, interrupt::Interrupt};
use nnq::{Error, Result};

/// Runs the command.
pub fn run(_args: &Eval, _interrupt: &Interrupt) -> Result<()> {
    Err(Error::internal("nnq eval is not wired up yet"))
}
