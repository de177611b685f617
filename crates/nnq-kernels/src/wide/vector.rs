//! Vector code for rows of codes, however they are stored: the columns that fill whole vectors. The scalar code takes the others.
use super::Target;
use crate::{
    round::{
        AddDyadic,
        integers::{Near, Norm, Row},
        words::{AddVector, Factors, NearVector, ShareVector},
    },
    simd::{Op, Simd, Vector},
};

/// A type that codes are read as.
pub(super) trait Read: Copy + Into<i32> {
    /// A vector of them.
    ///
    /// # Safety
    /// As many as a vector has lanes are readable at `p`.
    unsafe fn load<V: Vector>(v: V, p: *const Self) -> V::I;
}

/// A type that codes are written as.
pub(super) trait Made: Copy {
    /// A code that this type holds.
    fn of(code: i32) -> Self;
    /// A vector of codes that this type holds.
    ///
    /// # Safety
    /// As many as a vector has lanes are writable at `p`.
    unsafe fn store<V: Vector>(v: V, p: *mut Self, x: V::I);
}

macro_rules! stored {
    ($type:ty, $read:ident $(, $made:ident)?) => {
        impl Read for $type {
            #[inline(always)]
            unsafe fn load<V: Vector>(v: V, p: *const Self) -> V::I {
                // SAFETY: the caller's.
                unsafe { v.$read(p) }
            }
        }
        $(impl Made for $type {
            #[inline(always)]
            fn of(code: i32) -> Self {
                code as $type
            }
            #[inline(always)]
            unsafe fn store<V: Vector>(v: V, p: *mut Self, x: V::I) {
                // SAFETY: the caller's.
                unsafe { v.$made(p, x) }
            }
        })?
    };
}
stored!(u8, widen, narrow);
stored!(i16, widen_words, narrow_words);
stored!(i32, load);

/// The columns that fill whole vectors of `lanes`.
fn whole(columns: usize, lanes: usize) -> usize {
    columns - columns % lanes
}

/// [`super::Rescale`], for multipliers whose missing bits fit: `x` and `y` are rows as long as `mult` and `shift`.
pub(super) struct Rescaled<'a, X, Y> {
    pub(super) x: &'a [X],
    pub(super) y: &'a mut [Y],
    pub(super) zero: i32,
    pub(super) mult: &'a [i32],
    pub(super) shift: &'a [u8],
    pub(super) to: Target,
}

impl<X: Read, Y: Made> Op for Rescaled<'_, X, Y> {
    /// How many columns are done.
    type Out = usize;

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> usize {
        let (v, lanes) = (s.v(), S::V::LANES);
        let columns = self.mult.len();
        let zero = v.splat(self.zero);
        let factors = Factors::new(v, self.to.parts());
        assert!(self.shift.len() == columns && self.x.len() == self.y.len());
        for (x, y) in self.x.chunks_exact(columns).zip(self.y.chunks_exact_mut(columns)) {
            for j in (0..whole(columns, lanes)).step_by(lanes) {
                // SAFETY: a vector of columns begins at `j` in each of them.
                let (x, mult, shift) = unsafe {
                    (X::load(v, x[j..].as_ptr()), v.load(self.mult[j..].as_ptr()), v.widen(self.shift[j..].as_ptr()))
                };
                let codes = factors.apply(v, v.sub(x, zero), mult, shift);
                // SAFETY: as above.
                unsafe { Y::store(v, y[j..].as_mut_ptr(), codes) };
            }
        }
        whole(columns, lanes)
    }
}

/// [`super::AddWide`], where 32 bits hold what is clamped.
pub(super) struct Added<'a, A, B, Y> {
    pub(super) a: &'a [A],
    pub(super) b: &'a [B],
    pub(super) y: &'a mut [Y],
    pub(super) zeros: [i32; 2],
    pub(super) by: AddDyadic,
    pub(super) to: Target,
}

impl<A: Read, B: Read, Y: Made> Op for Added<'_, A, B, Y> {
    /// How many elements are done.
    type Out = usize;

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> usize {
        let (v, lanes) = (s.v(), S::V::LANES);
        let add = AddVector::new(v, self.by, self.to.parts());
        let (za, zb) = (v.splat(self.zeros[0]), v.splat(self.zeros[1]));
        let n = whole(self.y.len(), lanes);
        assert!(self.a.len() == self.y.len() && self.b.len() == self.y.len());
        for i in (0..n).step_by(lanes) {
            // SAFETY: a vector begins at `i` in each of them.
            let (a, b) = unsafe { (A::load(v, self.a[i..].as_ptr()), B::load(v, self.b[i..].as_ptr())) };
            let codes = add.apply(v, v.sub(a, za), v.sub(b, zb));
            // SAFETY: as above.
            unsafe { Y::store(v, self.y[i..].as_mut_ptr(), codes) };
        }
        n
    }
}

