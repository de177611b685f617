//! What unit tests share.
use crate::backend::{self, Device};
use burn::backend::{Flex, flex::FlexTensor};

/// Some numbers from -1 to 1 without a pattern.
pub fn noise(n: usize, seed: u64) -> Vec<f32> {
    (0..n as u64).map(|i| (nnq::data::mix(seed, i) >> 40) as f32 / (1 << 24) as f32 * 2.0 - 1.0).collect()
}

/// A tensor on the processor.
pub fn tensor(numbers: Vec<f32>, shape: &[usize]) -> FlexTensor {
    backend::tensor::<Flex>(numbers, shape, &Device::<Flex>::default())
}

/// The numbers of a tensor.
pub fn numbers(x: FlexTensor) -> Vec<f32> {
    backend::numbers::<Flex>(x).unwrap()
}
