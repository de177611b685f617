//! Products of two values of codes: `docs/numerics.md` section 14.
use crate::{
    Isa, SLACK,
    conv::{BoundConv, ConvGeom, Epilogue, Grids, Order, Out, PackedConv, Requant, Scratch, epilogue::OutPtr},
    round::Dyadic,
};
use serde::{Deserialize, Serialize};

/// Products of matrices of codes, `[batch][rows][depth]` times `[batch][depth][columns]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Pair {
    pub batch: usize,
    pub rows: usize,
    pub depth: usize,
    pub columns: usize,
    pub a_zero: u8,
    pub b_zero: u8,
    pub by: Dyadic,
    /// Zero point of the output.
    pub zero: u8,
    /// Smallest output code.
    pub lo: u8,
    /// Largest output code.
    pub hi: u8,
}

impl Pair {
    /// Whether sums of products of bytes fit 32 bits: `depth * 255 * 255 <= 2^31 - 1`.
    pub fn fits(depth: usize) -> bool {
        depth <= i32::MAX as usize / (255 * 255)
    }

    /// Codes of the first operand, of the second, and of the result.
    pub fn lens(&self) -> [usize; 3] {
        let &Pair { batch, rows, depth, columns, .. } = self;
        [batch * rows * depth, batch * depth * columns, batch * rows * columns]
    }

    /// Whether the numbers fit each other.
    pub fn is_whole(&self) -> bool {
        let by = self.by.mult >= 0 && (1..=62).contains(&self.by.shift);
        by && Pair::fits(self.depth) && self.lo <= self.hi
    }

    /// The product number `index`, of operands that begin there, to an address. The first has [`SLACK`] bytes behind it.
    ///
    /// # Safety
    /// `rows * columns` bytes are writable at `y`, and nobody else uses them.
    pub(crate) unsafe fn run(&self, isa: Isa, a: &[u8], b: &[u8], y: *mut u8, work: (&mut Vec<i8>, &mut Scratch)) {
        let &Pair { rows, depth, columns, .. } = self;
        let (signed, scratch) = work;
        if rows == 0 || columns == 0 {
            return;
        }
        let (mult, shift) = (vec![self.by.mult; columns], vec![self.by.shift; columns]);
        let requant = Requant::Dyadic { mult: &mult, shift: &shift };
        let of = Bound { a_zero: self.a_zero, b_zero: self.b_zero, requant, zero: self.zero, lo: self.lo, hi: self.hi };
        let conv = of.bind(isa, [rows, depth, columns], [a, b], signed);
        // SAFETY: the caller's.
        unsafe {
            conv.run_part(a, Grids::Bound, 0..rows, 0..conv.panels(), OutPtr::U8 { data: y, pitch: columns }, scratch)
        };
    }
}

/// What a product is bound to.
struct Bound<'a> {
    a_zero: u8,
    b_zero: u8,
    requant: Requant<'a>,
    zero: u8,
    lo: u8,
    hi: u8,
}

impl Bound<'_> {
    fn bind(
        &self,
        isa: Isa,
        [rows, depth, columns]: [usize; 3],
        [a, b]: [&[u8]; 2],
        signed: &mut Vec<i8>,
    ) -> BoundConv {
        assert!(a.len() >= rows * depth + SLACK && b.len() >= depth * columns, "operands of a product are too short");
        let geom = ConvGeom::matrix(rows, depth, columns);
        signed.clear();
        signed.extend(b[..depth * columns].iter().map(|&q| (q ^ 0x80).cast_signed()));
        let packed = PackedConv::pack_from(isa, &geom, signed, Order::Rows);
        let zero = vec![i32::from(self.b_zero) - 128; columns];
        let epilogue = Epilogue {
            bias: &vec![0; columns],
            w_zero: (self.b_zero != 128).then_some(&zero),
            requant: self.requant,
            zero: self.zero,
            lo: self.lo,
            hi: self.hi,
        };
        packed.bind(&geom, self.a_zero, &epilogue)
    }
}

/// `out[i][j] = sum_k a[i][k] * (b[k][j] - b_zero)` of `[rows][depth]` codes and `[depth][columns]` codes. The first operand has [`SLACK`] bytes
/// behind it.
///
/// # Panics
/// When an operand or `out` is too short.
pub fn sums(
    isa: Isa,
    [rows, depth, columns]: [usize; 3],
    a: &[u8],
    (b, b_zero): (&[u8], u8),
    out: &mut [i32],
    (signed, scratch): (&mut Vec<i8>, &mut Scratch),
) {
    if rows == 0 || columns == 0 {
        return;
    }
    let of = Bound { a_zero: 0, b_zero, requant: Requant::None, zero: 0, lo: 0, hi: 255 };
    let conv = of.bind(isa, [rows, depth, columns], [a, b], signed);
    conv.run(a, 0..rows, Out::I32(&mut out[..rows * columns]), scratch);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{isa::tests::tested, round::requantize_dyadic};

    #[test]
    fn products_are_the_sums_of_section_14() {
        let bytes = |n: usize, seed: u32| -> Vec<u8> {
            (0..n as u32).map(|i| ((i ^ seed).wrapping_mul(0x9e37_79b1) >> 9) as u8).collect()
        };
        for (rows, depth, columns) in [(1, 1, 1), (6, 8, 6), (17, 33, 40), (3, 130, 5), (0, 4, 3)] {
            for b_zero in [0, 128, 201] {
                let by = Dyadic::from_real(0.0011).unwrap();
                let of = Pair { batch: 1, rows, depth, columns, a_zero: 77, b_zero, by, zero: 120, lo: 1, hi: 250 };
                assert!(of.is_whole());
                let (a, b) = (bytes(rows * depth + SLACK, 1), bytes(depth * columns, 2));
                for isa in tested() {
                    let mut y = vec![0u8; rows * columns];
                    // SAFETY: `y` holds all results.
                    unsafe { of.run(isa, &a, &b, y.as_mut_ptr(), (&mut Vec::new(), &mut Scratch::new())) };
                    let mut all = vec![0; rows * columns];
                    let work = (&mut Vec::new(), &mut Scratch::new());
                    sums(isa, [rows, depth, columns], &a, (&b, b_zero), &mut all, work);
                    for (i, &y) in y.iter().enumerate() {
                        let (r, c) = (i / columns, i % columns);
                        let term = |k: usize| {
                            (i32::from(a[r * depth + k]) - 77) * (i32::from(b[k * columns + c]) - i32::from(b_zero))
                        };
                        let sum = (0..depth).map(term).sum();
                        let want = requantize_dyadic(sum, by, 120, 1, 250);
                        assert_eq!(i32::from(y), want, "{isa} {rows}x{depth}x{columns} {b_zero} {i}");
                        let columns_sum: i32 =
                            (0..depth).map(|k| i32::from(b[k * columns + c]) - i32::from(b_zero)).sum();
                        assert_eq!(all[i] - 77 * columns_sum, sum, "{isa} {rows}x{depth}x{columns} {b_zero} {i}");
                    }
                }
            }
        }
    }
}
