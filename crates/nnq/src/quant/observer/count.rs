//! The hot loop of the observers: one pass over the elements that bins them by the upper 16 bits of their binary32
//! pattern and adds up the lower 16.
//!
//! The counters are a table, indexed by those 16 bits, that is emptied into the sketch after each sample. A
//! cell holds the count and the sum of the lower bits in one `u64`, so that one addition does both; `LANES` tables are
//! interleaved so that equal values seldom wait for each other's stores. Zeros, which are half of what follows a Relu, are
//! counted by the vectorised pass and left out of the scalar one.
use nnq_kernels::float::without_zeros;

/// Elements that are looked at by the vectorised pass before the scalar one; stays in the first-level cache.
const BLOCK: usize = 2048;
/// Zeros of a block that are worth leaving out.
const MANY: u64 = BLOCK as u64 / 16;
/// Interleaved tables: few, so that the cells of a usual value fit into the first-level cache.
const LANES: usize = 2;
/// A cell is `count << SHIFT | sum of lower bits`; a lane takes at most `FLUSH / LANES + BLOCK` elements of 16 bits.
const SHIFT: u32 = 40;
/// Elements after which the cells are emptied.
const FLUSH: usize = 1 << 23;
/// Cells: sign, exponent and 7 bits of the mantissa.
const CELLS: usize = 1 << 16;
/// Cells of one sign and exponent.
pub(super) const PER_PAGE: usize = 128;
/// Exponents.
const PAGES: usize = CELLS / PER_PAGE / 2;

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

const MAGNITUDE: u32 = 0x7fff_ffff;
const INFINITE: u32 = 0x7f80_0000;

/// Counts the elements of one sample of a value, in any number of parts.
pub struct Counter {
    table: Table,
    seen: Summary,
    /// Elements in the table.
    held: usize,
}

struct Table {
    /// From the heap's zeroed pages: larger than a small stack, and untouched pages cost nothing.
    cells: Box<[[u64; LANES]; CELLS]>,
    /// By sign: the first and behind the last exponent that may hold something, and whether zeros were counted.
    touched: [[usize; 2]; 2],
    zeros: [bool; 2],
    /// A block without its zeros.
    rest: [f32; BLOCK],
}

/// From the first to behind the last page of none.
const NOTHING: [usize; 2] = [PAGES, 0];

impl Default for Counter {
    /// Nothing counted.
    fn default() -> Self {
        let table = Table {
            cells: vec![[0u64; LANES]; CELLS].into_boxed_slice().try_into().expect("CELLS cells"),
            touched: [NOTHING; 2],
            zeros: [false; 2],
            rest: [0.0; BLOCK],
        };
        Self { table, seen: Summary::EMPTY, held: 0 }
    }
}

impl Counter {
    /// Counts `data`. `page(key, cells)` is called, here or by [`Counter::end`], for each run of [`PER_PAGE`] cells that holds
    /// something, at most once per [`FLUSH`] elements and key, where `key` is sign and exponent and a cell is
    /// `(count, sum of lower bits)`.
    pub(super) fn add(&mut self, data: &[f32], mut page: impl FnMut(u16, &[(u64, u64); PER_PAGE])) {
        for block in data.chunks(BLOCK) {
            if self.held + block.len() > FLUSH {
                self.table.drain(&mut page);
                self.held = 0;
            }
            self.held += block.len();
            let seen = look(block);
            if seen.greatest < INFINITE {
                self.table.block(block, &seen);
                add(&mut self.seen, seen.summary);
            } else {
                self.table.block_finite(block, &mut self.seen);
            }
        }
    }
    /// What was counted since the last call; the counter is empty after it.
    pub(super) fn end(&mut self, mut page: impl FnMut(u16, &[(u64, u64); PER_PAGE])) -> Summary {
        self.table.drain(&mut page);
        self.held = 0;
        std::mem::replace(&mut self.seen, Summary::EMPTY)
    }
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

/// What the vectorised pass saw of a block.
struct Look {
    /// Counts as if all elements were finite.
    summary: Summary,
    /// Zeros with a sign.
    negative_zeros: u64,
    /// Least magnitude that is not zero, and greatest, as bit patterns.
    least: u32,
    greatest: u32,
}

/// Looks at a block, in the widest registers.
fn look(block: &[f32]) -> Look {
    pulp::Arch::new().dispatch(Block(block))
}

struct Block<'a>(&'a [f32]);

impl pulp::WithSimd for Block<'_> {
    type Output = Look;
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Look {
        look_here(self.0)
    }
}

