//! Well-known networks as graphs, with random weights: for measuring speed, memory and the cost of every step without a
//! download, and to be trained. As they are they classify nothing.
//!
//! A network is a row of [`ARCHITECTURES`] (`list.rs`) and a function in the file of its family. Weights depend on the seed and on nothing
//! else. Batch normalisation stays as nodes with statistics of its own, as an exporter writes it.
mod demo;
mod inception;
mod list;
mod mobilenet_v1;
mod mobilenet_v2;
mod mobilenet_v3;
mod net;
mod plain;
mod resnet;
mod shufflenet;
mod squeezenet;
mod weights;

use crate::{
    error::{At, Error, Result},
    formats::weights as files,
    ir::Graph,
};
pub use list::ARCHITECTURES;
use net::{Net, Signal};
use serde::Serialize;
use std::path::PathBuf;

/// A network that can be built.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Architecture {
    /// What [`build`] and `nnq zoo` call it.
    pub name: &'static str,
    /// Channels, height and width of the input; the batch is free.
    pub input: [usize; 3],
    /// Outputs.
    pub classes: usize,
    /// Trainable numbers as published: without the running statistics of batch normalisation.
    pub parameters: u64,
    /// Billions of multiply-accumulates of one image as published.
    pub giga_macs: f64,
    /// The paper.
    pub paper: &'static str,
    /// From the input to the logits.
    #[serde(skip)]
    body: fn(&mut Net, Signal, usize) -> Signal,
}

/// The network called `name`.
///
/// # Errors
/// When there is none; lists those that there are.
pub fn find(name: &str) -> Result<&'static Architecture> {
    ARCHITECTURES.iter().find(|a| a.name == name).ok_or_else(|| {
        let names: Vec<&str> = ARCHITECTURES.iter().map(|a| a.name).collect();
        Error::usage(format!("no network is called '{name}'")).cure(format!("use one of {}", names.join(", ")))
    })
}

/// Builds a network: input `image` (N x C x H x W), output `logits` (N x classes). Equal seeds give equal bytes.
///
/// # Errors
/// When the graph breaks a rule of the IR, which would be a defect of this module.
pub fn build(architecture: &Architecture, seed: u64) -> Result<Graph> {
    let mut net = Net::new(architecture.name, seed);
    let image = net.input(architecture.input);
    let logits = (architecture.body)(&mut net, image, architecture.classes);
    net.finish(logits).at(|| architecture.name)
}

/// A network, and what to begin with.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// As [`find`] knows it.
    pub name: String,
    /// Outputs, where they are not the architecture's.
    pub outputs: Option<usize>,
    /// A file of weights ([`files::read`]) with torchvision's names. Where `outputs` is said, a last layer of another size stays random.
    pub weights: Option<PathBuf>,
    /// Of random weights.
    pub seed: u64,
}

/// Builds what is wanted; and what one should know about it.
///
/// # Errors
/// As [`find`] and [`files::read`]; names weights that lack, are left over, have another shape or are no numbers.
pub fn assemble(wanted: &Wanted) -> Result<(Graph, Vec<String>)> {
    let mut architecture = *find(&wanted.name)?;
    if let Some(outputs) = wanted.outputs {
        if !(1..=1_000_000).contains(&outputs) {
            return Err(Error::usage(format!("{outputs} outputs")).cure("say 1 to 1,000,000"));
        }
        architecture.classes = outputs;
    }
    let mut graph = build(&architecture, wanted.seed)?;
    let Some(path) = &wanted.weights else { return Ok((graph, Vec::new())) };
    let notes = files::read(path)
        .and_then(|found| weights::put(&mut graph, found, wanted.outputs.is_some()).at(|| path.display()));
    Ok((graph, notes?))
}
