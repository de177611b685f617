//! What happens to accumulators, and where outputs go.
use super::pack::Panels;
use crate::{
    round::{
        Dyadic,
        vector::{Kind, Prepared},
    },
    wide::{Target, Width},
};

/// What happens to an accumulator.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// Bias of each output channel at the accumulator's scale. The kernel corrects for the zero points
    /// itself: `acc = sum (qx - zx) * (qw - zw) + bias`.
    pub bias: &'a [i32],
    /// Zero point of the weights of each output channel; `None`: all 0.
    pub w_zero: Option<&'a [i32]>,
    /// How the accumulator becomes an output.
    pub requant: Requant<'a>,
    /// Zero point of the output.
    pub zero: u8,
    /// Smallest output code.
    pub lo: u8,
    /// Largest output code.
    pub hi: u8,
}

/// Requantization of each output channel.
#[derive(Clone, Copy, Debug)]
pub enum Requant<'a> {
    /// [`crate::round::requantize_onnx`] with these factors, to [`Out::U8`].
    Onnx(&'a [f32]),
    /// [`crate::round::requantize_dyadic`], to [`Out::U8`].
    Dyadic {
        /// Multipliers.
        mult: &'a [i32],
        /// Shifts.
        shift: &'a [u8],
    },
    /// `f32(acc) * scale`, to [`Out::F32`].
    Real(&'a [f32]),
    /// [`crate::round::dynamic_real`], to [`Out::F32`]: the scale of the inputs, and so their zero point, are known as late as the inputs.
    Dynamic {
        /// Scale of the inputs.
        x_scale: f32,
        /// Scale of the weights of each output channel.
        scale: &'a [f32],
        /// Bias of each output channel, real.
        bias: &'a [f32],
    },
    /// The accumulator itself, to [`Out::I32`].
    None,
    /// As [`crate::wide::Rescale`], to [`Out::I16`], of accumulators that are near ([`crate::wide::are_near`]). Limits and zero point are these, those of the [`Epilogue`] do not count.
    Words {
        /// Multipliers, of either sign.
        mult: &'a [i32],
        /// Shifts.
        shift: &'a [u8],
        /// Zero point and limits of the codes.
        to: Target,
    },
}

/// The grid of inputs that was found as they came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Live {
    /// Their scale.
    pub scale: f32,
    /// Their zero point.
    pub zero: u8,
}

/// Where the outputs go: those of the first pixel of `rows` first.
#[derive(Debug)]
pub enum Out<'a> {
    /// Codes.
    U8 {
        /// `(pixels - 1) * pitch + c_out` bytes or more. Bytes between pixels are left alone.
        data: &'a mut [u8],
        /// Bytes from one pixel to the next, at least `c_out`. More than that writes a part of the
        /// channels of a wider tensor.
        pitch: usize,
    },
    /// Real numbers, `c_out` for each pixel.
    F32(&'a mut [f32]),
    /// Accumulators, `c_out` for each pixel.
    I32(&'a mut [i32]),
    /// Codes of 16 bits, `c_out` for each pixel.
    I16(&'a mut [i16]),
}

/// Outputs by address: output pixel `p` (counted from the first of the batch), channel `c` lies
/// `p * pitch + c` elements behind it, with a pitch of `c_out` where there is none.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OutPtr {
    U8 { data: *mut u8, pitch: usize },
    F32(*mut f32),
    I32(*mut i32),
    I16(*mut i16),
}

// SAFETY: the addresses of an output are used only within a call that vouches for them.
unsafe impl Send for OutPtr {}
// SAFETY: as above.
unsafe impl Sync for OutPtr {}

impl Out<'_> {
    /// The address of pixel 0, where the slice begins with pixel `first`. It may lie outside the slice.
    pub(crate) fn address(self, first: usize, c_out: usize) -> OutPtr {
        match self {
            Out::U8 { data, pitch } => OutPtr::U8 { data: data.as_mut_ptr().wrapping_sub(first * pitch), pitch },
            Out::F32(data) => OutPtr::F32(data.as_mut_ptr().wrapping_sub(first * c_out)),
            Out::I32(data) => OutPtr::I32(data.as_mut_ptr().wrapping_sub(first * c_out)),
            Out::I16(data) => OutPtr::I16(data.as_mut_ptr().wrapping_sub(first * c_out)),
        }
    }
}

