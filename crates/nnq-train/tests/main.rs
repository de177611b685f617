//! Training and reconstruction from file to file.
mod flow;
mod reconstruct;

use nnq::{
    data::Dataset,
    demo::{self, Stream},
    eval::Labelled,
};
use std::sync::Arc;

fn pictures(stream: Stream, count: u64) -> Labelled {
    let dataset: Dataset = demo::dataset(stream, count).unwrap();
    Labelled { dataset: Arc::new(dataset), preprocess: demo::preprocess(), classes: None }
}
