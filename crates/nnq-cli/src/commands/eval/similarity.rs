//! Sentence embeddings.
use crate::{
    args::Eval,
    interrupt::Interrupt,
    print::{self, Progress, Side, Table, number},
};
use nnq::{
    Result,
    error::At,
    text::{Pair, Tokenizer, similarity},
};
use serde::Serialize;
use std::path::Path;

/// The measurement and what was measured.
#[derive(Serialize)]
struct Report {
    model: String,
    data: String,
    #[serde(flatten)]
    similarity: similarity::Report,
}

/// Runs the command.
pub fn run(args: &Eval, pairs: &[Pair], tokenizer: &Tokenizer, interrupt: &Interrupt) -> Result<()> {
    let model = args.model.display().to_string();
    let open = |path: &Path, kind| super::super::open(path, kind, args.engine.profile.into(), args.threads);
    let mut engine = open(&args.model, args.engine.engine.map(Into::into))?;
    let mut reference = args.reference.as_deref().map(|path| open(path, None)).transpose()?;
    let options = similarity::Options {
        batch: args.batch.map(|n| n as usize),
        limit: args.limit.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        cancel: Some(interrupt.flag()),
    };
    let mut progress = Progress::new("embedding");
    let mut tick = |done, of| progress.update(done, of);
    let similarity =
        similarity::measure(&mut engine, reference.as_mut(), pairs, tokenizer, &options, &mut tick).at(|| &model)?;
    drop(progress);
    let report = Report { model, data: args.data.display().to_string(), similarity };
    print::report(args.output.json, &report, text)
}

fn text(report: &Report) -> String {
    let s = &report.similarity;
    let mut table = Table::new(&[("", Side::Left), ("", Side::Left)]);
    table.row(["model", &report.model]).row(["data", &format!("{}: {} pairs", report.data, s.pairs)]);
    let how = print::engine(s.ran.engine, s.ran.profile, s.ran.isa);
    table.row(["engine", &format!("{how}, {} threads", s.ran.threads)]);
    table.row(["spearman", &format!("{:.4}", s.spearman)]).row(["pearson", &format!("{:.4}", s.pearson)]);
    if let Some(r) = s.reference {
        let change = s.spearman - r.spearman;
        table.row(["spearman of the reference", &format!("{:.4} (change {change:+.4})", r.spearman)]);
        let (mean, least) = (r.mean_cosine, r.least_cosine);
        table.row(["cosine to the reference", &format!("{mean:.5} on average, {least:.5} at the least")]);
    }
    table.row(["time", &print::times(s.seconds, s.engine_seconds, s.tokens as f64, "tokens")]);
    if s.cut > 0 {
        table.row(["cut", &format!("{} sentences are longer than the tokenizer allows", s.cut)]);
    }
    if let Some(bytes) = s.ran.peak_memory_bytes {
        table.row(["peak memory", &number::bytes(bytes)]);
    }
    table.to_string()
}
