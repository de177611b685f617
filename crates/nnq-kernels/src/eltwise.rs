//! Element by element: sums and products of two tensors, tables, quantization. See `docs/numerics.md`, sections 2
//! and 6.
mod convert;
mod table;

use crate::{
    Isa,
    isa::dispatch,
    round::{
        AddDyadic, Dyadic, ScalarRequant, dequantize_f32, quantize_f32, requantize_dyadic,
        vector::{CodeLimits, DyadicVector, DyadicWide, Kind, Prepared, VectorRequant},
    },
    simd::{CodeBytes, MAX_LANES, Op, Simd, Vector},
};
use serde::{Deserialize, Serialize};

pub(crate) use convert::Code;
pub use convert::{dequantize, quantize};
pub use table::lut;

/// A sum or difference of two tensors.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct AddSpec {
    /// Zero point of the first operand.
    pub za: u8,
    /// Zero point of the second operand.
    pub zb: u8,
    /// Zero point of the output.
    pub zero: u8,
    /// Smallest output code.
    pub lo: u8,
    /// Largest output code.
    pub hi: u8,
    /// `a - b` instead of `a + b`.
    pub subtract: bool,
    /// The arithmetic.
    pub mode: AddMode,
}

/// The arithmetic of [`add`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum AddMode {
    /// `Q(D(a) ± D(b))`, with the scales of the operands and of the output.
    Onnx {
        /// Scale of the first operand.
        sa: f32,
        /// Scale of the second operand.
        sb: f32,
        /// Scale of the output.
        sy: f32,
    },
    /// [`AddDyadic::apply`].
    Dyadic(AddDyadic),
}

/// A product of two tensors.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct MulSpec {
    /// Zero point of the first operand.
    pub za: u8,
    /// Zero point of the second operand.
    pub zb: u8,
    /// Zero point of the output.
    pub zero: u8,
    /// Smallest output code.
    pub lo: u8,
    /// Largest output code.
    pub hi: u8,
    /// The arithmetic.
    pub mode: MulMode,
}

/// The arithmetic of [`mul`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum MulMode {
    /// `Q(D(a) * D(b))`, with the scales of the operands and of the output.
    Onnx {
        /// Scale of the first operand.
        sa: f32,
        /// Scale of the second operand.
        sb: f32,
        /// Scale of the output.
        sy: f32,
    },
    /// [`requantize_dyadic`] of the product of the two differences to the zero points.
    Dyadic(Dyadic),
}

/// `out[i]` = the code of `a[i] + b[i]` (or `a[i] - b[i]`).
///
/// # Panics
/// When the slices differ in length or this machine does not have `isa`.
pub fn add(isa: Isa, a: &[u8], b: &[u8], out: &mut [u8], spec: &AddSpec) {
    binary(isa, a, b, out, spec);
}

/// `out[i]` = the code of `a[i] * b[i]`.
///
/// # Panics
/// When the slices differ in length or this machine does not have `isa`.
pub fn mul(isa: Isa, a: &[u8], b: &[u8], out: &mut [u8], spec: &MulSpec) {
    binary(isa, a, b, out, spec);
}

fn check(x: usize, out: usize) {
    assert!(x == out, "{x} elements in, {out} elements out");
}

/// A function of two codes.
trait Binary: Copy {
    fn scalar(&self, a: u8, b: u8) -> u8;
    /// Calls `loops` with the same function on vectors.
    fn vector<S: Simd>(&self, s: S, loops: Loops);
}

fn binary<B: Binary>(isa: Isa, a: &[u8], b: &[u8], out: &mut [u8], by: &B) {
    check(a.len(), out.len());
    check(b.len(), out.len());
    let loops = Loops { a, b, out };
    if dispatch(isa, Both { loops, by: *by }).is_none() {
        for ((y, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *y = by.scalar(a, b);
        }
    }
}

struct Both<'a, B> {
    loops: Loops<'a>,
    by: B,
}

impl<B: Binary> Op for Both<'_, B> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        self.by.vector(s, self.loops);
    }
}

/// The loop over two slices, the last elements through a copy.
struct Loops<'a> {
    a: &'a [u8],
    b: &'a [u8],
    out: &'a mut [u8],
}

/// A function of two vectors of codes. It gives integers that become codes in [`Vector::narrow4`].
///
/// Not a closure: only methods can be made to be compiled for the instruction set of their caller.
trait Function<V: Vector>: Copy {
    fn call(self, v: V, a: V::I, b: V::I) -> V::I;
}