impl OutPtr {
    /// The slice of `pixels` outputs from pixel `first` on.
    ///
    /// # Safety
    /// The outputs are writable and nobody else uses them, or the bytes between them, for `'a`.
    pub(crate) unsafe fn slice<'a>(self, first: usize, pixels: usize, c_out: usize) -> Out<'a> {
        let len = |pitch: usize| if pixels == 0 { 0 } else { (pixels - 1) * pitch + c_out };
        // SAFETY: the caller's.
        unsafe {
            match self {
                OutPtr::U8 { data, pitch } => {
                    let data = std::slice::from_raw_parts_mut(data.wrapping_add(first * pitch), len(pitch));
                    Out::U8 { data, pitch }
                }
                OutPtr::F32(data) => {
                    Out::F32(std::slice::from_raw_parts_mut(data.wrapping_add(first * c_out), len(c_out)))
                }
                OutPtr::I32(data) => {
                    Out::I32(std::slice::from_raw_parts_mut(data.wrapping_add(first * c_out), len(c_out)))
                }
                OutPtr::I16(data) => {
                    Out::I16(std::slice::from_raw_parts_mut(data.wrapping_add(first * c_out), len(c_out)))
                }
            }
        }
    }
}

/// The kind of output that a requantization makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Codes,
    Real,
    /// Real numbers, of inputs whose grid may be known as late as they are.
    Dynamic,
    Sums,
    Words,
}

impl Form {
    /// Whether `out` is of this kind.
    pub(crate) fn makes(self, out: OutPtr) -> bool {
        matches!(
            (self, out),
            (Form::Codes, OutPtr::U8 { .. })
                | (Form::Real | Form::Dynamic, OutPtr::F32(_))
                | (Form::Sums, OutPtr::I32(_))
                | (Form::Words, OutPtr::I16(_))
        )
    }

    /// Panics when `out` is of another kind, or holds less than `pixels` of `c_out` outputs.
    pub(crate) fn check(self, c_out: usize, pixels: usize, out: &Out) {
        let (have, need) = match (self, out) {
            (Form::Codes, Out::U8 { data, pitch }) => {
                assert!(*pitch >= c_out, "a pitch of {pitch} for {c_out} output channels");
                (data.len(), pixels.saturating_sub(1) * pitch + c_out)
            }
            (Form::Real | Form::Dynamic, Out::F32(data)) => (data.len(), pixels * c_out),
            (Form::Sums, Out::I32(data)) => (data.len(), pixels * c_out),
            (Form::Words, Out::I16(data)) => (data.len(), pixels * c_out),
            _ => panic!(
                "the requantization does not fit the kind of output: codes need Onnx or Dyadic, f32 Real or Dynamic, i32 None, i16 Words"
            ),
        };
        assert!(have >= need || pixels == 0, "the output holds {have} values, {need} are needed");
    }
}

impl Epilogue<'_> {
    pub(crate) fn form(&self) -> Form {
        match self.requant {
            Requant::Onnx(_) | Requant::Dyadic { .. } => Form::Codes,
            Requant::Real(_) => Form::Real,
            Requant::Dynamic { .. } => Form::Dynamic,
            Requant::None => Form::Sums,
            Requant::Words { .. } => Form::Words,
        }
    }

    /// Panics when a slice does not fit `c_out` channels.
    pub(crate) fn check_channels(&self, c_out: usize) {
        let per_channel = |what: &str, len: usize| {
            assert!(len == c_out, "{what}: {len} values for {c_out} output channels");
        };
        per_channel("bias", self.bias.len());
        if let Some(w_zero) = self.w_zero {
            per_channel("w_zero", w_zero.len());
        }
        match self.requant {
            Requant::Onnx(m) => per_channel("factors", m.len()),
            Requant::Dyadic { mult, shift } | Requant::Words { mult, shift, .. } => {
                per_channel("multipliers", mult.len());
                per_channel("shifts", shift.len());
            }
            Requant::Real(scale) => per_channel("scales", scale.len()),
            Requant::Dynamic { scale, bias, .. } => {
                per_channel("scales", scale.len());
                per_channel("real biases", bias.len());
            }
            Requant::None => {}
        }
        if let Requant::Words { shift, to, .. } = self.requant {
            let valid = to.is_valid() && to.width == Width::Word && shift.iter().all(|s| (1..=62).contains(s));
            assert!(valid, "words by shifts of {shift:?} to {to:?}");
        }
        assert!(self.lo <= self.hi, "codes from {} to {}: empty range", self.lo, self.hi);
    }

    /// Lays the multipliers out for vectors: lane `i` gets those of channel `lanes[i]`.
    pub(crate) fn prepare(
        &self,
        prepared: &mut Prepared,
        scale: &mut Vec<f32>,
        lanes: impl Iterator<Item = Option<usize>> + Clone,
    ) {
        prepared.limits(self.zero, self.lo, self.hi);
        match self.requant {
            Requant::Onnx(m) => prepared.set_onnx(lanes.map(|c| c.map_or(0.0, |c| m[c]))),
            Requant::Dyadic { mult, shift } => {
                prepared.set_dyadic(
                    lanes.map(|c| Dyadic { mult: c.map_or(0, |c| mult[c]), shift: c.map_or(1, |c| shift[c]) }),
                );
            }
            Requant::Real(s) => {
                scale.clear();
                scale.extend(lanes.map(|c| c.map_or(0.0, |c| s[c])));
            }
            Requant::Dynamic { x_scale, scale: s, .. } => {
                scale.clear();
                scale.extend(lanes.map(|c| c.map_or(0.0, |c| x_scale * s[c])));
            }
            Requant::None | Requant::Words { .. } => {}
        }
    }
}

