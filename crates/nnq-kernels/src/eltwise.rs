//! Element by element: sums and products of two tensors, tables, quantization, and quantization together
//! with the change of layout. See `docs/numerics.md`, sections 2 and 6.
use crate::{
    Isa,
    isa::dispatch,
    round::{
        AddDyadic, Dyadic, ScalarRequant, dequantize_f32, quantize_f32, requantize_dyadic,
        vector::{CodeLimits, DyadicVector, DyadicWide, Kind, Prepared, VectorRequant},
    },
    simd::{MAX_LANES, Op, Simd, Vector},
};

/// A sum or difference of two tensors.
#[derive(Clone, Copy, Debug)]
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
#[derive(Clone, Copy, Debug)]
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
#[derive(Clone, Copy, Debug)]
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
#[derive(Clone, Copy, Debug)]
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

/// `out[i] = table[x[i]]`.
///
/// # Panics
/// When the slices differ in length.
pub fn lut(_: Isa, x: &[u8], table: &[u8; 256], out: &mut [u8]) {
    check(x.len(), out.len());
    for (y, &x) in out.iter_mut().zip(x) {
        *y = table[usize::from(x)];
    }
}

/// [`quantize_f32`] of every element, to codes in `lo..=hi`.
///
/// # Panics
/// When the slices differ in length or this machine does not have `isa`.
pub fn quantize(isa: Isa, x: &[f32], scale: f32, zero: u8, lo: u8, hi: u8, out: &mut [u8]) {
    check(x.len(), out.len());
    let to = Code { scale, zero: zero.into(), lo: lo.into(), hi: hi.into() };
    let done = dispatch(isa, Quantize { x, to, out });
    if done.is_none() {
        to.all(x, out);
    }
}

/// [`dequantize_f32`] of every element.
///
/// # Panics
/// When the slices differ in length or this machine does not have `isa`.
pub fn dequantize(isa: Isa, x: &[u8], scale: f32, zero: u8, out: &mut [f32]) {
    check(x.len(), out.len());
    let done = dispatch(isa, Dequantize { x, scale, zero, out });
    if done.is_none() {
        for (y, &x) in out.iter_mut().zip(x) {
            *y = dequantize_f32(x.into(), scale, zero.into());
        }
    }
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

/// A function of two vectors of codes.
///
/// Not a closure: only methods can be made to be compiled for the instruction set of their caller.
trait Function<V: Vector>: Copy {
    fn call(self, v: V, a: V::I, b: V::I) -> V::I;
}

impl Loops<'_> {
    #[inline(always)]
    fn run<V: Vector>(self, v: V, f: impl Function<V>) {
        let whole = self.out.len() / V::LANES * V::LANES;
        let (out, rest) = self.out.split_at_mut(whole);
        for (i, y) in out.chunks_exact_mut(V::LANES).enumerate() {
            let range = i * V::LANES..(i + 1) * V::LANES;
            let (a, b) = (&self.a[range.clone()], &self.b[range]);
            // SAFETY: each slice holds LANES bytes.
            unsafe {
                let codes = f.call(v, v.widen(a.as_ptr()), v.widen(b.as_ptr()));
                v.narrow(y.as_mut_ptr(), codes);
            }
        }
        let n = rest.len();
        if n > 0 {
            let (mut a, mut b, mut y) = ([0; MAX_LANES], [0; MAX_LANES], [0; MAX_LANES]);
            a[..n].copy_from_slice(&self.a[whole..]);
            b[..n].copy_from_slice(&self.b[whole..]);
            // SAFETY: each array holds LANES bytes.
            unsafe {
                let codes = f.call(v, v.widen(a.as_ptr()), v.widen(b.as_ptr()));
                v.narrow(y.as_mut_ptr(), codes);
            }
            rest.copy_from_slice(&y[..n]);
        }
    }
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
        self.limits.code(v, v.div_f(v.add_f(a, b), self.scale))
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
        self.limits.code(v, v.div_f(v.mul_f(a, b), self.scale))
    }
}

/// `(a * ma + b * mb + constant) >> shift`, then the zero point and the clamp.
#[derive(Clone, Copy)]
struct DyadicSum<V: Vector> {
    ma: V::I,
    mb: V::I,
    constant: V::I,
    shift: V::I,
    zero: V::I,
    lo: V::I,
    hi: V::I,
}

