//! The formulas of section 14 on vectors, for codes of up to 16 bits: the same bits as the scalar functions, tested with tolerance 0.
use super::{
    AddDyadic,
    integers::{Near, SHARE},
};
use crate::simd::Vector;

/// `clamp(steps + zero)` of each lane, in a range that 32 bits hold.
#[derive(Clone, Copy)]
struct Bounds<V: Vector> {
    zero: V::I,
    lo: V::I,
    hi: V::I,
}

impl<V: Vector> Bounds<V> {
    #[inline(always)]
    fn new(v: V, (zero, lo, hi): (i32, i32, i32)) -> Self {
        Bounds { zero: v.splat(zero), lo: v.splat(lo - zero), hi: v.splat(hi - zero) }
    }

    #[inline(always)]
    fn code(self, v: V, steps: V::I) -> V::I {
        v.add(v.min(v.max(steps, self.lo), self.hi), self.zero)
    }
}

/// `clamp(((x * m + 2^(t-1)) >> t) + zero, lo, hi)`, `m` of either sign and `1 <= t <= 62`, where `x` times `2^(33-t)` fits 32 bits or `m` is 0.
#[derive(Clone, Copy)]
pub(crate) struct Factors<V: Vector> {
    one: V::I,
    enough: V::I,
    bounds: Bounds<V>,
}

impl<V: Vector> Factors<V> {
    #[inline(always)]
    pub(crate) fn new(v: V, to: (i32, i32, i32)) -> Self {
        Factors { one: v.splat(1), enough: v.splat(33), bounds: Bounds::new(v, to) }
    }

    #[inline(always)]
    pub(crate) fn apply(self, v: V, x: V::I, mult: V::I, shift: V::I) -> V::I {
        // With 33 bits to go the rounding is added to the high half of the product; what has fewer is multiplied by a power of two before.
        let far = v.max(shift, self.enough);
        let high = v.mul_high(v.shl(x, v.sub(far, shift)), mult);
        let more = v.sub(far, self.enough);
        self.bounds.code(v, v.shr(v.add(high, v.shl(self.one, more)), v.add(more, self.one)))
    }
}

/// The codes of [`AddDyadic::apply_wide`], where 32 bits hold what it answers.
#[derive(Clone, Copy)]
pub(crate) struct AddVector<V: Vector> {
    ma: V::I,
    mb: V::I,
    round: V::I,
    shift: u8,
    bounds: Bounds<V>,
}

impl<V: Vector> AddVector<V> {
    #[inline(always)]
    pub(crate) fn new(v: V, AddDyadic { ma, mb, shift }: AddDyadic, to: (i32, i32, i32)) -> Self {
        let round = v.splat_long(1 << (shift - 1));
        AddVector { ma: v.splat(ma), mb: v.splat(mb), round, shift, bounds: Bounds::new(v, to) }
    }

    #[inline(always)]
    pub(crate) fn apply(self, v: V, a: V::I, b: V::I) -> V::I {
        let (a, b) = (v.products(a, self.ma), v.products(b, self.mb));
        let even = v.add_long(v.add_long(a[0], self.round), b[0]);
        let odd = v.add_long(v.add_long(a[1], self.round), b[1]);
        self.bounds.code(v, v.middle([even, odd], self.shift.into()))
    }
}

/// The codes of [`super::integers::Softmax::share`], of a factor of 32 bits.
#[derive(Clone, Copy)]
pub(crate) struct ShareVector<V: Vector> {
    factor: V::I,
    round: V::I,
    bounds: Bounds<V>,
}

impl<V: Vector> ShareVector<V> {
    #[inline(always)]
    pub(crate) fn new(v: V, factor: u32, to: (i32, i32, i32)) -> Self {
        let round = v.splat_long(1 << (SHARE - 1));
        ShareVector { factor: v.splat(factor.cast_signed()), round, bounds: Bounds::new(v, to) }
    }

    #[inline(always)]
    pub(crate) fn apply(self, v: V, e: V::I) -> V::I {
        let [even, odd] = v.products_unsigned(e, self.factor);
        let sums = [v.add_long(even, self.round), v.add_long(odd, self.round)];
        self.bounds.code(v, v.middle(sums, SHARE))
    }
}

/// [`Near`] in each lane.
#[derive(Clone, Copy)]
pub(crate) struct NearVector<V: Vector> {
    count: V::I,
    sum: V::I,
    left: V::I,
    right: V::I,
    reciprocal: V::I,
    one: V::I,
    round: V::I,
    shift: V::I,
    bounds: Bounds<V>,
}

impl<V: Vector> NearVector<V> {
    /// With the zero point and the bounds of the codes.
    #[inline(always)]
    pub(crate) fn new(v: V, of: Near, to: (i32, i32, i32)) -> Self {
        NearVector {
            bounds: Bounds::new(v, to),
            count: v.splat(of.count),
            sum: v.splat(of.sum),
            left: v.splat(of.left as i32),
            right: v.splat(of.right as i32),
            reciprocal: v.splat(of.reciprocal),
            one: v.splat(1),
            round: v.splat(of.round),
            shift: v.splat(of.shift as i32),
        }
    }

    /// The codes of [`Near::element`], less the zero point of what is normalised.
    #[inline(always)]
    pub(crate) fn element(self, v: V, gain: V::I, offset: V::I, code: V::I) -> V::I {
        let centred = v.sub(v.mul(code, self.count), self.sum);
        let scaled = v.shr(v.shl(centred, self.left), self.right);
        let normal = v.shr(v.add(v.mul_high(scaled, self.reciprocal), self.one), self.one);
        let steps = v.shr(v.add(v.add(v.mul_high(normal, gain), offset), self.round), self.shift);
        self.bounds.code(v, steps)
    }
}
