//! Extremes and moments of each channel of values.
use crate::{
    error::{Error, Result},
    ir::{Dim, Op, Shape, Tensor},
    quant::expect::channel_axis,
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

/// Which axis of a value with samples first holds channels. `maker`: the product with constant weights or the normalisation that makes it, which says so. Else the second of images and
/// rows, the last of tokens `[N, T, C]`, whose number is open. `None`: there are no channels, or nothing is known of them.
pub fn axis(maker: Option<&Op>, shape: Option<&Shape>) -> Option<usize> {
    let dims = &shape?.0;
    if let Some(op) = maker {
        return Some(channel_axis(op, dims.len()));
    }
    let fixed = |axis: &usize| matches!(dims.get(*axis), Some(Dim::Fixed(_)));
    [1, dims.len().checked_sub(1)?].into_iter().filter(|&axis| axis > 0).find(fixed)
}

/// Adds a value, samples first, to the statistics of the channels along an axis, or of all its elements.
///
/// # Errors
/// When the number of channels is not that of before, or the elements are no binary32.
pub fn observe(channels: &mut Vec<Channel>, value: &Tensor, axis: Option<usize>) -> Result<()> {
    let shape = value.shape();
    let data = value.as_slice::<f32>()?;
    let axis = axis.filter(|&axis| axis < shape.len());
    let n = axis.map_or(1, |axis| shape[axis]);
    let inner: usize = axis.map_or(data.len(), |axis| shape[axis + 1..].iter().product());
    if channels.is_empty() {
        channels.resize(n, Channel::default());
    }
    if channels.len() != n {
        return Err(Error::shape(format!("{n} channels, {} before", channels.len())));
    }
    if inner > 0 {
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
    fn tokens_have_channels_last() {
        let of = |text: &str| axis(None, Some(&text.parse::<Shape>().unwrap()));
        assert_eq!([of("N, 64, 7, 7"), of("N, 10"), of("N, T, 384"), of("N, 12, T, T")], [1, 1, 2, 1].map(Some));
        assert_eq!([of("N, T"), of("N"), of("N, T, T"), axis(None, None)], [None; 4]);
        // Where the number of tokens is fixed the operator says which it is.
        let made = |op: &Op| axis(Some(op), Some(&"N, 128, 384".parse::<Shape>().unwrap()));
        let norm = Op::LayerNormalization { axis: -1, epsilon: 1e-5 };
        let conv = Op::Conv(crate::ir::op::ConvAttrs::default());
        assert_eq!([made(&Op::MatMul), made(&norm), made(&conv)], [2, 2, 1].map(Some));
    }

    #[test]
    fn channels_by_hand() {
        let mut c = Vec::new();
        let x = Tensor::of(&[2, 2, 2], vec![1.0f32, 3.0, 0.0, 0.0, 5.0, 7.0, 0.0, 0.0]);
        observe(&mut c, &x, Some(1)).unwrap();
        assert_eq!((c[0].count, c[0].min, c[0].max, c[0].mean(), c[0].variance()), (4, 1.0, 7.0, 4.0, 5.0));
        assert!(c[1].is_constant() && c[1].zeros == 4 && !c[0].is_constant());
        assert!(observe(&mut c, &Tensor::of(&[1, 3], vec![0f32; 3]), Some(1)).is_err());
        // Of tokens: the same numbers along the last axis, and all together.
        let mut c = Vec::new();
        observe(&mut c, &x, Some(2)).unwrap();
        assert_eq!(c.iter().map(|c| (c.count, c.max)).collect::<Vec<_>>(), [(4, 5.0), (4, 7.0)]);
        let mut c = Vec::new();
        observe(&mut c, &x, None).unwrap();
        assert_eq!((c.len(), c[0].count, c[0].mean()), (1, 8, 2.0));
        assert_eq!(dominance(&[1.0, 2.0, 0.0, 4.0, 80.0]), 20.0);
        assert_eq!(dominance(&[1.0, 50.0]), 1.0);
    }
}
