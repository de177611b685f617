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
    let to = Code {
        scale,
        zero: zero.into(),
        lo: lo.into(),
        hi: hi.into(),
    };
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
    let done = dispatch(
        isa,
        Dequantize {
            x,
            scale,
            zero,
            out,
        },
    );
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

impl Loops<'_> {
    #[inline(always)]
    fn run<V: Vector>(self, v: V, f: impl Fn(V::I, V::I) -> V::I) {
        let one = |a: &[u8], b: &[u8], y: &mut [u8]| {
            assert!(a.len() == V::LANES && b.len() == V::LANES && y.len() == V::LANES);
            // SAFETY: each slice holds LANES bytes.
            unsafe { v.narrow(y.as_mut_ptr(), f(v.widen(a.as_ptr()), v.widen(b.as_ptr()))) };
        };
        let whole = self.out.len() / V::LANES * V::LANES;
        let (out, rest) = self.out.split_at_mut(whole);
        let inputs = self
            .a
            .chunks_exact(V::LANES)
            .zip(self.b.chunks_exact(V::LANES));
        for (y, (a, b)) in out.chunks_exact_mut(V::LANES).zip(inputs) {
            one(a, b, y);
        }
        let n = rest.len();
        if n > 0 {
            let (mut a, mut b, mut y) = ([0; MAX_LANES], [0; MAX_LANES], [0; MAX_LANES]);
            a[..n].copy_from_slice(&self.a[whole..]);
            b[..n].copy_from_slice(&self.b[whole..]);
            one(&a[..V::LANES], &b[..V::LANES], &mut y[..V::LANES]);
            rest.copy_from_slice(&y[..n]);
        }
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
                let (za, zb) = (v.splat(self.za.into()), v.splat(self.zb.into()));
                let (sa, sb, sy) = (v.splat_f(sa), v.splat_f(sb), v.splat_f(sy));
                let limits = CodeLimits::new(v, zero, lo, hi);
                let subtract = self.subtract;
                loops.run(v, |a, b| {
                    let a = v.mul_f(v.to_float(v.sub(a, za)), sa);
                    let b = v.mul_f(v.to_float(v.sub(b, zb)), sb);
                    let sum = if subtract {
                        v.sub_f(a, b)
                    } else {
                        v.add_f(a, b)
                    };
                    limits.code(v, v.div_f(sum, sy))
                });
            }
            AddMode::Dyadic(by) => {
                let mb = if self.subtract { -by.mb } else { by.mb };
                // The zero points and the rounding together; wrapping changes nothing, since the sum
                // fits.
                let constant = (1i32 << (by.shift - 1))
                    .wrapping_sub(by.ma.wrapping_mul(self.za.into()))
                    .wrapping_sub(mb.wrapping_mul(self.zb.into()));
                let (ma, mb, constant) = (v.splat(by.ma), v.splat(mb), v.splat(constant));
                let shift = v.splat(by.shift.into());
                let (lo, hi, zero) = (v.splat(lo), v.splat(hi), v.splat(zero));
                loops.run(v, |a, b| {
                    let sum = v.add(v.add(v.mul(a, ma), constant), v.mul(b, mb));
                    v.min(v.max(v.add(v.shr(sum, shift), zero), lo), hi)
                });
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
        let (za, zb) = (v.splat(self.za.into()), v.splat(self.zb.into()));
        match self.mode {
            MulMode::Onnx { sa, sb, sy } => {
                let (sa, sb, sy) = (v.splat_f(sa), v.splat_f(sb), v.splat_f(sy));
                let limits = CodeLimits::new(v, self.zero.into(), self.lo.into(), self.hi.into());
                loops.run(v, |a, b| {
                    let a = v.mul_f(v.to_float(v.sub(a, za)), sa);
                    let b = v.mul_f(v.to_float(v.sub(b, zb)), sb);
                    limits.code(v, v.div_f(v.mul_f(a, b), sy))
                });
            }
            MulMode::Dyadic(by) => {
                let prepared =
                    Prepared::splat(ScalarRequant::Dyadic(by), self.zero, self.lo, self.hi);
                if prepared.kind() == Kind::Dyadic {
                    let by = DyadicVector::load(v, &prepared, 0);
                    loops.run(v, |a, b| by.apply(v, v.mul(v.sub(a, za), v.sub(b, zb))));
                } else {
                    let by = <DyadicWide as VectorRequant<S::V>>::load(v, &prepared, 0);
                    loops.run(v, |a, b| by.apply(v, v.mul(v.sub(a, za), v.sub(b, zb))));
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
        let pairs = whole
            .chunks_exact(V::LANES)
            .zip(y_whole.chunks_exact_mut(V::LANES));
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
        let pairs = whole
            .chunks_exact(S::V::LANES)
            .zip(y_whole.chunks_exact_mut(S::V::LANES));
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
