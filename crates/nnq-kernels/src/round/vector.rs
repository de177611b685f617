//! The requantization formulas on vectors: the same bits as the scalar functions, tested with
//! tolerance 0.
use super::{Dyadic, ScalarRequant};
use crate::simd::{CodeBytes, MAX_LANES, Vector};

/// Which vector code a set of multipliers needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// [`OnnxVector`].
    Onnx,
    /// Every shift is at least 33 (a factor below 1/4): [`DyadicVector`].
    Dyadic,
    /// Any shift: [`DyadicWide`].
    Wide,
}

/// Multipliers of a row of channels, laid out for vectors, and the limits of the code.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    kind: Kind,
    factor: Vec<f32>,
    mult: Vec<i32>,
    round: Vec<i32>,
    shift: Vec<i32>,
    /// For [`DyadicWide`]: what accumulators are multiplied by beforehand, and the range in which that fits 32 bits.
    lift: Vec<i32>,
    least: Vec<i32>,
    most: Vec<i32>,
    zero: i32,
    lo: i32,
    hi: i32,
}

impl Default for Prepared {
    fn default() -> Prepared {
        Prepared {
            kind: Kind::Onnx,
            factor: Vec::new(),
            mult: Vec::new(),
            round: Vec::new(),
            shift: Vec::new(),
            lift: Vec::new(),
            least: Vec::new(),
            most: Vec::new(),
            zero: 0,
            lo: 0,
            hi: 255,
        }
    }
}

impl Prepared {
    /// The same multiplier in every lane of every vector.
    pub(crate) fn splat(requant: ScalarRequant, zero: u8, lo: u8, hi: u8) -> Prepared {
        let mut prepared = Prepared::default();
        prepared.limits(zero, lo, hi);
        match requant {
            ScalarRequant::Onnx(m) => prepared.set_onnx([m; MAX_LANES].into_iter()),
            ScalarRequant::Dyadic(by) => prepared.set_dyadic([by; MAX_LANES].into_iter()),
        }
        prepared
    }

    /// Sets zero point and limits of the code.
    pub(crate) fn limits(&mut self, zero: u8, lo: u8, hi: u8) {
        (self.zero, self.lo, self.hi) = (zero.into(), lo.into(), hi.into());
    }

    /// Sets the multipliers of profile onnx.
    pub(crate) fn set_onnx(&mut self, factors: impl Iterator<Item = f32>) {
        self.kind = Kind::Onnx;
        self.factor.clear();
        self.factor.extend(factors);
    }

    /// Sets the multipliers of profile dyadic.
    pub(crate) fn set_dyadic(&mut self, multipliers: impl Iterator<Item = Dyadic> + Clone) {
        // With m = 0 every shift gives 0.
        let shift = |by: &Dyadic| if by.mult == 0 { 33 } else { by.shift };
        let all = multipliers.inspect(|by| {
            let Dyadic { mult, shift } = by;
            assert!((1..=62).contains(shift) && *mult >= 0, "a dyadic multiplier of {mult} >> {shift} is out of range");
        });
        // From factors of 2^27 on every accumulator but 0 saturates: shifts below 3 give the same codes as 3.
        let missing = |by: Dyadic| 33 - i32::from(shift(&by).clamp(3, 33));
        let wide = all.clone().any(|by| shift(&by) < 33);
        self.kind = if wide { Kind::Wide } else { Kind::Dyadic };
        set(&mut self.mult, all.clone().map(|by| by.mult));
        set(&mut self.round, all.clone().map(|by| 1 << (shift(&by).max(33) - 33)));
        set(&mut self.shift, all.clone().map(|by| i32::from(shift(&by).max(33)) - 32));
        // The others never read these.
        let lifted = || all.clone().filter(|_| wide).map(missing);
        set(&mut self.lift, lifted().map(|missing| 1 << missing));
        set(&mut self.least, lifted().map(|missing| i32::MIN >> missing));
        set(&mut self.most, lifted().map(|missing| i32::MAX >> missing));
    }

