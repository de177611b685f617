//! `nnq explain`.
use crate::args::Explain;
use nnq::{Error, Result};

/// Runs the command.
pub fn run(_args: &Explain) -> Result<()> {
    Err(Error::internal("nnq explain is not wired up yet"))
}
