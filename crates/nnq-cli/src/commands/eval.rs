//! `nnq eval`.
mod language;
mod similarity;

use crate::{
    args::Eval,
    interrupt::Interrupt,
    print::{self, Progress, Side, Table, number},
};
use nnq::{
    Error, Result,
    data::paired_difference,
    engine::Engine,
    error::At,
    eval::{self, EvalReport, Labelled, Options},
    text::{Rows, Tokenizer, read_rows},
};
use serde::Serialize;
use std::path::Path;

/// The measurement and what was measured.
#[derive(Serialize)]
struct Report {
    model: String,
    data: String,
    #[serde(flatten)]
    eval: EvalReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<Reference>,
}

/// Beside another network, on the same samples.
#[derive(Serialize)]
struct Reference {
    top1: f64,
    macro_f1: f64,
    /// What this network has more, in shares of 1.
    difference: f64,
    /// Its 95 % confidence interval.
    interval: [f64; 2],
}

/// Runs the command.
pub fn run(args: &Eval, interrupt: &Interrupt) -> Result<()> {
    let Some(path) = &args.tokenizer else {
        return classes(args, &|| super::labelled(&args.data, &args.reading), interrupt);
    };
    no_pictures(args)?;
    let tokenizer = Tokenizer::open(path)?;
    if args.data.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt")) {
        return language::run(args, &tokenizer, interrupt);
    }
    let tokenizer = tokenizer.limited(args.length.map(|n| n as usize));
    match read_rows(&args.data)? {
        Rows::Pairs(pairs) => similarity::run(args, &pairs, &tokenizer, interrupt),
        Rows::Labelled(_) => classes(args, &|| super::labelled_texts(&args.data, &tokenizer), interrupt),
    }
}

/// Counts right classes.
fn classes(args: &Eval, data: &dyn Fn() -> Result<Labelled>, interrupt: &Interrupt) -> Result<()> {
    let open = |path: &Path, kind| super::open(path, kind, args.engine.profile.into(), args.threads);
    let engine = open(&args.model, args.engine.engine.map(Into::into))?;
    let data = data()?;
    let evaluate = |mut engine: Engine, what: &str| {
        let batch = args.batch.map_or_else(|| eval::usual_batch(engine.graph()), |n| n as usize);
        super::tune(&mut engine, args.tuning, batch, interrupt)?;
        let options = Options {
            batch: Some(batch),
            limit: args.limit.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            threads: args.threads.threads,
            cancel: Some(interrupt.flag()),
        };
        let mut progress = Progress::new(what);
        eval::evaluate(&mut engine, &data, &options, &mut |done, of| progress.update(done, of))
    };
    let place = |path: &Path| path.display().to_string();
    let eval = evaluate(engine, "evaluating").at(|| place(&args.model))?;
    let reference = match &args.reference {
        Some(path) => {
            let other = evaluate(open(path, None)?, "evaluating the reference").at(|| place(path))?;
            let (difference, low, high) = paired_difference(&other.correct, &eval.correct)?;
            Some(Reference { top1: other.top1, macro_f1: other.macro_f1, difference, interval: [low, high] })
        }
        None => None,
    };
    let report = Report { model: place(&args.model), data: data.dataset.describe(), eval, reference };
    print::report(args.output.json, &report, text)
}

/// Refuses what is for pictures.
fn no_pictures(args: &Eval) -> Result<()> {
    if args.reading.preprocess.is_some() || args.reading.classes.is_some() {
        return Err(Error::usage("--preprocess or --classes with --tokenizer").cure("they are for pictures"));
    }
    if args.tuning.tune {
        return Err(Error::usage("--tune with --tokenizer").cure("leave --tune out: texts have many lengths"));
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let e = &report.eval;
    let mut table = Table::new(&[("", Side::Left), ("", Side::Left)]);
    table.row(["model", &report.model]).row(["data", &report.data]);
    let how = print::engine(e.ran.engine, e.ran.profile, e.ran.isa);
    table.row(["engine", &format!("{how}, {} threads, batch {}", e.ran.threads, e.batch)]);
    let right = e.correct.iter().filter(|&&c| c).count();
    table.row(["top 1", &format!("{} ({right} of {})", number::percent(e.top1), e.samples)]);
    if let Some(top1) = e.top1_restricted {
        table.row(["among the data's classes", &number::percent(top1)]);
    }
    if e.f1.is_none() {
        table.row(["top 5", &number::percent(e.top5)]);
    }
    let second = e.f1.map_or_else(String::new, |f1| format!("{f1:.4} of class 1, "));
    table.row(["F1", &format!("{second}{:.4} on average over classes", e.macro_f1)]);
    if let Some(r) = &report.reference {
        let points = |x: f64| format!("{:+.2}", 100.0 * x);
        let [low, high] = r.interval.map(points);
        table.row([
            "beside the reference",
            &format!("{}: {} points ({low} to {high})", number::percent(r.top1), points(r.difference)),
        ]);
    }
    table.row(["time", &print::times(e.seconds, e.engine_seconds, e.samples as f64, "samples")]);
    if let Some(bytes) = e.ran.peak_memory_bytes {
        table.row(["peak memory", &number::bytes(bytes)]);
    }
    table.row(["outputs", &format!("sha256 {}", e.logits_sha256)]);
    table.to_string()
}
