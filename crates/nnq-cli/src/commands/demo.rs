//! `nnq demo`.
use super::quantize;
use crate::{
    args::Demo,
    interrupt::Interrupt,
    print::{self, Side, Table, number},
};
use nnq::{
    Error, Result,
    demo::{self, DemoReport, Stream},
};
use serde::Serialize;
use std::path::Path;

/// How many pictures `--write-data` writes: those that the network was trained on, and those that its accuracy was measured on.
const TRAIN: u64 = 32_000;
const TEST: u64 = 2_000;

/// Runs the command.
pub fn run(args: &Demo, interrupt: &Interrupt) -> Result<()> {
    match &args.write_data {
        Some(folder) => write(folder, args.output.json, interrupt),
        None => {
            let threads = args.threads.threads;
            let report = quantize::with_progress(|progress| demo::run(threads, Some(interrupt.flag()), progress))?;
            print::report(args.output.json, &report, text)
        }
    }
}

fn text(report: &DemoReport) -> String {
    let intro =
        "A small network that tells ten patterns apart in 32 x 32 pictures, 2000 of them never seen before.\n\n";
    let mut table = Table::new(&[("other recipes", Side::Left), ("top 1", Side::Right), ("change", Side::Left)]);
    for v in &report.variants {
        table.row([v.name.clone(), number::percent(v.top1), quantize::change(v.difference, v.interval)]);
    }
    let next = "Next: nnq demo --write-data DIR writes model and pictures to play with, nnq quantize --help says how.";
    format!("{intro}{}\n{table}\n{next}", quantize::text(&report.outcome))
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
    for (name, bytes) in [("demo.onnx", demo::MODEL), ("demo.toml", demo::preprocess().to_toml()?.as_bytes())] {
        let file = folder.join(name);
        std::fs::write(&file, bytes).map_err(|e| Error::io(&file, e))?;
    }
    let written = Written { folder: folder.display().to_string(), train: TRAIN, test: TEST, classes: demo::CLASSES };
    print::report(json, &written, |w| {
        format!(
            "{}: data_batch_1.bin with {} pictures, test_batch.bin with {}, demo.onnx, demo.toml for --preprocess",
            w.folder, w.train, w.test
        )
    })
}