/// An [`Epilogue`] of its own.
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    bias: Vec<i32>,
    w_zero: Option<Vec<i32>>,
    factor: Vec<f32>,
    real_bias: Vec<f32>,
    mult: Vec<i32>,
    shift: Vec<u8>,
    kind: OwnedKind,
    zero: u8,
    lo: u8,
    hi: u8,
}

/// Which fields of [`Owned`] count.
#[derive(Clone, Copy, Debug)]
enum OwnedKind {
    Onnx,
    Dyadic,
    Real,
    Dynamic { x_scale: f32 },
    None,
    Words { to: Target },
}

impl Owned {
    pub(crate) fn new(epi: &Epilogue) -> Owned {
        let (factor, mult, shift, kind): (&[f32], &[i32], &[u8], _) = match epi.requant {
            Requant::Onnx(m) => (m, &[], &[], OwnedKind::Onnx),
            Requant::Dyadic { mult, shift } => (&[], mult, shift, OwnedKind::Dyadic),
            Requant::Real(s) => (s, &[], &[], OwnedKind::Real),
            Requant::Dynamic { x_scale, scale, .. } => (scale, &[], &[], OwnedKind::Dynamic { x_scale }),
            Requant::None => (&[], &[], &[], OwnedKind::None),
            Requant::Words { mult, shift, to } => (&[], mult, shift, OwnedKind::Words { to }),
        };
        let real_bias = if let Requant::Dynamic { bias, .. } = epi.requant { bias } else { &[] };
        Owned {
            bias: epi.bias.to_vec(),
            w_zero: epi.w_zero.map(<[i32]>::to_vec),
            factor: factor.to_vec(),
            real_bias: real_bias.to_vec(),
            mult: mult.to_vec(),
            shift: shift.to_vec(),
            kind,
            zero: epi.zero,
            lo: epi.lo,
            hi: epi.hi,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let zeros = self.w_zero.as_ref().map_or(0, Vec::len);
        let words = self.bias.len() + zeros + self.factor.len() + self.real_bias.len() + self.mult.len();
        size_of::<Owned>() + words * size_of::<i32>() + self.shift.len()
    }

    /// The same for inputs of this grid, where it is known that late.
    pub(crate) fn live(&self, live: Option<Live>) -> Epilogue<'_> {
        let mut epi = self.borrow();
        if let (Requant::Dynamic { x_scale, .. }, Some(live)) = (&mut epi.requant, live) {
            *x_scale = live.scale;
        }
        epi
    }

    pub(crate) fn borrow(&self) -> Epilogue<'_> {
        Epilogue {
            bias: &self.bias,
            w_zero: self.w_zero.as_deref(),
            requant: match self.kind {
                OwnedKind::Onnx => Requant::Onnx(&self.factor),
                OwnedKind::Dyadic => Requant::Dyadic { mult: &self.mult, shift: &self.shift },
                OwnedKind::Real => Requant::Real(&self.factor),
                OwnedKind::Dynamic { x_scale } => {
                    Requant::Dynamic { x_scale, scale: &self.factor, bias: &self.real_bias }
                }
                OwnedKind::None => Requant::None,
                OwnedKind::Words { to } => Requant::Words { mult: &self.mult, shift: &self.shift, to },
            },
            zero: self.zero,
            lo: self.lo,
            hi: self.hi,
        }
    }
}

/// Values of 16 columns, one line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Columns([i32; 16]);

/// [`Requant::Words`], by column.
#[derive(Clone, Debug)]
pub(super) struct Words {
    pub(super) mult: Vec<i32>,
    pub(super) shift: Vec<u8>,
    pub(super) to: Target,
}

