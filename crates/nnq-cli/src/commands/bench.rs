//! `nnq bench`.
use crate::{args::Bench, interrupt::Interrupt};
use nnq::{Error, Result};

/// Runs the command.
pub fn run(_args: &Bench, _interrupt: &Interrupt) -> Result<()> {
    Err(Error::internal("nnq bench is not wired up yet"))
}
