//! `nnq demo`.
use crate::{args::Demo, interrupt::Interrupt, print};
use nnq::{
    Error, Result,
    demo::{self, Stream},
};
use serde::Serialize;
use std::path::Path;

/// How many pictures `--write-data` writes: what tools/train_demo.py reads.
const TRAIN: u64 = 32_000;
const TEST: u64 = 2_000;

/// Runs the command.
pub fn run(args: &Demo, interrupt: &Interrupt) -> Result<()> {
    match &args.write_data {
        Some(folder) => write(folder, args.output.json, interrupt),
        None => Err(Error::internal("nnq demo is not wired up yet")),
    }
}

/// What `--write-data` did.
#[derive(Serialize)]
struct Written {
    folder: String,
    train: u64,
    test: u64,
    classes: [&'static str; 10],
}

fn write(folder: &Path, json: bool, interrupt: &Interrupt) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    for (name, stream, count) in [("data_batch_1.bin", Stream::Train, TRAIN), ("test_batch.bin", Stream::Test, TEST)] {
        interrupt.check()?;
        demo::write_cifar(stream, count, &folder.join(name))?;
    }
    let model = folder.join("demo.onnx");
    std::fs::write(&model, demo::MODEL).map_err(|e| Error::io(&model, e))?;
    let written = Written { folder: folder.display().to_string(), train: TRAIN, test: TEST, classes: demo::CLASSES };
    print::report(json, &written, |w| {
        format!("{}: data_batch_1.bin with {} pictures, test_batch.bin with {}, demo.onnx", w.folder, w.train, w.test)
    })
}
