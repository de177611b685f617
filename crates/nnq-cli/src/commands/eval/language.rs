//! Language models.
use crate::{
    args::Eval,
    interrupt::Interrupt,
    print::{self, Progress, Side, Table, number},
};
use nnq::{
    Error, Result,
    error::At,
    text::{Tokenizer, language, read_documents},
};
use serde::Serialize;

/// The measurement and what was measured.
#[derive(Serialize)]
struct Report {
    model: String,
    data: String,
    #[serde(flatten)]
    language: language::Report,
}

/// Runs the command.
pub fn run(args: &Eval, tokenizer: &Tokenizer, interrupt: &Interrupt) -> Result<()> {
    if args.reference.is_some() || args.batch.is_some() {
        return Err(Error::usage("--reference or --batch with texts")
            .cure("leave them out: each text runs alone; measure the other network by itself"));
    }
    let model = args.model.display().to_string();
    let mut engine =
        super::super::open(&args.model, args.engine.engine.map(Into::into), args.engine.profile.into(), args.threads)?;
    let texts = read_documents(&args.data)?;
    let options = language::Options {
        limit: args.limit.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        length: args.length.map(|n| n as usize),
        cancel: Some(interrupt.flag()),
    };
    let mut progress = Progress::new("reading");
    let mut tick = |done, of| progress.update(done, of);
    let language = language::measure(&mut engine, &texts, tokenizer, &options, &mut tick).at(|| &model)?;
    drop(progress);
    let report = Report { model, data: args.data.display().to_string(), language };
    print::report(args.output.json, &report, text)
}

fn text(report: &Report) -> String {
    let l = &report.language;
    let mut table = Table::new(&[("", Side::Left), ("", Side::Left)]);
    table.row(["model", &report.model]);
    table.row(["data", &format!("{}: {} texts, {} tokens foretold", report.data, l.texts, l.tokens)]);
    let how = print::engine(l.ran.engine, l.ran.profile, l.ran.isa);
    table.row(["engine", &format!("{how}, {} threads", l.ran.threads)]);
    table.row(["nats per token", &format!("{:.4}", l.nats_per_token)]);
    table.row(["perplexity", &format!("{:.4}", l.perplexity)]);
    table.row(["likeliest token right", &number::percent(l.top1)]);
    table.row(["time", &print::times(l.seconds, l.engine_seconds, l.tokens as f64, "tokens")]);
    if l.cut > 0 {
        table.row(["cut", &format!("{} texts are longer than allowed", l.cut)]);
    }
    if let Some(bytes) = l.ran.peak_memory_bytes {
        table.row(["peak memory", &number::bytes(bytes)]);
    }
    table.to_string()
}