impl Loops<'_> {
    #[inline(always)]
    fn run<V: Vector>(self, v: V, limits: CodeBytes<V::I>, f: impl Function<V>) {
        let step = 4 * V::LANES;
        let whole = self.out.len() / step * step;
        let (out, rest) = self.out.split_at_mut(whole);
        for (i, y) in out.chunks_exact_mut(step).enumerate() {
            let range = i * step..(i + 1) * step;
            let (a, b) = (&self.a[range.clone()], &self.b[range]);
            // SAFETY: each slice holds four times LANES bytes.
            unsafe { v.store_bytes(y.as_mut_ptr(), four(v, a.as_ptr(), b.as_ptr(), limits, f)) };
        }
        let n = rest.len();
        if n > 0 {
            let (mut a, mut b) = ([0; 4 * MAX_LANES], [0; 4 * MAX_LANES]);
            a[..n].copy_from_slice(&self.a[whole..]);
            b[..n].copy_from_slice(&self.b[whole..]);
            // SAFETY: each array holds four times the most lanes, the slice `n` bytes.
            unsafe { v.store_some_bytes(rest.as_mut_ptr(), four(v, a.as_ptr(), b.as_ptr(), limits, f), n) };
        }
    }
}

/// The codes of four vectors.
///
/// # Safety
/// `4 * LANES` bytes are readable at `a` and `b`.
#[inline(always)]
unsafe fn four<V: Vector>(v: V, a: *const u8, b: *const u8, limits: CodeBytes<V::I>, f: impl Function<V>) -> V::I {
    let mut codes = [v.splat(0); 4];
    for (i, code) in codes.iter_mut().enumerate() {
        // SAFETY: the caller's.
        *code = unsafe { f.call(v, v.widen(a.add(i * V::LANES)), v.widen(b.add(i * V::LANES))) };
    }
    v.narrow4_in_order(codes, limits)
}

/// Dequantization of both operands.
#[derive(Clone, Copy)]
struct Reals<V: Vector> {
    za: V::I,
    zb: V::I,
    sa: V::F,
    sb: V::F,
}

impl<V: Vector> Reals<V> {
    #[inline(always)]
    fn new(v: V, [za, zb]: [u8; 2], [sa, sb]: [f32; 2]) -> Self {
        Reals { za: v.splat(za.into()), zb: v.splat(zb.into()), sa: v.splat_f(sa), sb: v.splat_f(sb) }
    }

    #[inline(always)]
    fn of(self, v: V, a: V::I, b: V::I) -> (V::F, V::F) {
        let a = v.mul_f(v.to_float(v.sub(a, self.za)), self.sa);
        let b = v.mul_f(v.to_float(v.sub(b, self.zb)), self.sb);
        (a, b)
    }
}

/// `Q(D(a) + D(b))`.
#[derive(Clone, Copy)]
struct OnnxSum<V: Vector> {
    reals: Reals<V>,
    scale: V::F,
    limits: CodeLimits<V>,
}

impl<V: Vector> Function<V> for OnnxSum<V> {
    #[inline(always)]
    fn call(self, v: V, a: V::I, b: V::I) -> V::I {
        let (a, b) = self.reals.of(v, a, b);
        self.limits.without_zero(v, v.div_f(v.add_f(a, b), self.scale))
    }
}

/// `Q(D(a) * D(b))`.
#[derive(Clone, Copy)]
struct OnnxProduct<V: Vector> {
    reals: Reals<V>,
    scale: V::F,
    limits: CodeLimits<V>,
}

impl<V: Vector> Function<V> for OnnxProduct<V> {
    #[inline(always)]
    fn call(self, v: V, a: V::I, b: V::I) -> V::I {
        let (a, b) = self.reals.of(v, a, b);
        self.limits.without_zero(v, v.div_f(v.mul_f(a, b), self.scale))
    }
}

/// `(a * ma + b * mb + constant) >> shift`.
#[derive(Clone, Copy)]
struct DyadicSum<V: Vector> {
    ma: V::I,
    mb: V::I,
    constant: V::I,
    shift: V::I,
}

impl<V: Vector> Function<V> for DyadicSum<V> {
    #[inline(always)]
    fn call(self, v: V, a: V::I, b: V::I) -> V::I {
        let sum = v.add(v.add(v.mul(a, self.ma), self.constant), v.mul(b, self.mb));
        v.shr(sum, self.shift)
    }
}

/// The requantization `by` of `(a - za) * (b - zb)`.
#[derive(Clone, Copy)]
struct DyadicProduct<V: Vector, R> {
    za: V::I,
    zb: V::I,
    by: R,
}