impl<V: Vector> Function<V> for DyadicSum<V> {
    #[inline(always)]
    fn call(self, v: V, a: V::I, b: V::I) -> V::I {
        let sum = v.add(v.add(v.mul(a, self.ma), self.constant), v.mul(b, self.mb));
        let code = v.add(v.shr(sum, self.shift), self.zero);
        v.min(v.max(code, self.lo), self.hi)
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
        self.by.apply(v, v.mul(v.sub(a, self.za), v.sub(b, self.zb)))
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
                loops.run(v, sum);
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
                    zero: v.splat(zero),
                    lo: v.splat(lo),
                    hi: v.splat(hi),
                };
                loops.run(v, sum);
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
        match self.mode {
            MulMode::Onnx { sa, sb, sy } => {
                let product = OnnxProduct {
                    reals: Reals::new(v, [self.za, self.zb], [sa, sb]),
                    scale: v.splat_f(sy),
                    limits: CodeLimits::new(v, self.zero.into(), self.lo.into(), self.hi.into()),
                };
                loops.run(v, product);
            }
            MulMode::Dyadic(by) => {
                let by = ScalarRequant::Dyadic(by);
                let prepared = Prepared::splat(by, self.zero, self.lo, self.hi);
                let (za, zb) = (v.splat(self.za.into()), v.splat(self.zb.into()));
                if prepared.kind() == Kind::Dyadic {
                    let by = DyadicVector::load(v, &prepared, 0);
                    loops.run(v, DyadicProduct { za, zb, by });
                } else {
                    let by = <DyadicWide<S::V> as VectorRequant<S::V>>::load(v, &prepared, 0);
                    loops.run(v, DyadicProduct { za, zb, by });
                }
            }
        }
    }
}

/// Parameters of a quantization.
#[derive(Clone, Copy)]
struct Code {
    scale: f32,
    zero: i32,
    lo: i32,
    hi: i32,
}

impl Code {
    #[inline(always)]
    fn all(self, x: &[f32], out: &mut [u8]) {
        for (y, &x) in out.iter_mut().zip(x) {
            *y = quantize_f32(x, self.scale, self.zero, self.lo, self.hi) as u8;
        }
    }

    #[inline(always)]
    fn all_vectors<V: Vector>(self, v: V, x: &[f32], out: &mut [u8]) {
        let limits = CodeLimits::new(v, self.zero, self.lo, self.hi);
        let scale = v.splat_f(self.scale);
        let (whole, rest) = x.split_at(x.len() / V::LANES * V::LANES);
        let (y_whole, y_rest) = out.split_at_mut(whole.len());
        let pairs = whole.chunks_exact(V::LANES).zip(y_whole.chunks_exact_mut(V::LANES));
        for (x, y) in pairs {
            // SAFETY: both slices hold LANES elements.
            unsafe {
                let real = v.div_f(v.load_f(x.as_ptr()), scale);
                v.narrow(y.as_mut_ptr(), limits.code(v, real));
            }
        }
        self.all(rest, y_rest);
    }
}

struct Quantize<'a> {
    x: &'a [f32],
    to: Code,
    out: &'a mut [u8],
}

impl Op for Quantize<'_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        self.to.all_vectors(s.v(), self.x, self.out);
    }
}

struct Dequantize<'a> {
    x: &'a [u8],
    scale: f32,
    zero: u8,
    out: &'a mut [f32],
}

impl Op for Dequantize<'_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let v = s.v();
        let (zero, scale) = (v.splat(self.zero.into()), v.splat_f(self.scale));
        let (whole, rest) = self.x.split_at(self.x.len() / S::V::LANES * S::V::LANES);
        let (y_whole, y_rest) = self.out.split_at_mut(whole.len());
        let pairs = whole.chunks_exact(S::V::LANES).zip(y_whole.chunks_exact_mut(S::V::LANES));
        for (x, y) in pairs {
            // SAFETY: both slices hold LANES elements.
            unsafe {
                let codes = v.sub(v.widen(x.as_ptr()), zero);
                v.store_f(y.as_mut_ptr(), v.mul_f(v.to_float(codes), scale));
            }
        }
        for (y, &x) in y_rest.iter_mut().zip(rest) {
            *y = dequantize_f32(x.into(), self.scale, self.zero.into());
        }
    }
}

#[cfg(test)]
mod tests;
