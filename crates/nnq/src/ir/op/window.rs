//! Attributes of operators that slide a window: convolution and pooling.

/// ONNX `auto_pad`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AutoPad {
    /// The explicit pads.
    #[default]
    NotSet,
    /// Output = ceil(input / stride), the odd one at the end.
    SameUpper,
    /// Output = ceil(input / stride), the odd one at the beginning.
    SameLower,
    /// None.
    Valid,
}

/// Attributes of Conv. Empty lists mean the default for every spatial axis (kernel from the weight, stride 1, dilation 1, pads 0).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct ConvAttrs {
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    /// Begins of all spatial axes, then ends. Negative pads crop.
    pub pads: Vec<i64>,
    pub auto_pad: AutoPad,
    pub group: usize,
}

/// Attributes of ConvTranspose.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct ConvTransposeAttrs {
    pub conv: ConvAttrs,
    pub output_padding: Vec<usize>,
    pub output_shape: Vec<usize>,
}

/// Attributes of pooling windows. Empty lists as in [`ConvAttrs`].
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct PoolAttrs {
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub pads: Vec<i64>,
    pub auto_pad: AutoPad,
    pub ceil_mode: bool,
}

/// A window resolved against known sizes: nothing is left to default.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Window {
    pub input: Vec<usize>,
    pub output: Vec<usize>,
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    /// Pads before each spatial axis (negative crops).
    pub begin: Vec<i64>,
    /// Pads after each spatial axis as the attribute says them.
    pub end: Vec<i64>,
}

use crate::error::{Error, Result};

impl ConvAttrs {
    /// Resolves the window for spatial input sizes and the weight's spatial sizes.
    ///
    /// # Errors
    /// When lists have the wrong length, the kernel disagrees with the weight, or the window does not fit.
    pub fn resolve(&self, input: &[usize], kernel: &[usize]) -> Result<Window> {
        if !self.kernel.is_empty() && self.kernel != kernel {
            return Err(Error::shape(format!("kernel_shape {:?}, but the weight has {kernel:?}", self.kernel)));
        }
        resolve(input, kernel, &self.strides, &self.dilations, &self.pads, self.auto_pad, false)
    }
}

impl PoolAttrs {
    /// Resolves the window for spatial input sizes.
    ///
    /// # Errors
    /// As [`ConvAttrs::resolve`].
    pub fn resolve(&self, input: &[usize]) -> Result<Window> {
        resolve(input, &self.kernel, &self.strides, &self.dilations, &self.pads, self.auto_pad, self.ceil_mode)
    }
}

fn or_default<T: Clone>(list: &[T], n: usize, default: T, what: &str) -> Result<Vec<T>> {
    match list.len() {
        0 => Ok(vec![default; n]),
        m if m == n => Ok(list.to_vec()),
        m => Err(Error::shape(format!("{what} has {m} entries, expected {n}"))),
    }
}

fn resolve(
    input: &[usize],
    kernel: &[usize],
    strides: &[usize],
    dilations: &[usize],
    pads: &[i64],
    auto_pad: AutoPad,
    ceil: bool,
) -> Result<Window> {
    let n = input.len();
    if kernel.len() != n {
        return Err(Error::shape(format!("a window {kernel:?} over {n} spatial axes")));
    }
    let strides = or_default(strides, n, 1, "strides")?;
    let dilations = or_default(dilations, n, 1, "dilations")?;
    let pads = or_default(pads, 2 * n, 0, "pads")?;
    if strides.contains(&0) || dilations.contains(&0) || kernel.contains(&0) {
        return Err(Error::shape("a stride, dilation or kernel size of 0"));
    }
    let limit = 1 << 31;
    let mut w = Window {
        input: input.to_vec(),
        output: Vec::with_capacity(n),
        kernel: kernel.to_vec(),
        begin: Vec::with_capacity(n),
        end: Vec::with_capacity(n),
        strides,
        dilations,
    };
    for i in 0..n {
        let (size, k, s, d) = (input[i], kernel[i], w.strides[i], w.dilations[i]);
        if [size, k, s, d].iter().any(|&x| x > limit)
            || pads[i].unsigned_abs() > limit as u64
            || pads[n + i].unsigned_abs() > limit as u64
        {
            return Err(Error::shape(format!(
                "axis {i}: sizes beyond 2^31 (input {size}, kernel {k}, stride {s}, dilation {d})"
            )));
        }
        let (size, extent, s) = (size as i64, (d * (k - 1) + 1) as i64, s as i64);
        let (begin, end, out) = match auto_pad {
            AutoPad::NotSet => {
                let (b, e) = (pads[i], pads[n + i]);
                let room = size + b + e - extent;
                let mut out = if room < 0 {
                    0
                } else if ceil {
                    (room + s - 1) / s + 1
                } else {
                    room / s + 1
                };
                // A window that would start in the padding after the input is not counted.
                if ceil && out > 0 && (out - 1) * s >= size + b {
                    out -= 1;
                }
                (b, e, out)
            }
            AutoPad::Valid => (0, 0, if size < extent { 0 } else { (size - extent) / s + 1 }),
            AutoPad::SameUpper | AutoPad::SameLower => {
                let out = (size + s - 1) / s;
                let total = ((out - 1) * s + extent - size).max(0);
                let small = total / 2;
                if auto_pad == AutoPad::SameUpper { (small, total - small, out) } else { (total - small, small, out) }
            }
        };
        if out <= 0 && size > 0 {
            return Err(Error::shape(format!(
                "axis {i}: a window of {extent} does not fit into {size} with pads {begin} and {end}"
            )));
        }
        w.begin.push(begin);
        w.end.push(end);
        w.output.push(out.max(0) as usize);
    }
    Ok(w)
}