impl<V: Vector, R: VectorRequant<V>> Function<V> for DyadicProduct<V, R> {
    #[inline(always)]
    fn call(self, v: V, a: V::I, b: V::I) -> V::I {
        self.by.without_zero(v, v.mul(v.sub(a, self.za), v.sub(b, self.zb)))
    }
}

impl Binary for AddSpec {
    #[inline]
    fn scalar(&self, a: u8, b: u8) -> u8 {
        let (za, zb, zero) = (self.za.into(), self.zb.into(), self.zero.into());
        let (lo, hi) = (self.lo.into(), self.hi.into());
        let code = match self.mode {
            AddMode::Onnx { sa, sb, sy } => {
                let a = dequantize_f32(a.into(), sa, za);
                let b = dequantize_f32(b.into(), sb, zb);
                let sum = if self.subtract { a - b } else { a + b };
                quantize_f32(sum, sy, zero, lo, hi)
            }
            AddMode::Dyadic(by) => {
                let (a, b) = (i32::from(a) - za, i32::from(b) - zb);
                let b = if self.subtract { -b } else { b };
                (by.apply(a, b) + zero).clamp(lo, hi)
            }
        };
        code as u8
    }

    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, loops: Loops) {
        let v = s.v();
        let limits = CodeBytes::new(v, self.zero, self.lo, self.hi);
        let (lo, hi, zero) = (self.lo.into(), self.hi.into(), self.zero.into());
        match self.mode {
            AddMode::Onnx { sa, sb, sy } => {
                // The negative of a product is the product with the negative, to the bit.
                let sb = if self.subtract { -sb } else { sb };
                let sum = OnnxSum {
                    reals: Reals::new(v, [self.za, self.zb], [sa, sb]),
                    scale: v.splat_f(sy),
                    limits: CodeLimits::new(v, zero, lo, hi),
                };
                loops.run(v, limits, sum);
            }
            AddMode::Dyadic(by) => {
                let mb = if self.subtract { -by.mb } else { by.mb };
                // The zero points and the rounding together; wrapping changes nothing, since the sum
                // fits.
                let constant = (1i32 << (by.shift - 1))
                    .wrapping_sub(by.ma.wrapping_mul(self.za.into()))
                    .wrapping_sub(mb.wrapping_mul(self.zb.into()));
                let sum = DyadicSum {
                    ma: v.splat(by.ma),
                    mb: v.splat(mb),
                    constant: v.splat(constant),
                    shift: v.splat(by.shift.into()),
                };
                loops.run(v, limits, sum);
            }
        }
    }
}

impl Binary for MulSpec {
    #[inline]
    fn scalar(&self, a: u8, b: u8) -> u8 {
        let (za, zb, zero) = (self.za.into(), self.zb.into(), self.zero.into());
        let (lo, hi) = (self.lo.into(), self.hi.into());
        let code = match self.mode {
            MulMode::Onnx { sa, sb, sy } => {
                let a = dequantize_f32(a.into(), sa, za);
                let b = dequantize_f32(b.into(), sb, zb);
                quantize_f32(a * b, sy, zero, lo, hi)
            }
            MulMode::Dyadic(by) => {
                let product = (i32::from(a) - za) * (i32::from(b) - zb);
                requantize_dyadic(product, by, zero, lo, hi)
            }
        };
        code as u8
    }

    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, loops: Loops) {
        let v = s.v();
        let limits = CodeBytes::new(v, self.zero, self.lo, self.hi);
        match self.mode {
            MulMode::Onnx { sa, sb, sy } => {
                let product = OnnxProduct {
                    reals: Reals::new(v, [self.za, self.zb], [sa, sb]),
                    scale: v.splat_f(sy),
                    limits: CodeLimits::new(v, self.zero.into(), self.lo.into(), self.hi.into()),
                };
                loops.run(v, limits, product);
            }
            MulMode::Dyadic(by) => {
                let by = ScalarRequant::Dyadic(by);
                let prepared = Prepared::splat(by, self.zero, self.lo, self.hi);
                let (za, zb) = (v.splat(self.za.into()), v.splat(self.zb.into()));
                if prepared.kind() == Kind::Dyadic {
                    let by = DyadicVector::load(v, &prepared, 0);
                    loops.run(v, limits, DyadicProduct { za, zb, by });
                } else {
                    let by = <DyadicWide<S::V> as VectorRequant<S::V>>::load(v, &prepared, 0);
                    loops.run(v, limits, DyadicProduct { za, zb, by });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
