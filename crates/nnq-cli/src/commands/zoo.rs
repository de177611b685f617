//! `nnq zoo`.
use crate::{
    args::Zoo,
    print::{self, Side, Table, number},
};
use nnq::{
    Error, Result,
    formats::onnx::{self, WriteOptions},
    zoo::{self, ARCHITECTURES, Architecture, Wanted},
};
use serde::Serialize;
use std::path::Path;

/// What was written.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    architecture: Architecture,
    seed: u64,
    weights: Option<String>,
    notes: Vec<String>,
    file: String,
    bytes: u64,
}

/// Runs the command.
pub fn run(args: &Zoo) -> Result<()> {
    let (Some(name), Some(out)) = (&args.name, &args.out) else {
        return print::report(args.output.json, &ARCHITECTURES, |_| list());
    };
    let report = write(args.start.wanted(name, args.seed), out)?;
    print::report(args.output.json, &report, |r| {
        let notes: String = r.notes.iter().map(|n| format!("\n{n}")).collect();
        format!("{}: {}, {}{notes}", r.file, r.architecture.name, number::bytes(r.bytes))
    })
}

fn write(wanted: Wanted, out: &Path) -> Result<Report> {
    let mut architecture = *zoo::find(&wanted.name)?;
    architecture.classes = wanted.outputs.unwrap_or(architecture.classes);
    let (graph, notes) = zoo::assemble(&wanted)?;
    onnx::write(&graph, out, &WriteOptions::default())?;
    let bytes = std::fs::metadata(out).map_err(|e| Error::io(out, e))?.len();
    let weights = wanted.weights.map(|w| w.display().to_string());
    Ok(Report { architecture, seed: wanted.seed, weights, notes, file: out.display().to_string(), bytes })
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
    format!("{table}\nWeights are random, for speed and memory, or to train; or those of a file (--weights).")
}