    /// Zero point and limits for [`Vector::store_codes`] and [`Vector::narrow4`].
    #[inline(always)]
    pub(crate) fn bytes_of_code<V: Vector>(&self, v: V) -> CodeBytes<V::I> {
        CodeBytes::new(v, self.zero as u8, self.lo as u8, self.hi as u8)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        let words = [&self.mult, &self.round, &self.shift, &self.lift, &self.least, &self.most];
        (self.factor.len() + words.iter().map(|words| words.len()).sum::<usize>()) * size_of::<i32>()
    }
}

/// Puts `from` in place of what `to` held, in no more memory than it needs.
fn set(to: &mut Vec<i32>, from: impl Iterator<Item = i32> + Clone) {
    to.clear();
    to.reserve_exact(from.clone().count());
    to.extend(from);
}

/// Multipliers of one vector of channels.
pub(crate) trait VectorRequant<V: Vector>: Copy {
    /// The multipliers from position `at` on.
    fn load(v: V, from: &Prepared, at: usize) -> Self;
    /// The codes of `acc`, one in each lane.
    fn apply(self, v: V, acc: V::I) -> V::I;
    /// Integers that give the codes of `acc` once they are saturated to 16 bits, the zero point is added and the
    /// sum is clamped to the limits, which lie in `0..=255` as the zero point does.
    fn without_zero(self, v: V, acc: V::I) -> V::I;
}

/// A [`VectorRequant`] whose register width is chosen later.
pub(crate) trait Rule: Copy {
    type On<V: Vector>: VectorRequant<V>;
}

/// [`OnnxVector`].
#[derive(Clone, Copy)]
pub(crate) struct OnnxRule;

impl Rule for OnnxRule {
    type On<V: Vector> = OnnxVector<V>;
}

/// [`DyadicVector`].
#[derive(Clone, Copy)]
pub(crate) struct DyadicRule;

impl Rule for DyadicRule {
    type On<V: Vector> = DyadicVector<V>;
}

/// [`DyadicWide`].
#[derive(Clone, Copy)]
pub(crate) struct WideRule;

impl Rule for WideRule {
    type On<V: Vector> = DyadicWide<V>;
}

/// `clamp(rne(f32(acc) * m), lo - z, hi - z) + z`.
#[derive(Clone, Copy)]
pub(crate) struct OnnxVector<V: Vector> {
    factor: V::F,
    limits: CodeLimits<V>,
}

impl<V: Vector> VectorRequant<V> for OnnxVector<V> {
    #[inline(always)]
    fn load(v: V, from: &Prepared, at: usize) -> Self {
        OnnxVector { factor: load_f(v, &from.factor, at), limits: CodeLimits::new(v, from.zero, from.lo, from.hi) }
    }

    #[inline(always)]
    fn apply(self, v: V, acc: V::I) -> V::I {
        self.limits.code(v, v.mul_f(v.to_float(acc), self.factor))
    }

    #[inline(always)]
    fn without_zero(self, v: V, acc: V::I) -> V::I {
        self.limits.without_zero(v, v.mul_f(v.to_float(acc), self.factor))
    }
}

/// `((acc * m + 2^(t-1)) >> t) + z`, clamped, for `33 <= t <= 62`.
///
/// `2^(t-1)` is then a multiple of `2^32`, so the rounding can be added to the high half of the product:
/// `((high + 2^(t-33)) >> (t-32))`. The high half is below `2^30` and the sum fits 32 bits.
#[derive(Clone, Copy)]
pub(crate) struct DyadicVector<V: Vector> {
    mult: V::I,
    round: V::I,
    shift: V::I,
    zero: V::I,
    lo: V::I,
    hi: V::I,
}

