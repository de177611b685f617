//! What a quantized value looks like: the integer grid, its granularity, scale and zero point.
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// An integer grid: bit width, sign, and whether the lowest code is left out. See `docs/numerics.md` section 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct QType {
    /// 1 to 16 for values and weights; 32 for biases.
    pub bits: u8,
    /// Two's complement or unsigned.
    pub signed: bool,
    /// Leave out `-2^(bits-1)`, so that the grid is symmetric.
    pub narrow: bool,
}

impl QType {
    /// Unsigned 8 bits, the default of activations.
    pub const U8: Self = Self { bits: 8, signed: false, narrow: false };
    /// Signed 8 bits.
    pub const I8: Self = Self { bits: 8, signed: true, narrow: false };
    /// Signed 8 bits without -128, the default of weights.
    pub const I8_NARROW: Self = Self { bits: 8, signed: true, narrow: true };
    /// Biases.
    pub const I32: Self = Self { bits: 32, signed: true, narrow: false };

    /// The lowest code `n`.
    pub fn min(self) -> i32 {
        if self.signed {
            i32::try_from(-(1i64 << (self.bits - 1)) + i64::from(self.narrow)).unwrap_or(i32::MIN)
        } else {
            0
        }
    }
    /// The highest code `p`.
    pub fn max(self) -> i32 {
        let bits = if self.signed { self.bits - 1 } else { self.bits };
        i32::try_from((1i64 << bits) - 1).unwrap_or(i32::MAX)
    }
    /// Number of codes.
    pub fn levels(self) -> u64 {
        (i64::from(self.max()) - i64::from(self.min()) + 1).unsigned_abs()
    }
}

impl fmt::Display for QType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", if self.signed { 'i' } else { 'u' }, self.bits, if self.narrow { "n" } else { "" })
    }
}

/// How many scales a tensor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Granularity {
    /// One.
    Tensor,
    /// One per index of `axis`.
    Channel {
        /// The channel axis.
        axis: usize,
    },
    /// One per run of `size` consecutive indices of `axis`, for each index of every other axis.
    Block {
        /// The blocked axis.
        axis: usize,
        /// Block length; the last block may be shorter.
        size: usize,
    },
}

/// Scale and zero point(s) of a value. `real = (code - zero_point) * scale`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QParams {
    /// The grid.
    pub qtype: QType,
    /// How scales are laid over the tensor.
    pub granularity: Granularity,
    /// One scale per tensor, channel or block (blocks in row-major order of the tensor with `axis` divided by `size`).
    pub scale: Vec<f32>,
    /// As many zero points as scales.
    pub zero_point: Vec<i32>,
}

impl QParams {
    /// Per-tensor parameters.
    pub fn tensor(qtype: QType, scale: f32, zero_point: i32) -> Self {
        Self { qtype, granularity: Granularity::Tensor, scale: vec![scale], zero_point: vec![zero_point] }
    }
    /// Per-channel parameters with zero points 0.
    pub fn channel(qtype: QType, axis: usize, scale: Vec<f32>) -> Self {
        let zero_point = vec![0; scale.len()];
        Self { qtype, granularity: Granularity::Channel { axis }, scale, zero_point }
    }
    /// The scale and zero point of a per-tensor value; `None` otherwise.
    pub fn as_tensor(&self) -> Option<(f32, i32)> {
        (self.granularity == Granularity::Tensor && self.scale.len() == 1).then(|| (self.scale[0], self.zero_point[0]))
    }
    /// Checks the parameters against a shape of known or unknown (`None`) sizes.
    ///
    /// # Errors
    /// Names the rule that is broken: scale finite and positive, zero point on the grid, number of scales.
    pub fn check(&self, shape: Option<&[usize]>) -> Result<()> {
        let q = self.qtype;
        if !(1..=16).contains(&q.bits) && q.bits != 32 || q.signed && q.bits < 2 {
            return Err(Error::value(format!("{q} is no grid nnq knows")).cure("use 1 to 16 bits, signed from 2"));
        }
        if self.scale.len() != self.zero_point.len() {
            return Err(Error::value(format!("{} scales, {} zero points", self.scale.len(), self.zero_point.len())));
        }
        if let Some(s) = self.scale.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            return Err(Error::value(format!("scale {s} is not finite and positive")));
        }
        if let Some(z) = self.zero_point.iter().find(|&&z| z < q.min() || z > q.max()) {
            return Err(Error::value(format!("zero point {z} is not on the grid {q}")));
        }
        let want = match (self.granularity, shape) {
            (Granularity::Tensor, _) => Some(1),
            (_, None) => None,
            (Granularity::Channel { axis }, Some(s)) => {
                Some(*s.get(axis).ok_or_else(|| Error::shape(format!("channel axis {axis} of a shape {s:?}")))?)
            }
            (Granularity::Block { axis, size }, Some(s)) => {
                if axis >= s.len() || size == 0 {
                    return Err(Error::shape(format!("blocks of {size} along axis {axis} of a shape {s:?}")));
                }
                Some(s.iter().enumerate().map(|(i, &d)| if i == axis { d.div_ceil(size) } else { d }).product())
            }
        };
        match want {
            Some(n) if n != self.scale.len() => {
                Err(Error::shape(format!("{} scales for {:?}, expected {n}", self.scale.len(), self.granularity)))
            }
            _ => Ok(()),
        }
    }
    /// The index into `scale` and `zero_point` for the element at flat position `i` of a tensor of `shape`.
    pub fn index(&self, shape: &[usize], i: usize) -> usize {
        match self.granularity {
            Granularity::Tensor => 0,
            Granularity::Channel { axis } => {
                let inner: usize = shape[axis + 1..].iter().product();
                i / inner % shape[axis]
            }
            Granularity::Block { axis, size } => {
                let inner: usize = shape[axis + 1..].iter().product();
                let (outer, k, rest) = (i / (inner * shape[axis]), i / inner % shape[axis], i % inner);
                (outer * shape[axis].div_ceil(size) + k / size) * inner + rest
            }
        }
    }
}
