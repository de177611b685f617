//! `nnq calibrate`.
use super::quantize::{samples, with_progress};
use crate::{
    args::Calibrate,
    interrupt::Interrupt,
    print::{self, Side, Table, number},
};
use nnq::{
    Error, Result, engine,
    error::At,
    quant::{recipe::Recipe, stats::Stats},
    quantize,
};
use serde::Serialize;
use std::time::Instant;

/// What was collected.
#[derive(Serialize)]
struct Report {
    out: String,
    samples: u64,
    values: usize,
    bytes: u64,
    seconds: f64,
    /// Of these, until the model was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    load_seconds: Option<f64>,
    peak_memory_bytes: Option<u64>,
}

/// Runs the command.
pub fn run(args: &Calibrate, interrupt: &Interrupt) -> Result<()> {
    let start = Instant::now();
    let (stats, load_seconds) = if args.merge.is_empty() {
        let (stats, seconds) = collect(args, interrupt)?;
        (stats, Some(seconds))
    } else {
        (Stats::read_all(&args.merge)?, None)
    };
    stats.write(&args.out)?;
    let report = Report {
        out: args.out.display().to_string(),
        samples: stats.meta.samples.len(),
        values: stats.values.len(),
        bytes: std::fs::metadata(&args.out).map_err(|e| Error::io(&args.out, e))?.len(),
        seconds: start.elapsed().as_secs_f64(),
        load_seconds,
        peak_memory_bytes: engine::peak_memory(),
    };
    print::report(args.output.json, &report, |r| {
        let mut table = Table::new(&[("", Side::Left), ("", Side::Left)]);
        table.row(["statistics", &r.out]).row(["samples", &r.samples.to_string()]);
        table.row(["values", &r.values.to_string()]).row(["size", &number::bytes(r.bytes)]);
        let reading =
            r.load_seconds.map_or_else(String::new, |s| format!(", of it reading the model {}", number::seconds(s)));
        table.row(["time", &format!("{}{reading}", number::seconds(r.seconds))]);
        if let Some(bytes) = r.peak_memory_bytes {
            table.row(["peak memory", &number::bytes(bytes)]);
        }
        table.to_string()
    })
}

/// The statistics, and the seconds until the model was read.
fn collect(args: &Calibrate, interrupt: &Interrupt) -> Result<(Stats, f64)> {
    let start = Instant::now();
    let (Some(model), Some(data)) = (&args.model, &args.data) else {
        return Err(Error::usage("calibration needs a model and data").cure("see nnq calibrate --help"));
    };
    let mut recipe = Recipe::default();
    args.samples.apply(&mut recipe);
    let (graph, digest) = quantize::open(model)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let samples = samples(data, &args.texts, &args.reading)?;
    let stats = with_progress(|progress| {
        quantize::calibrate(&graph, digest, &samples, &recipe, args.threads.threads, Some(interrupt.flag()), progress)
    })
    .at(|| model.display())?;
    Ok((stats, load_seconds))
}