impl<V: Vector> VectorRequant<V> for DyadicVector<V> {
    #[inline(always)]
    fn load(v: V, from: &Prepared, at: usize) -> Self {
        DyadicVector {
            mult: load(v, &from.mult, at),
            round: load(v, &from.round, at),
            shift: load(v, &from.shift, at),
            zero: v.splat(from.zero),
            lo: v.splat(from.lo),
            hi: v.splat(from.hi),
        }
    }

    #[inline(always)]
    fn apply(self, v: V, acc: V::I) -> V::I {
        let code = v.add(self.without_zero(v, acc), self.zero);
        v.min(v.max(code, self.lo), self.hi)
    }

    #[inline(always)]
    fn without_zero(self, v: V, acc: V::I) -> V::I {
        let high = v.mul_high(acc, self.mult);
        v.shr(v.add(high, self.round), self.shift)
    }
}

/// As [`DyadicVector`], for any shift `t`.
///
/// Where `t < 33` the accumulator is multiplied by `2^(33-t)` first, which makes the shift 33. It is clamped to the range in which the
/// product fits 32 bits; what lies outside has a result beyond `2^27` and saturates with or without the clamp.
#[derive(Clone, Copy)]
pub(crate) struct DyadicWide<V: Vector> {
    by: DyadicVector<V>,
    lift: V::I,
    least: V::I,
    most: V::I,
}

impl<V: Vector> VectorRequant<V> for DyadicWide<V> {
    #[inline(always)]
    fn load(v: V, from: &Prepared, at: usize) -> Self {
        DyadicWide {
            by: DyadicVector::load(v, from, at),
            lift: load(v, &from.lift, at),
            least: load(v, &from.least, at),
            most: load(v, &from.most, at),
        }
    }

    #[inline(always)]
    fn apply(self, v: V, acc: V::I) -> V::I {
        self.by.apply(v, self.lifted(v, acc))
    }

    #[inline(always)]
    fn without_zero(self, v: V, acc: V::I) -> V::I {
        self.by.without_zero(v, self.lifted(v, acc))
    }
}

impl<V: Vector> DyadicWide<V> {
    #[inline(always)]
    fn lifted(self, v: V, acc: V::I) -> V::I {
        v.mul(v.min(v.max(acc, self.least), self.most), self.lift)
    }
}

/// The end of every formula of profile onnx: a real number in units of the scale becomes a code.
#[derive(Clone, Copy)]
pub(crate) struct CodeLimits<V: Vector> {
    zero: V::I,
    lo: V::F,
    hi: V::F,
}

impl<V: Vector> CodeLimits<V> {
    #[inline(always)]
    pub(crate) fn new(v: V, zero: i32, lo: i32, hi: i32) -> Self {
        CodeLimits { zero: v.splat(zero), lo: v.splat_f((lo - zero) as f32), hi: v.splat_f((hi - zero) as f32) }
    }

    /// `clamp(rne(real), lo - z, hi - z) + z`; NaN gives `lo`.
    ///
    /// The limits are integers, so that rounding after the clamp gives the same as before it.
    #[inline(always)]
    pub(crate) fn code(self, v: V, real: V::F) -> V::I {
        v.add(self.without_zero(v, real), self.zero)
    }

    /// The same without the zero point, for [`Vector::narrow4`].
    #[inline(always)]
    pub(crate) fn without_zero(self, v: V, real: V::F) -> V::I {
        v.to_int(v.min_f(v.max_f(real, self.lo), self.hi))
    }
}

/// One vector of `from`, starting at `at`.
#[inline(always)]
pub(crate) fn load<V: Vector>(v: V, from: &[i32], at: usize) -> V::I {
    let lanes = &from[at..at + V::LANES];
    // SAFETY: the slice holds LANES values.
    unsafe { v.load(lanes.as_ptr()) }
}

/// One vector of `from`, starting at `at`.
#[inline(always)]
pub(crate) fn load_f<V: Vector>(v: V, from: &[f32], at: usize) -> V::F {
    let lanes = &from[at..at + V::LANES];
    // SAFETY: the slice holds LANES values.
    unsafe { v.load_f(lanes.as_ptr()) }
}
