//! One file per command: arguments into a call of the library, its report into a table or JSON.
mod analyze;
mod bench;
mod calibrate;
mod compile;
mod demo;
mod eval;
mod explain;
#[cfg(not(feature = "train"))]
#[path = "no_hessian.rs"]
mod hessian;
#[cfg(feature = "train")]
mod hessian;
mod inspect;
#[cfg(feature = "train")]
mod learning;
mod quantize;
#[cfg(feature = "train")]
mod reconstruct;
mod run;
#[cfg(not(feature = "train"))]
#[path = "no_train.rs"]
mod train;
#[cfg(feature = "train")]
mod train;
mod zoo;

use crate::{
    args::{Command, Reading, Texts, Threads, Tuning},
    interrupt::Interrupt,
    print::Progress,
};
use nnq::{
    Result,
    data::{self, Dataset, Preprocess},
    engine::{Engine, Kind},
    eval::Labelled,
    exec::lower::Profile,
    text::{self, Tokenizer},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Runs a command.
///
/// # Errors
/// Whatever the library answers.
pub fn run(command: &Command) -> Result<()> {
    #[cfg(feature = "train")]
    if matches!(command, Command::Train(_) | Command::Reconstruct(_)) {
        // Each step takes and gives back the same large tensors. First of all: what follows begins a thread.
        nnq_train::keep_freed();
    }
    // Commands that do not look at the flag leave signals as the system has them.
    let interrupt = match command {
        Command::Inspect(_) | Command::Compile(_) | Command::Run(_) | Command::Zoo(_) | Command::Explain(_) => {
            Interrupt::default()
        }
        _ => Interrupt::listen(),
    };
    let interrupt = &interrupt;
    match command {
        Command::Demo(args) => demo::run(args, interrupt),
        Command::Inspect(args) => inspect::run(args),
        Command::Calibrate(args) => calibrate::run(args, interrupt),
        Command::Quantize(args) => quantize::run(args, interrupt),
        #[cfg(feature = "train")]
        Command::Train(args) => train::run(args, interrupt),
        #[cfg(feature = "train")]
        Command::Reconstruct(args) => reconstruct::run(args, interrupt),
        #[cfg(not(feature = "train"))]
        Command::Train(args) | Command::Reconstruct(args) => train::run(args),
        Command::Analyze(args) => analyze::run(args, interrupt),
        Command::Eval(args) => eval::run(args, interrupt),
        Command::Compile(args) => compile::run(args),
        Command::Run(args) => run::run(args, interrupt),
        Command::Bench(args) => bench::run(args, interrupt),
        Command::Zoo(args) => zoo::run(args),
        Command::Explain(args) => explain::run(args),
    }
}

/// Reads a model and makes it ready to run; without a kind, on the engine that suits it.
fn open(path: &Path, kind: Option<Kind>, profile: Profile, threads: Threads) -> Result<Engine> {
    Engine::open_file(path, kind, profile, threads.threads)
}

/// Tunes an engine for batches of `samples`, where that is wanted.
fn tune(engine: &mut Engine, tuning: Tuning, samples: usize, interrupt: &Interrupt) -> Result<()> {
    if !tuning.tune {
        return Ok(());
    }
    let mut progress = Progress::new("tuning");
    let batch = engine.batch(samples);
    engine.tune(batch, &mut |done, of| {
        progress.update(done as u64, of as u64);
        interrupt.check()
    })
}

/// Opens labelled data for training.
#[cfg(feature = "train")]
fn training(path: &Path, reading: &Reading) -> Result<Labelled> {
    let data = labelled_by(path, reading, &data::Options::calibration())?;
    if !data.dataset.has_labels() {
        let cause = "the training data has no labels";
        return Err(nnq::Error::usage(cause).at(path.display()).cure("use one sub-folder per class, or add labels"));
    }
    Ok(data)
}

/// Opens labelled data for evaluation. Without `--preprocess`, values are taken as stored.
fn labelled(path: &Path, reading: &Reading) -> Result<Labelled> {
    labelled_by(path, reading, &data::Options::evaluation())
}

/// The tokenizer of texts, where there is one.
fn tokenizer(texts: &Texts) -> Result<Option<Tokenizer>> {
    let open = |path: &PathBuf| Ok(Tokenizer::open(path)?.limited(texts.length.map(|n| n as usize)));
    texts.tokenizer.as_ref().map(open).transpose()
}

/// Opens texts with their classes.
fn labelled_texts(path: &Path, tokenizer: &Tokenizer) -> Result<Labelled> {
    let dataset = Arc::new(text::open(path, tokenizer)?);
    Ok(Labelled { dataset, preprocess: Preprocess::raw(), classes: None })
}

/// Opens labelled data, texts where there is a tokenizer.
fn labelled_of(path: Option<&Path>, texts: &Texts, reading: &Reading) -> Result<Option<Labelled>> {
    let Some(path) = path else { return Ok(None) };
    match tokenizer(texts)? {
        Some(tokenizer) => labelled_texts(path, &tokenizer).map(Some),
        None => labelled(path, reading).map(Some),
    }
}

fn labelled_by(path: &Path, reading: &Reading, options: &data::Options) -> Result<Labelled> {
    Ok(Labelled {
        dataset: Arc::new(Dataset::open(path, options)?),
        preprocess: reading.preprocess.as_deref().map_or_else(|| Ok(Preprocess::raw()), Preprocess::from_arg)?,
        classes: reading.classes.as_deref().map(data::read_classes).transpose()?,
    })
}