/// Written so that the compiler vectorises it.
#[inline(always)]
fn look_here(block: &[f32]) -> Look {
    const W: usize = 16;
    let (mut min, mut max) = ([f32::INFINITY; W], [f32::NEG_INFINITY; W]);
    let (mut least, mut greatest) = ([u32::MAX; W], [0u32; W]);
    let (mut zeros, mut negative) = ([0u32; W], [0u32; W]);
    let mut step = |i: usize, x: f32| {
        let m = x.to_bits() & MAGNITUDE;
        min[i] = if x < min[i] { x } else { min[i] };
        max[i] = if x > max[i] { x } else { max[i] };
        greatest[i] = greatest[i].max(m);
        // Zero becomes the greatest.
        least[i] = least[i].min(m.wrapping_sub(1));
        zeros[i] += u32::from(m == 0);
        negative[i] += u32::from(x.to_bits() == !MAGNITUDE);
    };
    let (chunks, rest) = block.as_chunks::<W>();
    for c in chunks {
        for (i, &x) in c.iter().enumerate() {
            step(i, x);
        }
    }
    for (i, &x) in rest.iter().enumerate() {
        step(i, x);
    }
    let sum = |n: [u32; W]| n.into_iter().map(u64::from).sum();
    Look {
        summary: Summary {
            // Adding +0 turns -0 into +0, which makes the extremes independent of the order.
            min: min.into_iter().fold(f32::INFINITY, f32::min) + 0.0,
            max: max.into_iter().fold(f32::NEG_INFINITY, f32::max) + 0.0,
            finite: block.len() as u64,
            zeros: sum(zeros),
            ..Summary::EMPTY
        },
        negative_zeros: sum(negative),
        least: least.into_iter().fold(u32::MAX, u32::min).wrapping_add(1),
        greatest: greatest.into_iter().fold(0, u32::max),
    }
}

impl Table {
    /// Counts finite elements.
    fn block(&mut self, block: &[f32], seen: &Look) {
        let zeros = [seen.summary.zeros - seen.negative_zeros, seen.negative_zeros];
        let occurs = [seen.summary.max > 0.0, seen.summary.min < 0.0];
        let pages = [seen.least >> 23, (seen.greatest >> 23) + 1].map(|page| page as usize);
        for sign in 0..2 {
            self.zeros[sign] |= zeros[sign] > 0;
            if occurs[sign] {
                let touched = &mut self.touched[sign];
                *touched = [touched[0].min(pages[0]), touched[1].max(pages[1])];
            }
        }
        if seen.summary.zeros < MANY {
            bin(&mut self.cells, block);
        } else {
            for (sign, n) in zeros.into_iter().enumerate() {
                self.cells[sign * CELLS / 2][0] += n << SHIFT;
            }
            let n = without_zeros(block, &mut self.rest);
            bin(&mut self.cells, &self.rest[..n]);
        }
    }
    /// A block with NaN or infinities, which are counted and left out.
    #[cold]
    fn block_finite(&mut self, block: &[f32], all: &mut Summary) {
        for x in block {
            if x.is_nan() {
                all.nan += 1;
            } else if *x == f32::INFINITY {
                all.pos_inf += 1;
            } else if *x == f32::NEG_INFINITY {
                all.neg_inf += 1;
            } else {
                let one = std::slice::from_ref(x);
                let seen = look(one);
                self.block(one, &seen);
                add(all, seen.summary);
            }
        }
    }
    /// Hands over and clears what was counted.
    fn drain(&mut self, page: &mut impl FnMut(u16, &[(u64, u64); PER_PAGE])) {
        for sign in 0..2 {
            let [start, end] = std::mem::replace(&mut self.touched[sign], NOTHING);
            let zeros = std::mem::take(&mut self.zeros[sign]) && start > 0;
            for exponent in zeros.then_some(0).into_iter().chain(start..end) {
                let (mut sums, mut any) = ([(0u64, 0u64); PER_PAGE], 0);
                let key = sign * PAGES + exponent;
                for (sum, lanes) in sums.iter_mut().zip(&mut self.cells[key * PER_PAGE..][..PER_PAGE]) {
                    for lane in lanes {
                        sum.0 += *lane >> SHIFT;
                        sum.1 += *lane & ((1 << SHIFT) - 1);
                        any |= *lane;
                        *lane = 0;
                    }
                }
                if any > 0 {
                    page(key as u16, &sums);
                }
            }
        }
    }
}

/// The hot loop.
fn bin(cells: &mut [[u64; LANES]; CELLS], block: &[f32]) {
    let mut one = |lane: usize, x: f32| {
        let bits = x.to_bits();
        cells[(bits >> 16) as usize][lane] += (1 << SHIFT) + u64::from(bits & 0xffff);
    };
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in chunk.iter().enumerate() {
            one(lane, x);
        }
    }
    for &x in rest {
        one(0, x);
    }
}
