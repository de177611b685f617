//! `nnq compile`.
use crate::{
    args::Compile,
    print::{self, number},
};
use nnq::{Result, engine, exec::int::Progress};
use serde::Serialize;

/// What was written.
#[derive(Serialize)]
struct Report {
    model: String,
    file: String,
    batches: Vec<u32>,
    profile: nnq::exec::lower::Profile,
    bytes: u64,
}

/// Runs the command.
pub fn run(args: &Compile) -> Result<()> {
    let profile = args.profile.into();
    let mut batches = args.batch.clone();
    batches.sort_unstable();
    batches.dedup();
    let sizes: Vec<usize> = batches.iter().map(|&b| b as usize).collect();
    let mut progress = print::Progress::new("tuning");
    let mut update = |done: usize, of: usize| {
        progress.update(done as u64, of as u64);
        Ok(())
    };
    let tune: Option<&mut Progress> = if args.tuning.tune { Some(&mut update) } else { None };
    let bytes = engine::compile(&args.model, &args.out, &sizes, profile, tune)?;
    drop(progress);
    let (model, file) = (args.model.display().to_string(), args.out.display().to_string());
    let report = Report { model, file, batches, profile, bytes };
    print::report(args.output.json, &report, |r| {
        format!(
            "{} -> {}: {}, for batches of {}, profile {}\n",
            r.model,
            r.file,
            number::bytes(r.bytes),
            r.batches.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            r.profile
        )
    })
}
