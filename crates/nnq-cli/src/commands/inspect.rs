//! `nnq inspect`.
use crate::args::Inspect;
use nnq::{Error, Result};

/// Runs the command.
pub fn run(_args: &Inspect) -> Result<()> {
    Err(Error::internal("nnq inspect is not wired up yet"))
}
