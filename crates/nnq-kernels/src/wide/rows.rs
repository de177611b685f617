//! Softmax and layer normalisation of rows of codes.
use super::{
    Codes, CodesMut, Each, OnVectors, Target, Width, compiled, each,
    vector::{Made, Normed, Read, Shares},
};
use crate::{
    Isa,
    isa::dispatch,
    round::integers::{NEAR, Norm, ROW, Softmax, mask_code},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A layer normalisation along the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NormRows {
    /// The numbers.
    pub norm: Arc<Norm>,
    /// How the operand is stored.
    pub from: Width,
    /// Its zero point.
    pub x_zero: i32,
    /// The result.
    pub to: Target,
}

impl NormRows {
    /// Whether the numbers fit each other.
    pub fn is_whole(&self) -> bool {
        self.norm.is_valid() && self.from != Width::Sum && self.x_zero.unsigned_abs() <= 1 << 15 && self.to.is_valid()
    }

    /// Whole rows.
    ///
    /// # Panics
    /// When the lengths differ or the widths are not those that were said.
    pub fn run(&self, isa: Isa, x: Codes<'_>, y: CodesMut<'_>) {
        each(x, y, &OnVectors(self, isa));
    }
}

impl Each for OnVectors<'_, NormRows> {
    fn run<X: Read, Y: Made>(&self, x: &[X], y: &mut [Y]) {
        let &Self(spec, isa) = self;
        let (norm, zero, to) = (&*spec.norm, spec.x_zero, spec.to);
        let columns = norm.gain.len();
        assert!(x.len() == y.len() && x.len().is_multiple_of(columns), "{} codes of rows of {columns}", x.len());
        if columns <= NEAR {
            let mut work = Normed { x, y, zero, norm, to };
            if dispatch(isa, &mut work).is_none() {
                work.scalar();
            }
            return;
        }
        for (x, y) in x.chunks_exact(columns).zip(y.chunks_exact_mut(columns)) {
            let (mut sum, mut squares) = (0i64, 0u64);
            for &x in x {
                let a = i64::from(x.into() - zero);
                sum += a;
                squares += (a * a) as u64;
            }
            let row = norm.row(sum, squares);
            for i in 0..columns {
                y[i] = Y::of(to.code(norm.element(i, x[i].into() - zero, row)));
            }
        }
    }
}

/// What is added to a row before a softmax.
#[derive(Clone, Copy, Debug)]
pub enum RowMask<'a> {
    /// Real numbers, to what codes stand for.
    Real(&'a [f32]),
    /// Numbers from 0 to 255, and what each adds to a code.
    Table(&'a [i16], &'a [i32; 256]),
}

impl RowMask<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Real(m) => m.len(),
            Self::Table(ids, _) => ids.len(),
        }
    }
    /// Whether it changes anything.
    pub(crate) fn hides(&self) -> bool {
        match self {
            Self::Real(m) => m.iter().fold(0, |all, m| all | (m.to_bits() << 1)) != 0,
            Self::Table(ids, table) => ids.iter().any(|&id| table[id as usize & 255] != 0),
        }
    }
}

/// A softmax along the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SoftmaxRows {
    /// The numbers.
    pub softmax: Arc<Softmax>,
    /// The scale of the operand: what a mask is divided by.
    pub scale: f32,
    /// Codes of a row.
    pub columns: usize,
    /// The result; bytes.
    pub to: Target,
}

impl SoftmaxRows {
    /// Whether the numbers fit each other.
    pub fn is_whole(&self) -> bool {
        let row = self.columns <= ROW;
        row && self.softmax.is_valid() && self.to.is_valid() && self.to.width == Width::Byte
    }

    /// `E` of all differences of bytes.
    pub fn near(&self) -> [u32; 256] {
        let mut near = [0; 256];
        let last = self.softmax.table.len().min(256);
        near[..last].copy_from_slice(&self.softmax.table[..last]);
        near
    }

    /// One row; `mask` is added to its codes, or to the numbers that they stand for; one that hides nothing is better left out. `near` is that of [`SoftmaxRows::near`], `room` memory to work in.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn row(
        &self,
        isa: Isa,
        x: &[u8],
        mask: Option<RowMask<'_>>,
        y: &mut [u8],
        (near, room): (&[u32; 256], &mut Vec<i32>),
    ) {
        let n = self.columns;
        assert!(x.len() == n && y.len() == n && mask.is_none_or(|m| m.len() == n), "rows of other sizes than {n}");
        if n == 0 {
            return;
        }
        let (softmax, to) = (&*self.softmax, self.to);
        room.resize(n, 0);
        let room = &mut room[..n];
        let sum = match mask {
            None => {
                let mut sum = 0u32;
                compiled(
                    isa,
                    #[inline(always)]
                    || {
                        let mut most = 0;
                        for &q in x {
                            most = most.max(q);
                        }
                        // At most 2^15 times 2^16.
                        for (e, &q) in room.iter_mut().zip(x) {
                            let share = near[usize::from(most - q)];
                            *e = share.cast_signed();
                            sum += share;
                        }
                    },
                );
                sum
            }
            Some(mask) => {
                match mask {
                    RowMask::Real(mask) => compiled(
                        isa,
                        #[inline(always)]
                        || {
                            for ((u, &q), &m) in room.iter_mut().zip(x).zip(mask) {
                                *u = i32::from(q) + mask_code(m, self.scale);
                            }
                        },
                    ),
                    RowMask::Table(ids, table) => {
                        for ((u, &q), &id) in room.iter_mut().zip(x).zip(ids) {
                            *u = i32::from(q) + table[id as usize & 255];
                        }
                    }
                }
                let most = room.iter().copied().fold(i32::MIN, i32::max);
                room.iter_mut().for_each(|u| *u = softmax.exp(most - *u).cast_signed());
                room.iter().fold(0u32, |sum, e| sum + e.cast_unsigned())
            }
        };
        let factor = softmax.factor(sum.into());
        let done = match u32::try_from(factor) {
            // Shares of at most 2^12: 32 bits hold what follows.
            Ok(factor) => dispatch(isa, Shares { exponentials: room, y, factor, to }).unwrap_or(0),
            Err(_) => 0,
        };
        for (y, &e) in y.iter_mut().zip(room.iter()).skip(done) {
            *y = to.code(Softmax::share(e.cast_unsigned(), factor)) as u8;
        }
    }
}
