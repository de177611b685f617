//! Well-known networks as graphs, with random weights: for measuring speed, memory and the cost of every step without a
//! download. They classify nothing.
//!
//! A network is a row of [`ARCHITECTURES`] and a function in the file of its family. Weights depend on the seed and on nothing
//! else. Batch normalisation stays as nodes with statistics of its own, as an exporter writes it.
mod mobilenet_v2;
mod net;
mod resnet;

use crate::{
    error::{At, Error, Result},
    ir::Graph,
};
use net::{Net, Signal};
use serde::Serialize;

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

/// Input of the ImageNet networks.
const IMAGENET: [usize; 3] = [3, 224, 224];

/// Input of the CIFAR networks.
const CIFAR: [usize; 3] = [3, 32, 32];

/// Every network. Layout and published counts are those of torchvision; those for CIFAR are the paper's, with 1x1 convolutions where a shortcut changes
/// size.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "resnet18",
        input: IMAGENET,
        classes: 1000,
        parameters: 11_689_512,
        giga_macs: 1.814,
        paper: resnet::PAPER,
        body: resnet::resnet18,
    },
    Architecture {
        name: "resnet34",
        input: IMAGENET,
        classes: 1000,
        parameters: 21_797_672,
        giga_macs: 3.664,
        paper: resnet::PAPER,
        body: resnet::resnet34,
    },
    Architecture {
        name: "resnet50",
        input: IMAGENET,
        classes: 1000,
        parameters: 25_557_032,
        giga_macs: 4.089,
        paper: resnet::PAPER,
        body: resnet::resnet50,
    },
    Architecture {
        name: "mobilenetv2",
        input: IMAGENET,
        classes: 1000,
        parameters: 3_504_872,
        giga_macs: 0.301,
        paper: mobilenet_v2::PAPER,
        body: mobilenet_v2::mobilenet_v2,
    },
    Architecture {
        name: "resnet8",
        input: CIFAR,
        classes: 10,
        parameters: 78_042,
        giga_macs: 0.013,
        paper: resnet::PAPER,
        body: resnet::resnet8,
    },
    Architecture {
        name: "resnet20",
        input: CIFAR,
        classes: 10,
        parameters: 272_474,
        giga_macs: 0.041,
        paper: resnet::PAPER,
        body: resnet::resnet20,
    },
    Architecture {
        name: "resnet32",
        input: CIFAR,
        classes: 10,
        parameters: 466_906,
        giga_macs: 0.069,
        paper: resnet::PAPER,
        body: resnet::resnet32,
    },
    Architecture {
        name: "resnet44",
        input: CIFAR,
        classes: 10,
        parameters: 661_338,
        giga_macs: 0.097,
        paper: resnet::PAPER,
        body: resnet::resnet44,
    },
    Architecture {
        name: "resnet56",
        input: CIFAR,
        classes: 10,
        parameters: 855_770,
        giga_macs: 0.126,
        paper: resnet::PAPER,
        body: resnet::resnet56,
    },
];

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
