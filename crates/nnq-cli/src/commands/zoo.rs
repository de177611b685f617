//! `nnq zoo`.
use crate::{
    args::Zoo,
    print::{self, Side, Table, number},
};
use nnq::{
    Error, Result,
    formats::onnx::{self, WriteOptions},
    zoo::{self, ARCHITECTURES, Architecture},
};
use serde::Serialize;
use std::path::Path;

/// What was written.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    architecture: Architecture,
    seed: u64,
    file: String,
    bytes: u64,
}

/// Runs the command.
pub fn run(args: &Zoo) -> Result<()> {
    let (Some(name), Some(out)) = (&args.name, &args.out) else {
        return print::report(args.output.json, &ARCHITECTURES, |_| list());
    };
    let report = write(name, args.seed, out)?;
    print::report(args.output.json, &report, |r| {
        format!("{}: {}, {}", r.file, r.architecture.name, number::bytes(r.bytes))
    })
}

fn write(name: &str, seed: u64, out: &Path) -> Result<Report> {
    let architecture = *zoo::find(name)?;
    onnx::write(&zoo::build(&architecture, seed)?, out, &WriteOptions::default())?;
    let bytes = std::fs::metadata(out).map_err(|e| Error::io(out, e))?.len();
    Ok(Report { architecture, seed, file: out.display().to_string(), bytes })
}

fn list() -> String {
    let columns = [
        ("network", Side::Left),
        ("input", Side::Left),
        ("classes", Side::Right),
        ("parameters", Side::Right),
        ("MACs", Side::Right),
        ("paper", Side::Left),
    ];
    let mut table = Table::new(&columns);
    for a in ARCHITECTURES {
        let [c, h, w] = a.input;
        table.row([
            a.name,
            &format!("{c} x {h} x {w}"),
            &a.classes.to_string(),
            &number::count(a.parameters),
            &format!("{} G", a.giga_macs),
            a.paper,
        ]);
    }
    format!("{table}\nWeights are random: for speed and memory, not for accuracy.")
}
