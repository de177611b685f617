//! The `nnq` command: argument parsing and printing only.
mod args;
mod commands;
mod interrupt;
mod print;

use clap::Parser;
use nnq::ErrorKind;
use std::process::ExitCode;

/// Exit codes: 0 done, 1 failed, 2 the command line or a file it names makes no sense.
fn main() -> ExitCode {
    let cli = args::Cli::parse();
    match commands::run(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            print::error(&e);
            ExitCode::from(if e.kind() == ErrorKind::Usage { 2 } else { 1 })
        }
    }
}
