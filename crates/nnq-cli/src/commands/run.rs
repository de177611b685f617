//! `nnq run`.
mod text;

use crate::{
    args::Run,
    interrupt::Interrupt,
    print::{self, Side, Table, number},
};
use nnq::{Error, Result, data::Preprocess, error::At, ir::Tensor, run};
use serde::Serialize;
use std::time::Instant;

/// What ran, and what came out.
#[derive(Serialize)]
struct Report {
    model: String,
    engine: nnq::engine::Kind,
    profile: Option<nnq::exec::lower::Profile>,
    isa: Option<&'static str>,
    seconds: f64,
    outputs: Vec<Written>,
}

/// An output and its file.
#[derive(Serialize)]
struct Written {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    file: String,
    min: Option<f32>,
    max: Option<f32>,
    /// Position of the largest number, where the output has one dimension besides a batch of one.
    argmax: Option<usize>,
}

/// Runs the command.
pub fn run(args: &Run, interrupt: &Interrupt) -> Result<()> {
    if let (Some(prompt), Some(tokenizer)) = (&args.text.prompt, &args.text.tokenizer) {
        return text::run(args, prompt, tokenizer, interrupt);
    }
    let Some(out) = &args.out else { return Err(Error::usage("nowhere to write to").cure("name a file with -o")) };
    let model = args.model.display().to_string();
    let mut engine =
        super::open(&args.model, args.engine.engine.map(Into::into), args.engine.profile.into(), args.threads)?;
    let preprocess = args.preprocess.as_deref().map(Preprocess::from_arg).transpose()?;
    let inputs = run::read_inputs(&engine, &args.input, preprocess.as_ref()).at(|| &model)?;
    let samples = inputs.first().and_then(|x| x.shape().first()).copied().unwrap_or(1);
    super::tune(&mut engine, args.tuning, samples, interrupt).at(|| &model)?;
    let clock = Instant::now();
    let outputs = engine.run(inputs).at(|| &model)?;
    let seconds = clock.elapsed().as_secs_f64();
    let files = run::write_outputs(&outputs, out)?;
    let graph = engine.graph();
    let names = graph.outputs.iter().map(|id| graph.value(*id).name.clone());
    let written = names.zip(&outputs).zip(&files).map(|((name, tensor), file)| describe(name, tensor, file)).collect();
    let report = Report {
        model,
        engine: engine.kind(),
        profile: engine.profile(),
        isa: engine.isa(),
        seconds,
        outputs: written,
    };
    print::report(args.output.json, &report, table)
}

fn describe(name: String, tensor: &Tensor, file: &std::path::Path) -> Written {
    let values = tensor.to_f32s();
    let (min, max) = (values.iter().copied().reduce(f32::min), values.iter().copied().reduce(f32::max));
    let vector = tensor.len() > 1 && tensor.shape().iter().filter(|&&d| d != 1).count() == 1;
    let argmax = values.iter().position(|&v| Some(v) == max).filter(|_| vector);
    Written {
        name,
        dtype: tensor.dtype().to_string(),
        shape: tensor.shape().to_vec(),
        file: file.display().to_string(),
        min,
        max,
        argmax,
    }
}

fn table(report: &Report) -> String {
    let columns = [
        ("output", Side::Left),
        ("shape", Side::Left),
        ("min", Side::Right),
        ("max", Side::Right),
        ("largest at", Side::Right),
        ("file", Side::Left),
    ];
    let mut table = Table::new(&columns);
    for o in &report.outputs {
        let digits = |x: Option<f32>| x.map_or_else(|| "-".into(), |x| number::digits(x.into()));
        let argmax = o.argmax.map_or_else(|| "-".into(), |i| i.to_string());
        table.row([&o.name, &format!("{} {:?}", o.dtype, o.shape), &digits(o.min), &digits(o.max), &argmax, &o.file]);
    }
    format!("{table}\n{} on engine {}", number::seconds(report.seconds), report.engine)
}
