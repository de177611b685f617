//! Weights in fields of 4 or 2 bits.
//!
//! A group of `8 / bits` units of bytes becomes one unit: field `f` of its byte `i`, counted from the lowest bits, is byte `i` of
//! unit `f` of the group, less the smallest weight. A unit is a vector where kernels read them, so that a shift and a mask of one
//! vector give the next one in order; it is a byte elsewhere.
use super::pack::Line;
use crate::simd::Vector;

/// How weights are held: in all of a byte, or in a field of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields {
    /// 8, 4 or 2.
    pub(crate) bits: u8,
    /// The weight of field 0; bytes are what they are.
    pub(crate) low: i8,
}

impl Fields {
    pub(crate) const BYTES: Fields = Fields { bits: 8, low: 0 };

    /// The narrowest fields that hold all of `weights`, and 0, which stands where there is none.
    pub(crate) fn of(weights: &[i8]) -> Fields {
        let (mut low, mut high) = (0, 0);
        for some in weights.chunks(4096) {
            (low, high) = some.iter().fold((low, high), |(low, high), &w| (w.min(low), w.max(high)));
            if i16::from(high) - i16::from(low) >= 16 {
                return Fields::BYTES;
            }
        }
        Fields { bits: if high - low < 4 { 2 } else { 4 }, low }
    }

    /// What a file says.
    ///
    /// # Errors
    /// When there are no fields of so many bits.
    pub(crate) fn new(bits: u8, low: i8) -> Result<Fields, String> {
        match bits {
            8 if low == 0 => Ok(Fields::BYTES),
            2 | 4 => Ok(Fields { bits, low }),
            _ => Err(format!("weights of {bits} bits from {low} on")),
        }
    }

    /// The smallest and the largest weight that there may be.
    pub(crate) fn ends(self) -> [i8; 2] {
        match self {
            Fields::BYTES => [i8::MIN, i8::MAX],
            Fields { bits, low } => [low, low.saturating_add((1 << bits) - 1)],
        }
    }

    /// Weights in one byte.
    pub(crate) fn count(self) -> usize {
        usize::from(8 / self.bits)
    }

    /// Bytes of `n` weights in units of `unit`.
    pub(crate) fn bytes(self, n: usize, unit: usize) -> usize {
        n.div_ceil(unit).div_ceil(self.count()) * unit
    }

    /// Weights as fields; units that are missing from the last group are of weight 0.
    pub(crate) fn squeeze(self, weights: &[i8], unit: usize) -> Vec<u8> {
        if self == Fields::BYTES {
            return weights.iter().map(|&w| w as u8).collect();
        }
        let mut out = vec![0; self.bytes(weights.len(), unit)];
        for (to, from) in out.chunks_exact_mut(unit).zip(weights.chunks(unit * self.count())) {
            for field in 0..self.count() {
                for (i, to) in to.iter_mut().enumerate() {
                    let weight = from.get(field * unit + i).copied().unwrap_or(0);
                    *to |= (weight.wrapping_sub(self.low) as u8) << (field as u8 * self.bits);
                }
            }
        }
        out
    }

    /// The first `n` weights again: [`unpack`], plainly.
    pub(crate) fn spread(self, bytes: &[u8], unit: usize, n: usize) -> Vec<i8> {
        if self == Fields::BYTES {
            return bytes.iter().map(|&b| b as i8).collect();
        }
        let mask = (1u8 << self.bits) - 1;
        let all = bytes.chunks(unit).flat_map(|group| {
            let field = move |f: usize| group.iter().map(move |&b| b >> (f as u8 * self.bits) & mask);
            (0..self.count()).flat_map(field)
        });
        all.take(n).map(|field| (field as i8).wrapping_add(self.low)).collect()
    }
}

