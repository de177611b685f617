//! Extremes and moments of each channel of values.
use crate::{
    error::{Error, Result},
    ir::Tensor,
};

/// What was seen of one channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Channel {
    /// Elements.
    pub count: u64,
    /// Elements that are zero.
    pub zeros: u64,
    /// The least.
    pub min: f32,
    /// The greatest.
    pub max: f32,
    sum: f64,
    squares: f64,
}

impl Default for Channel {
    fn default() -> Self {
        Self { count: 0, zeros: 0, min: f32::INFINITY, max: f32::NEG_INFINITY, sum: 0.0, squares: 0.0 }
    }
}

impl Channel {
    /// Adds elements, in order.
    pub fn add(&mut self, x: &[f32]) {
        self.count += x.len() as u64;
        for &x in x {
            self.zeros += u64::from(x == 0.0);
            self.min = self.min.min(x);
            self.max = self.max.max(x);
            self.sum += f64::from(x);
            self.squares += f64::from(x) * f64::from(x);
        }
    }
    /// The largest magnitude.
    pub fn largest(&self) -> f32 {
        if self.count == 0 { 0.0 } else { self.min.abs().max(self.max.abs()) }
    }
    /// The mean; 0 when nothing was seen.
    #[allow(clippy::cast_precision_loss)]
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }
    /// The mean of the squared distances from the mean.
    #[allow(clippy::cast_precision_loss)]
    pub fn variance(&self) -> f64 {
        if self.count == 0 { 0.0 } else { (self.squares / self.count as f64 - self.mean().powi(2)).max(0.0) }
    }
    /// All elements are equal.
    pub fn is_constant(&self) -> bool {
        self.count > 0 && self.min == self.max
    }
}

/// Adds a value of shape `[samples, channels, ...]` to the statistics of its channels. Values of one axis are one channel.
///
/// # Errors
/// When the number of channels is not that of before, or the elements are no binary32.
pub fn observe(channels: &mut Vec<Channel>, value: &Tensor) -> Result<()> {
    let shape = value.shape();
    let data = value.as_slice::<f32>()?;
    let n = if shape.len() < 2 { 1 } else { shape[1] };
    let inner: usize = shape.iter().skip(2).product();
    if channels.is_empty() {
        channels.resize(n, Channel::default());
    }
    if channels.len() != n {
        return Err(Error::shape(format!("{n} channels, {} before", channels.len())));
    }
    if shape.len() < 2 {
        channels[0].add(data);
    } else if inner > 0 {
        for (i, run) in data.chunks_exact(inner).enumerate() {
            channels[i % n].add(run);
        }
    }
    Ok(())
}

/// The largest number over the median of those that are not zero; 1 with fewer than four of them.
pub fn dominance(ranges: &[f32]) -> f64 {
    let mut some: Vec<f32> = ranges.iter().copied().filter(|r| *r > 0.0).collect();
    if some.len() < 4 {
        return 1.0;
    }
    some.sort_by(f32::total_cmp);
    f64::from(some[some.len() - 1]) / f64::from(some[some.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_by_hand() {
        let mut c = Vec::new();
        let x = Tensor::of(&[2, 2, 2], vec![1.0f32, 3.0, 0.0, 0.0, 5.0, 7.0, 0.0, 0.0]);
        observe(&mut c, &x).unwrap();
        assert_eq!((c[0].count, c[0].min, c[0].max, c[0].mean(), c[0].variance()), (4, 1.0, 7.0, 4.0, 5.0));
        assert!(c[1].is_constant() && c[1].zeros == 4 && !c[0].is_constant());
        assert!(observe(&mut c, &Tensor::of(&[1, 3], vec![0f32; 3])).is_err());
        assert_eq!(dominance(&[1.0, 2.0, 0.0, 4.0, 80.0]), 20.0);
        assert_eq!(dominance(&[1.0, 50.0]), 1.0);
    }
}
