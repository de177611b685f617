//! `nnq run`.
use crate::args::Run;
use nnq::{Error, Result};

/// Runs the command.
pub fn run(_args: &Run) -> Result<()> {
    Err(Error::internal("nnq run is not wired up yet"))
}