/// The weights of `count` vectors of fields, in order, to `to`.
///
/// # Safety
/// `count` vectors are readable at `from`, and [`Fields::count`] times as many writable at `to`.
#[inline(always)]
pub(super) unsafe fn unpack<V: Vector>(v: V, fields: Fields, from: *const u8, to: *mut u8, count: usize) {
    #[inline(always)]
    unsafe fn each<V: Vector, const BITS: usize>(v: V, low: i8, from: *const u8, to: *mut u8, count: usize) {
        let (mask, low) =
            (v.splat(i32::from_ne_bytes([(1 << BITS) - 1; 4])), v.splat(i32::from_ne_bytes([low as u8; 4])));
        let vector = 4 * V::LANES;
        for i in 0..count {
            // SAFETY: the caller's.
            unsafe {
                let x = v.load_bytes(from.add(i * vector));
                for field in 0..8 / BITS {
                    let part = v.and(v.shr(x, v.splat((field * BITS) as i32)), mask);
                    v.store_bytes(to.add((i * (8 / BITS) + field) * vector), v.add_bytes(part, low));
                }
            }
        }
    }
    // SAFETY: the caller's.
    unsafe {
        match fields.bits {
            4 => each::<V, 4>(v, fields.low, from, to, count),
            2 => each::<V, 2>(v, fields.low, from, to, count),
            bits => unreachable!("fields of {bits} bits"),
        }
    }
}

/// Room for the weights of one panel.
#[derive(Debug, Default)]
pub(crate) struct Room(Vec<Line>);

impl Room {
    /// At least `bytes` bytes, from a multiple of 64 on.
    #[inline(always)]
    pub(super) fn of(&mut self, bytes: usize) -> *mut u8 {
        let lines = bytes.div_ceil(size_of::<Line>());
        if self.0.len() < lines {
            self.0.resize(lines, Line::ZERO);
        }
        self.0.as_mut_ptr().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        isa::{dispatch, tests::tested},
        simd::{Op, Simd},
    };

    struct Unpack<'a>(Fields, &'a [i8]);

    impl Op for Unpack<'_> {
        type Out = (usize, Vec<i8>);

        #[inline(always)]
        fn call<S: Simd>(self, s: S) -> Self::Out {
            let unit = 4 * S::V::LANES;
            let fields = self.0.squeeze(self.1, unit);
            let mut out = vec![99i8; fields.len() * self.0.count()];
            // SAFETY: whole vectors.
            unsafe { unpack(s.v(), self.0, fields.as_ptr(), out.as_mut_ptr().cast(), fields.len() / unit) };
            (unit, out)
        }
    }

    #[test]
    fn fields_come_back() {
        for (least, most, bits) in [
            (-8i8, 7i8, 4),
            (-7, 7, 4),
            (0, 15, 4),
            (-15, 0, 4),
            (-2, 1, 2),
            (-1, 1, 2),
            (0, 3, 2),
            (0, 0, 2),
            (-4, 3, 4),
        ] {
            for n in [0usize, 1, 3, 4, 63, 64, 65, 256, 1000] {
                let span = i32::from(most) - i32::from(least) + 1;
                let mut w: Vec<i8> = (0..n).map(|i| (i32::from(least) + (i * i + i / 7) as i32 % span) as i8).collect();
                w.extend([least, most]);
                let fields = Fields::of(&w);
                assert_eq!(fields, Fields { bits, low: least.min(0) }, "{least} {most}");
                for unit in [1, 32, 64] {
                    let bytes = fields.squeeze(&w, unit);
                    assert_eq!(bytes.len(), fields.bytes(w.len(), unit));
                    assert_eq!(fields.spread(&bytes, unit, w.len()), w, "{least} {most} {unit}");
                }
                for isa in tested() {
                    let Some((unit, all)) = dispatch(isa, Unpack(fields, &w)) else { continue };
                    let padded = fields.spread(&fields.squeeze(&w, unit), unit, usize::MAX);
                    assert_eq!(all, padded, "{isa} {least} {most} {n}");
                    assert!(padded[..w.len()] == w && padded[w.len()..].iter().all(|&w| w == 0), "{isa}");
                }
            }
        }
    }

    #[test]
    fn wide_weights_stay_bytes() {
        for w in [vec![-8i8, 8], vec![16], vec![-128], vec![127, -128], [vec![0; 10_000], vec![100]].concat()] {
            assert_eq!(Fields::of(&w), Fields::BYTES, "{:?}", &w[..1]);
            assert_eq!(Fields::BYTES.spread(&Fields::BYTES.squeeze(&w, 64), 64, w.len()), w);
        }
        assert!(Fields::new(3, 0).is_err() && Fields::new(0, 0).is_err() && Fields::new(8, 1).is_err());
    }
}
