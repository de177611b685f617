//! `nnq analyze --hessian` where training is not built in.
use nnq::{Error, Result, analyze};

/// There is none.
#[derive(serde::Serialize)]
pub enum Report {}

/// Says that there is none, before any work.
pub fn wanted(draws: Option<u32>) -> Result<Option<u32>> {
    match draws {
        None => Ok(None),
        Some(_) => Err(missing()),
    }
}

/// Says so.
pub fn run(_: &analyze::Job, _: u32) -> Result<Report> {
    Err(missing())
}

/// Of no report.
pub fn text(report: &Report) -> String {
    match *report {}
}

fn missing() -> Error {
    Error::usage("--hessian needs gradients, and training is not built into this nnq")
        .cure("leave it out, or build with: cargo build --release --features train")
}
