//! A small world to try everything in without downloading anything: generated pictures, a network trained on them, and
//! its quantization from end to end.
mod flow;
mod pictures;

pub use flow::{DemoReport, Variant, run};
pub use pictures::{CLASSES, Picture, SIDE, Stream, dataset, picture, preprocess, write_cifar};

/// The network, as ONNX (opset 17, batch normalisation not folded, dynamic batch), trained by `nnq train`: the command stands in docs/train.md.
/// Input `image`: N x 3 x 32 x 32, RGB, `pixel / 127.5 - 1`. Output `logits`: N x 10.
pub const MODEL: &[u8] = include_bytes!("../../assets/demo.onnx");
