//! `nnq explain`.
use crate::{args::Explain, print};
use nnq::{Error, Result};

/// Runs the command.
pub fn run(args: &Explain) -> Result<()> {
    let range = args.range.as_deref().map(range).transpose()?;
    let explanation = nnq::numbers::explain(&args.number, range)?;
    print::report(args.output.json, &explanation, ToString::to_string)
}

/// `LOW:HIGH`.
fn range(text: &str) -> Result<(f64, f64)> {
    let parse = |s: &str| s.trim().parse::<f64>().ok();
    let pair = text.split_once(':').and_then(|(low, high)| Some((parse(low)?, parse(high)?)));
    pair.ok_or_else(|| {
        Error::usage(format!("--range '{text}' is no LOW:HIGH")).cure("write two numbers, e.g. --range -1:1")
    })
}
