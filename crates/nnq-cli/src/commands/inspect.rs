//! `nnq inspect`.
use crate::{
    args::Inspect,
    print::{self, Side, Table, number},
};
use nnq::{Error, Result, error::At, inspect::Inspection};
use serde::Serialize;
use std::fmt::Write;

/// The library's figures and the file's.
#[derive(Serialize)]
struct Report {
    model: String,
    file_bytes: u64,
    #[serde(flatten)]
    inspection: Inspection,
}

/// Runs the command.
pub fn run(args: &Inspect) -> Result<()> {
    let path = &args.model;
    let file_bytes = std::fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
    let graph = nnq::engine::read(path)?;
    if args.text {
        return print::report(false, &(), |()| graph.to_text());
    }
    let inspection = nnq::inspect::inspect(&graph).at(|| path.display())?;
    let report = Report { model: path.display().to_string(), file_bytes, inspection };
    print::report(args.output.json, &report, text)
}

fn text(report: &Report) -> String {
    let i = &report.inspection;
    let mut head = Table::new(&[("", Side::Left), ("", Side::Left)]);
    head.row(["model", &format!("{} ({})", report.model, number::bytes(report.file_bytes))]);
    head.row(["graph", &format!("{}, opset {}, {} nodes", i.graph, i.opset, i.nodes)]);
    for (name, ports) in [("input", &i.inputs), ("output", &i.outputs)] {
        for port in ports {
            head.row([name, &format!("{} {} {}", port.name, port.dtype, port.shape)]);
        }
    }
    let parameters = format!("{} ({})", number::count(i.parameters), number::bytes(i.parameter_bytes));
    head.row(["parameters", &parameters]);
    let mut macs = format!("{} per sample", number::count(i.macs));
    if i.macs_unknown > 0 {
        let _ = write!(macs, ", without {} nodes of unknown shape", i.macs_unknown);
    }
    head.row(["multiply-accumulates", &macs]);
    let q = &i.quantization;
    let quantized = if q.activations + q.constants == 0 {
        "nothing".into()
    } else {
        let types: Vec<String> = q.types.iter().map(|(name, n)| format!("{n} {name}")).collect();
        let (a, of, c) = (q.activations, q.of_activations, q.constants);
        format!("{a} of {of} activations, {c} constants: {}", types.join(", "))
    };
    head.row(["quantized", &quantized]);
    for (key, value) in &i.metadata {
        let short: String = value.lines().next().unwrap_or("").chars().take(80).collect();
        let more = if short.len() < value.len() { " ..." } else { "" };
        head.row([key, &format!("{short}{more}")]);
    }
    let columns =
        [("operator", Side::Left), ("nodes", Side::Right), ("parameters", Side::Right), ("MACs", Side::Right)];
    let mut table = Table::new(&columns);
    for row in &i.operators {
        let (parameters, macs) = (number::count(row.parameters), number::count(row.macs));
        table.row([&row.operator, &row.count.to_string(), &parameters, &macs]);
    }
    if i.weights.is_empty() {
        format!("{head}\n{table}")
    } else {
        format!("{head}\n{}\n{table}", print::weights(&i.weights))
    }
}
