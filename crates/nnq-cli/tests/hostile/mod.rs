//! Hostile and clumsy inputs through the command itself: each must end with the right exit code and a message that names the
//! place, the cause and where possible the cure; never with a panic, never with half a file left behind.
//!
//! To add a case: one [`Row`] in the table of its kind.

mod analyze;
mod commands;
mod data;
mod files;
mod models;
mod onnx;
mod plans;
mod storms;
mod table;

use table::{Row, judge};

/// Runs rows on two threads and reports all failures together.
fn all(rows: &[Row]) {
    let names: std::collections::HashSet<_> = rows.iter().map(|r| r.name).collect();
    assert_eq!(names.len(), rows.len(), "two rows have the same name");
    let halves = rows.split_at(rows.len() / 2);
    let run = |rows: &[Row]| rows.iter().filter_map(|r| judge(r).err()).collect::<Vec<_>>();
    let failures = std::thread::scope(|s| {
        let other = s.spawn(|| run(halves.1));
        let mut failures = run(halves.0);
        failures.extend(other.join().expect("the other half"));
        failures
    });
    assert!(failures.is_empty(), "{} of {} rows:\n\n{}", failures.len(), rows.len(), failures.join("\n\n"));
}

#[test]
fn models() {
    all(&models::rows());
}

#[test]
fn data_files() {
    all(&data::rows());
}

#[test]
fn compiled_plans() {
    all(&plans::rows());
}

#[test]
fn analyses() {
    all(&analyze::rows());
}

#[test]
fn commands_and_settings() {
    all(&commands::rows());
}
