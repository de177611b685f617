//! Training, reconstruction and curvature from file to file.
mod flow;
mod hessian;
mod quantizers;
mod reconstruct;

use nnq::{
    data::Dataset,
    demo::{self, Stream},
    eval::Labelled,
    formats::onnx::Pack,
    quantize::Format,
};
use nnq_train::{output::Output, place::Place};
use std::{path::PathBuf, sync::Arc};

fn pictures(stream: Stream, count: u64) -> Labelled {
    let dataset: Dataset = demo::dataset(stream, count).unwrap();
    Labelled { dataset: Arc::new(dataset), preprocess: demo::preprocess(), classes: None }
}

/// Writes this file, on two threads, and measures nothing.
fn output(file: PathBuf) -> Output {
    let (format, pack, place) = (Format::Qdq, Pack::default(), Place::Cpu);
    Output { eval: None, format, pack, file, threads: 2, place, cancel: None }
}
