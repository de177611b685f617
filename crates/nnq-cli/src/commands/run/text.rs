//! Text from a language model.
use crate::{
    args::Run,
    interrupt::Interrupt,
    print::{self, number},
};
use nnq::{
    Result,
    error::At,
    text::{Tokenizer, generate},
};
use serde::Serialize;
use std::{io::Write, path::Path};

/// What ran, and what came out.
#[derive(Serialize)]
struct Report {
    model: String,
    #[serde(flatten)]
    generated: generate::Report,
}

/// Runs the command.
pub fn run(args: &Run, prompt: &str, tokenizer: &Path, interrupt: &Interrupt) -> Result<()> {
    let model = args.model.display().to_string();
    let mut engine =
        super::super::open(&args.model, args.engine.engine.map(Into::into), args.engine.profile.into(), args.threads)?;
    let tokenizer = Tokenizer::open(tokenizer)?;
    let options = generate::Options {
        tokens: args.text.tokens as usize,
        temperature: args.text.temperature,
        seed: args.text.seed,
        cache: args.text.cache,
        cancel: Some(interrupt.flag()),
    };
    let mut hear = |piece: &str| {
        if !args.output.json {
            let mut out = std::io::stdout().lock();
            // A closed pipe is found by the report.
            let _ = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
        }
    };
    let generated = generate::generate(&mut engine, &tokenizer, prompt, &options, &mut hear).at(|| &model)?;
    let report = Report { model, generated };
    print::report(args.output.json, &report, text)
}

/// What stands below the text.
fn text(report: &Report) -> String {
    let g = &report.generated;
    let rate = |tokens: usize, seconds: f64| if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
    let cache = match (g.cache, g.cache_bytes) {
        (Some(storage), Some(bytes)) => format!("cache {storage}, {}", number::bytes(bytes as u64)),
        _ => "no cache: the whole text is read again for each token".into(),
    };
    format!(
        "\n\n{} tokens of the prompt in {}; {} added{}, {:.0} a second; {cache}; engine {}, {} threads",
        g.prompt_tokens,
        number::seconds(g.prompt_seconds),
        g.tokens.len(),
        if g.ended { ", the end" } else { "" },
        rate(g.tokens.len().saturating_sub(1), g.token_seconds),
        print::engine(g.ran.engine, g.ran.profile, g.ran.isa),
        g.ran.threads,
    )
}
