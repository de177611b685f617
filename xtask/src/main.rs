//! Development tasks: `cargo xtask test`, `lint`, `dist`, `differential`, `memcheck`, `fuzz`, `peers`, `benchmarks`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod benchmarks;
mod dist;
mod fuzz;
mod lint;
mod proof;
mod python;
mod test;

use std::{path::PathBuf, process::Command, process::ExitCode};

/// What went wrong and, where there is one, the cure.
type Result<T = (), E = String> = std::result::Result<T, E>;

const HELP: &str = "\
Development tasks of nnq.

  cargo xtask test             makes .venv (onnx, onnxruntime, numpy, pillow), then runs all tests and documentation examples
  cargo xtask lint             formatting, clippy and documentation, warnings denied
  cargo xtask dist             the command as it is handed out: small, and on Linux linked statically; says where it lies
  cargo xtask differential [CASES]
                               the kernels of every instruction set against formulas (default: 10000 cases of each family)
  cargo xtask memcheck         fewer such cases under valgrind and miri
  cargo xtask fuzz [SECONDS]   builds every fuzz target with the nightly toolchain and runs each (default: 60 seconds)
  cargo xtask peers            makes .venv-peers (onnxruntime, openvino, nncf) for nnq bench --peers
  cargo xtask benchmarks [ISA] nnq beside these engines: writes docs/benchmarks.md; with ISA, engines limited to it where they can be
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["test"] => test::run(),
        ["lint"] => lint::run(),
        ["dist"] => dist::run().map(|command| println!("{}", command.display())),
        ["differential"] => proof::differential(10_000),
        ["differential", cases] => match cases.parse() {
            Ok(cases) => proof::differential(cases),
            Err(_) => return usage(&format!("'{cases}' is no number of cases")),
        },
        ["memcheck"] => proof::memcheck(),
        ["fuzz"] => fuzz::run(60),
        ["fuzz", seconds] => match seconds.parse() {
            Ok(seconds) => fuzz::run(seconds),
            Err(_) => return usage(&format!("'{seconds}' is no number of seconds")),
        },
        ["peers"] => python::peers().map(|python| println!("{}", python.display())),
        ["benchmarks"] => benchmarks::run(None),
        ["benchmarks", isa] => benchmarks::run(Some(isa)),
        ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        [] => return usage("which task?"),
        _ => return usage(&format!("no such task: {}", args.join(" "))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn usage(message: &str) -> ExitCode {
    eprint!("error: {message}\n\n{HELP}");
    ExitCode::from(2)
}

/// The workspace's root folder.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// `cargo`, started in the workspace's root.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Prints a command, runs it and refuses any exit status but 0.
fn step(command: &mut Command) -> Result {
    let name = show(command);
    eprintln!("+ {name}");
    let status = command.status().map_err(|e| format!("{name}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{name}: {status}")) }
}

/// A command as one would type it.
fn show(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
