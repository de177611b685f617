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
    error::At,
    eval::{self, EvalReport, Options},
};
use serde::Serialize;

/// The measurement and what was measured.
#[derive(Serialize)]
struct Report {
    model: String,
    data: String,
    #[serde(flatten)]
    eval: EvalReport,
}

/// Runs the command.
pub fn run(args: &Eval, interrupt: &Interrupt) -> Result<()> {
    if let Some(tokenizer) = &args.tokenizer {
        let texts = args.data.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt"));
        let measure = if texts { language::run } else { similarity::run };
        no_pictures(args)?;
        return measure(args, tokenizer, interrupt);
    }
    let model = args.model.display().to_string();
    let mut engine =
        super::open(&args.model, args.engine.engine.map(Into::into), args.engine.profile.into(), args.threads)?;
    let data = super::labelled(&args.data, &args.reading)?;
    let batch = args.batch.map_or_else(|| eval::usual_batch(engine.graph()), |n| n as usize);
    super::tune(&mut engine, args.tuning, batch, interrupt).at(|| &model)?;
    let options = Options {
        batch: Some(batch),
        limit: args.limit.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        threads: args.threads.threads,
        cancel: Some(interrupt.flag()),
    };
    let mut progress = Progress::new("evaluating");
    let eval = eval::evaluate(&mut engine, &data, &options, &mut |done, of| progress.update(done, of)).at(|| &model)?;
    drop(progress);
    let report = Report { model, data: data.dataset.describe(), eval };
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
    table.row(["top 5", &number::percent(e.top5)]);
    table.row(["time", &print::times(e.seconds, e.engine_seconds, e.samples as f64, "samples")]);
    if let Some(bytes) = e.ran.peak_memory_bytes {
        table.row(["peak memory", &number::bytes(bytes)]);
    }
    table.row(["outputs", &format!("sha256 {}", e.logits_sha256)]);
    table.to_string()
}