/// An epilogue laid out for the columns of some panels.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ready {
    pub(super) prepared: Prepared,
    pub(super) scale: Vec<f32>,
    /// What is added to real numbers, where anything is.
    pub(super) real_bias: Vec<f32>,
    /// What accumulators start from: the bias, corrected for the zero point of the inputs.
    start: Vec<Columns>,
    /// Bias, sum of the weights and scale of the weights of each column, where the grid of the inputs is known as late as they are.
    bias: Vec<Columns>,
    sums: Vec<Columns>,
    w_scale: Vec<f32>,
    /// Of a matrix, the sums of the weights less their zero points, where these have any.
    centred: Vec<Columns>,
    /// What makes words.
    pub(super) words: Option<Words>,
    /// Zero point of the weights of each column.
    pub(super) w_zero: Option<Vec<i32>>,
}

impl Ready {
    pub(super) fn new(epi: &Epilogue, panels: &Panels, x_zero: u8) -> Ready {
        let (mut prepared, mut scale) = (Prepared::default(), Vec::new());
        // Gone through many times.
        let columns: Vec<Option<usize>> = panels.columns().collect();
        let columns = || columns.iter().copied();
        epi.prepare(&mut prepared, &mut scale, columns());
        let (mut real_bias, mut bias, mut sums, mut w_scale) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut centred = Vec::new();
        let spread = |of: &dyn Fn(usize) -> i32| {
            let mut all = vec![Columns([0; 16]); columns().len().div_ceil(16)];
            for (column, channel) in columns().enumerate() {
                all[column / 16].0[column % 16] = channel.map_or(0, of);
            }
            all
        };
        if let Requant::Dynamic { bias: real, scale: weights, .. } = epi.requant {
            w_scale.extend(columns().map(|c| c.map_or(0.0, |c| weights[c])));
            real_bias.extend(columns().map(|c| c.map_or(0.0, |c| real[c])));
            (bias, sums) = (spread(&|c| epi.bias[c]), spread(&|c| panels.sums[c]));
            if let Some(zeros) = epi.w_zero {
                let depth = panels.c_in as i32;
                centred = spread(&|c| panels.sums[c].wrapping_sub(zeros[c].wrapping_mul(depth)));
            }
        }
        let start = spread(&|c| epi.bias[c].wrapping_sub(panels.sums[c].wrapping_mul(x_zero.into())));
        let words = match epi.requant {
            Requant::Words { mult, shift, to } => Some(Words {
                mult: columns().map(|c| c.map_or(0, |c| mult[c])).collect(),
                shift: columns().map(|c| c.map_or(33, |c| shift[c])).collect(),
                to,
            }),
            _ => None,
        };
        let w_zero = epi.w_zero.map(|zeros| columns().map(|c| c.map_or(0, |c| zeros[c])).collect());
        Ready { prepared, scale, real_bias, start, bias, sums, w_scale, centred, words, w_zero }
    }

    /// Becomes `from` with inputs of the grid `live`. Allocates only to grow.
    pub(super) fn set(&mut self, from: &Ready, live: Live) -> &Ready {
        self.prepared.clone_from(&from.prepared);
        self.real_bias.clone_from(&from.real_bias);
        self.w_zero.clone_from(&from.w_zero);
        self.scale.clear();
        self.scale.extend(from.w_scale.iter().map(|w_scale| live.scale * w_scale));
        let zero = i32::from(live.zero);
        let start = |(bias, sum): (&Columns, &Columns)| {
            Columns(std::array::from_fn(|i| bias.0[i].wrapping_sub(sum.0[i].wrapping_mul(zero))))
        };
        self.start.clear();
        self.start.extend(from.bias.iter().zip(&from.sums).map(start));
        self
    }

    /// What the accumulators of a panel start from: a panel's width of values at a multiple of 64 bytes.
    #[inline(always)]
    pub(super) fn start(&self, column: usize) -> *const i32 {
        debug_assert!(column.is_multiple_of(16));
        self.start[column / 16].0.as_ptr()
    }

    /// The sums of the weights of a panel's columns, less their zero points, and their scales; for [`Requant::Dynamic`].
    #[inline(always)]
    pub(super) fn by_row(&self, column: usize) -> (*const i32, &[f32]) {
        let sums = if self.centred.is_empty() { &self.sums } else { &self.centred };
        (sums[column / 16].0.as_ptr(), &self.w_scale[column..])
    }

    pub(super) fn kind(&self) -> Kind {
        self.prepared.kind()
    }

    pub(super) fn bytes(&self) -> usize {
        let words = self.scale.len()
            + self.real_bias.len()
            + (self.start.len() + self.bias.len() + self.sums.len() + self.centred.len()) * 16;
        let words = words + self.w_scale.len() + self.w_zero.as_ref().map_or(0, Vec::len);
        let factors = self.words.as_ref().map_or(0, |w| w.mult.len() * size_of::<i32>() + w.shift.len());
        self.prepared.bytes() + words * size_of::<i32>() + factors
    }
}
