//! What is known of a value's channels before anything runs.

/// The distribution of each channel of a float value over the network's inputs: along axis 1 of a convolution's or normalisation's images, along
/// the last axis of a matrix product. A batch normalisation folded into the product before it leaves `mean = beta` and `deviation = |gamma|
/// sqrt(variance / (variance + epsilon))` here; measuring on samples gives all three. A hint for quantization: no executor reads it, no
/// exporter writes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Channels {
    /// Mean of each channel.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel, not below 0.
    pub deviation: Vec<f64>,
    /// Largest magnitude of each channel; empty where it was not measured.
    pub largest: Vec<f64>,
    /// How far from 0 the grid of least squared error of each channel reaches, for a number of bits; empty where it was not measured.
    pub fit: Vec<f64>,
}

impl Channels {
    /// Of `scale * x + shift`, channel by channel. Largest magnitude and fit do not survive a shift.
    #[must_use]
    pub fn affine(&self, scale: &[f64], shift: &[f64]) -> Self {
        let shifted = shift.iter().any(|&t| t != 0.0);
        let times = |v: &[f64]| v.iter().zip(scale).map(|(v, s)| v * s.abs()).collect::<Vec<f64>>();
        Self {
            mean: self.mean.iter().zip(scale).zip(shift).map(|((m, s), t)| m * s + t).collect(),
            deviation: times(&self.deviation),
            largest: if shifted { Vec::new() } else { times(&self.largest) },
            fit: if shifted { Vec::new() } else { times(&self.fit) },
        }
    }
}