/// [`super::NormRows`] of short rows.
pub(super) struct Normed<'a, X, Y> {
    pub(super) x: &'a [X],
    pub(super) y: &'a mut [Y],
    pub(super) zero: i32,
    pub(super) norm: &'a Norm,
    pub(super) to: Target,
}

impl<X: Read, Y: Made> Normed<'_, X, Y> {
    /// One row, from column `from` on.
    #[inline(always)]
    fn rest(&mut self, row: usize, from: usize, part: Near) {
        let (norm, to) = (self.norm, self.to);
        let columns = norm.gain.len();
        let r = row * columns + from..(row + 1) * columns;
        let of = norm.gain[from..].iter().zip(&norm.offset[from..]);
        for ((x, y), (&gain, &offset)) in self.x[r.clone()].iter().zip(&mut self.y[r]).zip(of) {
            let steps = part.element(gain, offset, (*x).into() - self.zero);
            *y = Y::of(steps.clamp(to.lo - to.zero, to.hi - to.zero) + to.zero);
        }
    }

    /// What the elements of a row share, whose columns below `from` have the sum `sum` and squares of the sum `squares`.
    #[inline(always)]
    fn row(&self, row: usize, from: usize, (mut sum, mut squares): (i64, u64)) -> Row {
        let columns = self.norm.gain.len();
        for x in &self.x[row * columns + from..(row + 1) * columns] {
            let a = i64::from((*x).into() - self.zero);
            sum += a;
            squares += (a * a) as u64;
        }
        self.norm.row(sum, squares)
    }

    /// All of it in scalar code.
    pub(super) fn scalar(&mut self) {
        for row in 0..self.x.len() / self.norm.gain.len() {
            let part = self.norm.near(self.row(row, 0, (0, 0)));
            self.rest(row, 0, part);
        }
    }
}

impl<X: Read, Y: Made> Op for &mut Normed<'_, X, Y> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let (v, lanes) = (s.v(), S::V::LANES);
        let columns = self.norm.gain.len();
        let (zero, n) = (v.splat(self.zero), whole(columns, lanes));
        assert!(self.x.len() == self.y.len() && self.norm.offset.len() == columns);
        for row in 0..self.x.len() / columns {
            let (mut sums, mut squares) = (v.splat(0), [v.splat(0); 2]);
            let x = &self.x[row * columns..][..columns];
            for j in (0..n).step_by(lanes) {
                // SAFETY: a vector begins at `j`.
                let a = v.sub(unsafe { X::load(v, x[j..].as_ptr()) }, zero);
                sums = v.add(sums, a);
                let more = v.products(a, a);
                squares = [v.add_long(squares[0], more[0]), v.add_long(squares[1], more[1])];
            }
            // Sums of a short row fit 32 bits.
            let sum = lanes_of(v, sums).iter().map(|&x| i64::from(x)).sum();
            let both = lanes_of(v, v.add_long(squares[0], squares[1]));
            let square = both.chunks_exact(2).map(|half| u64::from(half[0] as u32) | u64::from(half[1] as u32) << 32);
            let part = self.norm.near(self.row(row, n, (sum, square.sum())));
            let near = NearVector::new(v, part, self.to.parts());
            let y = &mut self.y[row * columns..][..columns];
            for j in (0..n).step_by(lanes) {
                // SAFETY: a vector of columns begins at `j` in each of them.
                let (a, gain, offset) = unsafe {
                    let of = self.norm.gain[j..].as_ptr();
                    (X::load(v, x[j..].as_ptr()), v.load(of), v.load(self.norm.offset[j..].as_ptr()))
                };
                let codes = near.element(v, gain, offset, v.sub(a, zero));
                // SAFETY: as above.
                unsafe { Y::store(v, y[j..].as_mut_ptr(), codes) };
            }
            self.rest(row, n, part);
        }
    }
}

/// The shares of a row of exponentials, by a factor of 32 bits.
pub(super) struct Shares<'a> {
    pub(super) exponentials: &'a [i32],
    pub(super) y: &'a mut [u8],
    pub(super) factor: u32,
    pub(super) to: Target,
}

impl Op for Shares<'_> {
    /// How many are done.
    type Out = usize;

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> usize {
        let (v, lanes) = (s.v(), S::V::LANES);
        let n = whole(self.y.len(), lanes);
        let share = ShareVector::new(v, self.factor, self.to.parts());
        assert!(self.exponentials.len() == self.y.len());
        for i in (0..n).step_by(lanes) {
            // SAFETY: a vector begins at `i` in each of them.
            unsafe {
                let e = v.load(self.exponentials[i..].as_ptr());
                v.narrow(self.y[i..].as_mut_ptr(), share.apply(v, e));
            }
        }
        n
    }
}

/// The lanes of a vector, zeros behind them.
#[inline(always)]
fn lanes_of<V: Vector>(v: V, x: V::I) -> [i32; crate::simd::MAX_LANES] {
    let mut all = [0; crate::simd::MAX_LANES];
    // SAFETY: the array holds the most lanes.
    unsafe { v.store(all.as_mut_ptr(), x) };
    all
}
