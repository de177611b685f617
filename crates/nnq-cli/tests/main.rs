//! The command from outside.
#![allow(clippy::print_stderr)]
mod cli;
mod hostile;
#[cfg(unix)]
mod peers;
#[cfg(feature = "train")]
mod train;
