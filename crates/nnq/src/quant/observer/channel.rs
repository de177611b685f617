//! One sketch per channel.
use super::{Observer, Sketch};
use crate::error::{Error, Result};
use crate::ir::count;
use serde::{Deserialize, Serialize};

/// A [`Sketch`] for each index of one axis, with 8 bins per octave (128 bytes per sign and octave): channels can be
/// thousands, and their extremes and means, which are exact in any resolution, are what is usually asked for.
///
/// Samples' extremes are not kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChannelSketch {
    axis: usize,
    /// Empty until the first tensor tells the number of channels.
    channels: Vec<Sketch>,
}

/// Mantissa bits of each channel's sketch.
const RESOLUTION: u8 = 3;

impl ChannelSketch {
    /// Empty statistics over the channels of `axis`.
    pub fn new(axis: usize) -> Self {
        Self { axis, channels: Vec::new() }
    }
    /// The channel axis.
    pub fn axis(&self) -> usize {
        self.axis
    }
    /// One sketch per channel; empty when nothing was seen.
    pub fn channels(&self) -> &[Sketch] {
        &self.channels
    }
    fn grow(&mut self, n: usize) -> Result<()> {
        if self.channels.is_empty() {
            self.channels = vec![Sketch::with_resolution(RESOLUTION)?; n];
        }
        if self.channels.len() != n {
            return Err(Error::shape(format!("{n} channels, {} before", self.channels.len())));
        }
        Ok(())
    }
}

impl Observer for ChannelSketch {
    fn observe(&mut self, _sample: u64, shape: &[usize], data: &[f32]) -> Result<()> {
        let Some(&n) = shape.get(self.axis) else {
            return Err(Error::shape(format!("channel axis {} of a shape {shape:?}", self.axis)));
        };
        if count(shape)? != data.len() {
            return Err(Error::shape(format!("shape {shape:?} and {} elements", data.len())));
        }
        if data.is_empty() {
            return Ok(());
        }
        self.grow(n)?;
        let inner: usize = shape[self.axis + 1..].iter().product();
        // A channel's elements in pieces that are worth a call.
        let mut gathered = Vec::new();
        for (c, sketch) in self.channels.iter_mut().enumerate() {
            gathered.clear();
            for row in data.chunks_exact(n * inner) {
                gathered.extend_from_slice(&row[c * inner..(c + 1) * inner]);
            }
            sketch.observe(&gathered)?;
        }
        Ok(())
    }
    fn merge(&mut self, other: &Self) -> Result<()> {
        if self.axis != other.axis {
            return Err(Error::shape(format!("channel axes {} and {}", self.axis, other.axis)));
        }
        if other.channels.is_empty() {
            return Ok(());
        }
        let mut merged = self.clone();
        merged.grow(other.channels.len())?;
        for (a, b) in merged.channels.iter_mut().zip(&other.channels) {
            a.merge(b)?;
        }
        *self = merged;
        Ok(())
    }
}
