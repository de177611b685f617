//! Everything that reaches the terminal: reports on standard output, progress and errors on standard error.
pub mod number;
mod progress;
mod table;

pub use progress::Progress;
pub use table::{Side, Table};

use nnq::{Error, ErrorKind, Result, engine::Kind, exec::lower::Profile, inspect::WeightRow};
use serde::Serialize;
use std::io::Write;

/// Prints a report: as one JSON object, or as the text that `human` makes of it.
///
/// # Errors
/// When standard output cannot be written to. A reader that went away (`nnq ... | head`) is no error.
pub fn report<T: Serialize>(json: bool, report: &T, human: impl FnOnce(&T) -> String) -> Result<()> {
    let text = if json {
        serde_json::to_string_pretty(report).map_err(|e| Error::internal(format!("report as JSON: {e}")))?
    } else {
        human(report)
    };
    match writeln!(std::io::stdout().lock(), "{}", text.trim_end()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(ErrorKind::Io, e.to_string()).at("standard output"))
        }
        _ => Ok(()),
    }
}

/// What ran a model: the engine, its arithmetic and its instruction set where it has a choice.
pub fn engine(kind: Kind, profile: Option<Profile>, isa: Option<&str>) -> String {
    let parts = [Some(kind.to_string()), profile.map(|p| p.to_string()), isa.map(str::to_owned)];
    parts.into_iter().flatten().collect::<Vec<String>>().join(", ")
}

/// How long a measurement took, and how fast the engine was: `count` of `what`.
pub fn times(seconds: f64, engine_seconds: f64, count: f64, what: &str) -> String {
    format!(
        "{}, {} in the engine ({} {what} a second)",
        number::seconds(seconds),
        number::seconds(engine_seconds),
        number::digits(count / engine_seconds)
    )
}

/// How quantized constants are stored, for people.
pub fn weights(rows: &[WeightRow]) -> Table {
    let columns = [
        ("quantized constants", Side::Left),
        ("stored as", Side::Left),
        ("tensors", Side::Right),
        ("numbers", Side::Right),
        ("bytes", Side::Right),
    ];
    let mut table = Table::new(&columns);
    for r in rows {
        table.row([&r.grid, &r.stored, &r.tensors.to_string(), &number::count(r.numbers), &number::bytes(r.bytes)]);
    }
    table
}

/// A line on standard error, for what people follow while it goes on.
#[cfg(feature = "train")]
pub fn line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints an error. Nothing can be done when even that fails.
pub fn error(error: &Error) {
    let _ = writeln!(std::io::stderr().lock(), "error: {error}");
}
