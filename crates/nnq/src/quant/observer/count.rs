//! The hot loop of the observers: one pass over the elements that bins them by the upper 16 bits of their binary32
//! pattern and adds up the lower 16.
//!
//! The counters are a table per thread, indexed by those 16 bits, that is emptied into the sketch after each call. A
//! cell holds the count and the sum of the lower bits in one `u64`, so that one addition does both; `LANES` tables are
//! interleaved so that runs of equal values (zeros after a Relu) do not wait for their own stores.
use std::cell::RefCell;

/// Elements that are looked at by the vectorised pass before the scalar one; stays in the first-level cache.
const BLOCK: usize = 2048;
/// Interleaved tables.
const LANES: usize = 4;
/// A cell is `count << SHIFT | sum of lower bits`; a lane takes at most `FLUSH / LANES + BLOCK` elements of 16 bits.
const SHIFT: u32 = 40;
/// Elements after which the cells are emptied.
const FLUSH: usize = 1 << 24;
/// Cells: sign, exponent and 7 bits of the mantissa.
const CELLS: usize = 1 << 16;
/// Cells of one sign and exponent.
pub(super) const PER_PAGE: usize = 128;
/// Signs and exponents.
const PAGES: usize = CELLS / PER_PAGE;

/// What one call saw besides the histogram.
#[derive(Clone, Copy)]
pub(super) struct Summary {
    /// Least finite value; +inf when there is none. Never -0.
    pub min: f32,
    /// Greatest finite value; -inf when there is none. Never -0.
    pub max: f32,
    /// Finite elements, zeros among them.
    pub finite: u64,
    /// Elements equal to zero.
    pub zeros: u64,
    pub nan: u64,
    pub pos_inf: u64,
    pub neg_inf: u64,
}

impl Summary {
    const EMPTY: Self =
        Self { min: f32::INFINITY, max: f32::NEG_INFINITY, finite: 0, zeros: 0, nan: 0, pos_inf: 0, neg_inf: 0 };
}

const MAGNITUDE: i32 = i32::MAX;
const INFINITE: i32 = 0x7f80_0000;

struct Table {
    /// From the heap's zeroed pages: larger than a small stack, and untouched pages cost nothing.
    cells: Box<[[u64; LANES]; CELLS]>,
    /// Which signs and exponents occurred: the pages to drain.
    touched: [bool; PAGES],
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::new(Table {
        cells: vec![[0u64; LANES]; CELLS].into_boxed_slice().try_into().expect("CELLS cells"),
        touched: [false; PAGES],
    });
}

/// Counts `data`. `page(key, cells)` is called for each run of [`PER_PAGE`] cells that holds something, at most once
/// per [`FLUSH`] elements and key, where `key` is sign and exponent and a cell is `(count, sum of lower bits)`.
pub(super) fn count(data: &[f32], mut page: impl FnMut(u16, &[(u64, u64); PER_PAGE])) -> Summary {
    TABLE.with(|table| {
        let table = &mut *table.borrow_mut();
        let mut all = Summary::EMPTY;
        for part in data.chunks(FLUSH) {
            for block in part.chunks(BLOCK) {
                let (finite, s) = look(block);
                if finite {
                    table.bin(block);
                    add(&mut all, s);
                } else {
                    table.bin_finite(block, &mut all);
                }
            }
            table.drain(&mut page);
        }
        all
    })
}

fn add(all: &mut Summary, s: Summary) {
    all.min = all.min.min(s.min);
    all.max = all.max.max(s.max);
    all.finite += s.finite;
    all.zeros += s.zeros;
    all.nan += s.nan;
    all.pos_inf += s.pos_inf;
    all.neg_inf += s.neg_inf;
}

/// Extremes and zeros of a block, and whether all of it is finite; written so that the compiler vectorises it.
fn look(block: &[f32]) -> (bool, Summary) {
    const W: usize = 8;
    let (mut min, mut max) = ([f32::INFINITY; W], [f32::NEG_INFINITY; W]);
    let (mut greatest, mut zeros) = ([0i32; W], [0i32; W]);
    let mut step = |i: usize, x: f32| {
        let m = x.to_bits().cast_signed() & MAGNITUDE;
        min[i] = if x < min[i] { x } else { min[i] };
        max[i] = if x > max[i] { x } else { max[i] };
        greatest[i] = if m > greatest[i] { m } else { greatest[i] };
        zeros[i] += i32::from(m == 0);
    };
    let mut chunks = block.chunks_exact(W);
    for c in &mut chunks {
        for (i, &x) in c.iter().enumerate() {
            step(i, x);
        }
    }
    for (i, &x) in chunks.remainder().iter().enumerate() {
        step(i, x);
    }
    let s = Summary {
        // Adding +0 turns -0 into +0, which makes the extremes independent of the order.
        min: min.into_iter().fold(f32::INFINITY, f32::min) + 0.0,
        max: max.into_iter().fold(f32::NEG_INFINITY, f32::max) + 0.0,
        finite: block.len() as u64,
        zeros: zeros.into_iter().map(|z| u64::from(z.unsigned_abs())).sum(),
        ..Summary::EMPTY
    };
    (greatest.into_iter().all(|g| g < INFINITE), s)
}

impl Table {
    fn bin(&mut self, block: &[f32]) {
        let mut chunks = block.chunks_exact(LANES);
        for c in &mut chunks {
            for (lane, &x) in c.iter().enumerate() {
                self.one(lane, x);
            }
        }
        for &x in chunks.remainder() {
            self.one(0, x);
        }
    }
    #[inline]
    fn one(&mut self, lane: usize, x: f32) {
        let bits = x.to_bits();
        let key = (bits >> 16) as usize;
        self.cells[key][lane] += (1 << SHIFT) + u64::from(bits & 0xffff);
        self.touched[key / PER_PAGE] = true;
    }
    /// A block with NaN or infinities, which are counted and left out.
    #[cold]
    fn bin_finite(&mut self, block: &[f32], all: &mut Summary) {
        for x in block {
            if x.is_nan() {
                all.nan += 1;
            } else if *x == f32::INFINITY {
                all.pos_inf += 1;
            } else if *x == f32::NEG_INFINITY {
                all.neg_inf += 1;
            } else {
                let one = std::slice::from_ref(x);
                self.bin(one);
                add(all, look(one).1);
            }
        }
    }
    /// Hands over and clears what was counted.
    fn drain(&mut self, page: &mut impl FnMut(u16, &[(u64, u64); PER_PAGE])) {
        for (key, touched) in (0u16..).zip(&mut self.touched) {
            if !std::mem::take(touched) {
                continue;
            }
            let mut sums = [(0u64, 0u64); PER_PAGE];
            let start = usize::from(key) * PER_PAGE;
            for (sum, lanes) in sums.iter_mut().zip(&mut self.cells[start..start + PER_PAGE]) {
                for lane in lanes {
                    sum.0 += *lane >> SHIFT;
                    sum.1 += *lane & ((1 << SHIFT) - 1);
                    *lane = 0;
                }
            }
            page(key, &sums);
        }
    }
}
