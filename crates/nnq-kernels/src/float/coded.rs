//! Products of real numbers with weights that are held as codes: weight-only quantization (`docs/numerics.md`, section 13).
//!
//! The codes lie in fields of 2 or 4 bits, or in bytes, and become numbers in registers: no more bytes come from memory than these. Panels of channels follow each other; in a panel the blocks of `k`, in a block words of 32 bits, each with some codes of one
//! channel, or one byte for each channel.
#![allow(clippy::needless_range_loop)]
use super::{
    Each, FloatIsa, Shared, once, part,
    tile::LINE,
    vector::{Lanes, Work},
};
use crate::simd::fetch;
use std::ops::Range;

/// Codes of weights `[k, n]` and what they stand for, `(code - zero) * scale`.
pub struct Codes<'a> {
    /// The code of `(k, n)`.
    pub code: &'a dyn Fn(usize, usize) -> i32,
    /// The smallest and the largest that occur.
    pub range: [i32; 2],
    /// How many `k` share a scale and a zero point; the last block may be shorter.
    pub block: usize,
    /// The scale of block `b` of channel `n`.
    pub scale: &'a dyn Fn(usize, usize) -> f32,
    /// Its zero point.
    pub zero: &'a dyn Fn(usize, usize) -> i32,
}

/// How codes are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Width {
    Two,
    Four,
    Byte,
}

impl Width {
    /// The narrowest for so many different codes.
    fn of(levels: i64) -> Self {
        match levels {
            ..=4 => Self::Two,
            5..=16 => Self::Four,
            _ => Self::Byte,
        }
    }
    /// Words of a vector of channels for `len` codes each, `lanes` channels in a vector.
    fn words(self, len: usize, lanes: usize) -> usize {
        match self {
            Self::Two => len.div_ceil(16) * lanes,
            Self::Four => len.div_ceil(8) * lanes,
            // Of one channel each byte takes a word: there are vectors of one lane.
            Self::Byte => len * lanes.div_ceil(4),
        }
    }
}

/// Packed codes.
pub struct CodedProduct {
    isa: FloatIsa,
    width: Width,
    /// What field 0 stands for, less zero points.
    least: i32,
    k: usize,
    n: usize,
    block: usize,
    words: Vec<u32>,
    /// Where they begin: at the start of a cache line.
    start: usize,
    /// Of each panel, block by block.
    scales: Vec<f32>,
    /// Likewise; `None` where all are 0.
    zeros: Option<Vec<f32>>,
}

impl CodedProduct {
    /// Packs weights of sizes `[k, n]`.
    ///
    /// # Panics
    /// When the codes take more than 8 bits, or there are blocks of 0.
    pub fn pack(isa: FloatIsa, [k, n]: [usize; 2], codes: &Codes<'_>) -> Self {
        let [low, high] = codes.range;
        assert!(
            i64::from(high) - i64::from(low) < 256 && codes.block > 0,
            "codes of more than 8 bits, or empty blocks"
        );
        let width = Width::of(i64::from(high) - i64::from(low) + 1);
        // Bytes are signed; what they are lowered by, zero points are, too.
        let lift = if width == Width::Byte && high > i32::from(i8::MAX) { 128 } else { 0 };
        let least = if width == Width::Byte { 0 } else { low };
        let (lanes, panel) = (isa.lanes(), isa.panel());
        let (padded, blocks) = (n.next_multiple_of(lanes), k.div_ceil(codes.block));
        let block_len = |b: usize| codes.block.min(k - b * codes.block);
        let per_vector: usize = (0..blocks).map(|b| width.words(block_len(b), lanes)).sum();
        let mut words = vec![0u32; padded / lanes * per_vector + 2 * LINE];
        let start = words.as_ptr().align_offset(LINE * size_of::<u32>()).min(LINE);
        let mut scales = vec![0.0f32; padded * blocks];
        let mut zeros = vec![0.0f32; padded * blocks];
        let (mut at, mut scale_at) = (start, 0);
        for first in (0..padded).step_by(panel.max(1)) {
            let wide = panel.min(padded - first);
            for b in 0..blocks {
                let len = block_len(b);
                for c in 0..wide.min(n - first) {
                    let channel = first + c;
                    scales[scale_at + c] = (codes.scale)(b, channel);
                    zeros[scale_at + c] = ((codes.zero)(b, channel) - lift) as f32;
                    for i in 0..len {
                        let code = (codes.code)(b * codes.block + i, channel);
                        let field = (code - low) as u32;
                        match width {
                            Width::Two => words[at + i / 16 * wide + c] |= field << (2 * (i % 16)),
                            Width::Four => words[at + i / 8 * wide + c] |= field << (4 * (i % 8)),
                            Width::Byte => {
                                let byte = i * Self::row(wide, lanes) + c;
                                let byte_value = u32::from((code - lift) as i8 as u8);
                                words[at + byte / 4] |= byte_value << (8 * (byte % 4));
                            }
                        }
                    }
                }
                at += wide / lanes * width.words(len, lanes);
                scale_at += wide;
            }
        }
        let zeros = zeros.iter().any(|&z| z != 0.0).then_some(zeros);
        Self { isa, width, least, k, n, block: codes.block, words, start, scales, zeros }
    }

    /// Bytes of a `k` of a panel of so many channels, where codes are bytes.
    fn row(wide: usize, lanes: usize) -> usize {
        wide / lanes * lanes.div_ceil(4) * 4
    }

    /// Rows and columns of the weights.
    pub fn sizes(&self) -> [usize; 2] {
        [self.k, self.n]
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let zeros = self.zeros.as_ref().map_or(0, Vec::len);
        (self.words.len() + self.scales.len() + zeros) * size_of::<u32>()
    }

    /// `out[m, n] = bias + x[m, k] * weights`: for each element, with `y` the bias or 0, for each block in order
    /// `y = fma(p, scale, y)`, where `p = fma(x, code - zero, p)` over the block from 0. The work is cut into about `tasks` pieces, which `each` runs.
    ///
    /// # Panics
    /// When a slice does not have the size that it says.
    pub fn run(&self, rows: usize, x: &[f32], bias: Option<&[f32]>, out: &mut [f32], tasks: usize, each: Each<'_>) {
        assert_eq!((x.len(), out.len()), (rows * self.k, rows * self.n));
        assert!(bias.is_none_or(|b| b.len() == self.n));
        let panels = self.n.div_ceil(self.isa.panel());
        if rows == 0 || panels == 0 {
            return;
        }
        // Panels have weights of their own, rows share them.
        let across = tasks.min(panels).max(1);
        let down = (tasks / across).clamp(1, rows.div_ceil(16));
        let out = Shared(out.as_mut_ptr());
        once(across * down, each, |i| {
            let job = Job {
                product: self,
                x,
                bias,
                out: out.pointer(),
                rows: part(rows, 4, down, i / across),
                panels: part(panels, 1, across, i % across),
            };
            self.isa.run(job);
        });
    }
}

/// Some rows and panels of a product.
struct Job<'a> {
    product: &'a CodedProduct,
    x: &'a [f32],
    bias: Option<&'a [f32]>,
    out: *mut f32,
    rows: Range<usize>,
    panels: Range<usize>,
}

impl Work for Job<'_> {
    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        match (self.product.width, self.product.zeros.is_some()) {
            (Width::Two, false) => self.walk::<S, 2, false>(s),
            (Width::Two, true) => self.walk::<S, 2, true>(s),
            (Width::Four, false) => self.walk::<S, 4, false>(s),
            (Width::Four, true) => self.walk::<S, 4, true>(s),
            (Width::Byte, false) => self.walk::<S, 8, false>(s),
            (Width::Byte, true) => self.walk::<S, 8, true>(s),
        }
    }
}

impl Job<'_> {
    #[inline(always)]
    fn walk<S: Lanes, const BITS: u32, const ZERO: bool>(self, s: S) {
        let p = self.product;
        let panel = S::VECTORS * S::N;
        assert!(p.isa.panel() == panel, "weights are packed for other vectors");
        let blocks = p.k.div_ceil(p.block);
        let words = |len: usize| p.width.words(len, S::N);
        let full = if blocks == 0 { 0 } else { (blocks - 1) * words(p.block) + words(p.k - (blocks - 1) * p.block) };
        for at in self.panels.clone() {
            let channel = at * panel;
            let width = (p.n - channel).min(panel);
            let vectors = width.div_ceil(S::N);
            let mut row = self.rows.start;
            while row < self.rows.end {
                let height = (self.rows.end - row).min(ROWS);
                // SAFETY: `run` has checked the sizes; panels before this one are full; tasks have disjoint rows or panels.
                unsafe {
                    let t = Tile {
                        words: p.words.as_ptr().add(p.start + channel / S::N * full),
                        scales: p.scales.as_ptr().add(channel * blocks),
                        zeros: p.zeros.as_ref().map_or(std::ptr::null(), |z| z.as_ptr().add(channel * blocks)),
                        least: p.least as f32,
                        x: self.x.as_ptr().add(row * p.k),
                        k: p.k,
                        block: p.block,
                        bias: self.bias.map_or(std::ptr::null(), |b| b.as_ptr().add(channel)),
                        out: self.out.add(row * p.n + channel),
                        step: p.n,
                        width,
                    };
                    match vectors {
                        1 => rows::<S, 1, BITS, ZERO>(s, height, &t),
                        2 => rows::<S, 2, BITS, ZERO>(s, height, &t),
                        3 => rows::<S, 3, BITS, ZERO>(s, height, &t),
                        _ => rows::<S, 4, BITS, ZERO>(s, height, &t),
                    }
                }
                row += height;
            }
        }
    }
}

/// Rows of a tile.
const ROWS: usize = 4;

/// One panel and some rows.
struct Tile {
    words: *const u32,
    scales: *const f32,
    zeros: *const f32,
    least: f32,
    /// Row 0, and elements between rows.
    x: *const f32,
    k: usize,
    block: usize,
    /// Null where there is none.
    bias: *const f32,
    out: *mut f32,
    step: usize,
    /// Channels that exist.
    width: usize,
}

/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn rows<S: Lanes, const V: usize, const BITS: u32, const ZERO: bool>(s: S, height: usize, t: &Tile) {
    if V > S::VECTORS {
        return;
    }
    // SAFETY: the caller vouches for it.
    unsafe {
        match height {
            1 => tile::<S, 1, V, BITS, ZERO>(s, t),
            2 => tile::<S, 2, V, BITS, ZERO>(s, t),
            3 => tile::<S, 3, V, BITS, ZERO>(s, t),
            _ => tile::<S, 4, V, BITS, ZERO>(s, t),
        }
    }
}

/// `R` rows by `V` vectors of channels.
///
/// # Safety
/// The pointers hold what the sizes say, and nobody else touches these elements of `out`.
#[inline(always)]
unsafe fn tile<S: Lanes, const R: usize, const V: usize, const BITS: u32, const ZERO: bool>(s: S, t: &Tile) {
    // SAFETY: the caller vouches for every pointer.
    unsafe {
        let live: [S::M; V] = std::array::from_fn(|v| s.lanes(t.width - v * S::N));
        let mut y = [[s.splat(0.0); V]; R];
        if !t.bias.is_null() {
            for v in 0..V {
                let start = s.load_some(t.bias.add(v * S::N), live[v]);
                for r in 0..R {
                    y[r][v] = start;
                }
            }
        }
        let table = s.table::<BITS>(t.least);
        let (mut words, mut scales, mut zeros) = (t.words, t.scales, t.zeros);
        let mut first = 0;
        while first < t.k {
            let len = t.block.min(t.k - first);
            let mut sums = [[s.splat(0.0); V]; R];
            let mut zero = [s.splat(0.0); V];
            if ZERO {
                for v in 0..V {
                    zero[v] = s.load(zeros.add(v * S::N));
                }
                zeros = zeros.add(V * S::N);
            }
            // One `k`: the weights of each vector times the number of each row.
            macro_rules! turn {
                ($k:expr, $weights:expr) => {
                    let mut weights: [S::F; V] = $weights;
                    if ZERO {
                        for v in 0..V {
                            weights[v] = s.sub(weights[v], zero[v]);
                        }
                    }
                    for r in 0..R {
                        let x = s.splat(*t.x.add(r * t.k + $k));
                        for v in 0..V {
                            sums[r][v] = s.fma(x, weights[v], sums[r][v]);
                        }
                    }
                };
            }
            if BITS == 8 {
                let row = V * S::N.div_ceil(4) * 4;
                let bytes = words.cast::<i8>();
                for i in 0..len {
                    fetch(bytes.wrapping_add(i * row + AHEAD));
                    turn!(first + i, std::array::from_fn(|v| s.bytes(bytes.add(i * row + v * S::N))));
                }
                words = bytes.add(len * row).cast();
            } else {
                let fields = (u32::BITS / BITS) as usize;
                let mut i = 0;
                while i < len {
                    let mut w: [S::W; V] = std::array::from_fn(|v| s.words(words.add(v * S::N)));
                    for v in 0..V {
                        fetch(words.cast::<i8>().wrapping_add(v * S::N * 4 + AHEAD));
                    }
                    words = words.add(V * S::N);
                    macro_rules! field {
                        ($f:expr) => {
                            turn!(first + i + $f, std::array::from_fn(|v| s.look::<BITS>(table, w[v])));
                            for v in 0..V {
                                w[v] = s.shift::<BITS>(w[v]);
                            }
                        };
                    }
                    if i + fields <= len {
                        for f in 0..fields {
                            field!(f);
                        }
                    } else {
                        for f in 0..len - i {
                            field!(f);
                        }
                    }
                    i += fields;
                }
            }
            for v in 0..V {
                let scale = s.load(scales.add(v * S::N));
                for r in 0..R {
                    y[r][v] = s.fma(sums[r][v], scale, y[r][v]);
                }
            }
            scales = scales.add(V * S::N);
            first += len;
        }
        for r in 0..R {
            for v in 0..V {
                s.store_some(t.out.add(r * t.step + v * S::N), y[r][v], live[v]);
            }
        }
    }
}

/// Bytes from a word to the one that is fetched meanwhile.
const AHEAD: usize = 4096;

#[cfg(test)]
mod tests {
    use super::{super::tests::tested, *};
    use crate::float::in_turn;

    struct Case {
        k: usize,
        n: usize,
        block: usize,
        range: [i32; 2],
        zeros: bool,
    }

    fn mixed(seed: usize) -> usize {
        seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33
    }

    fn check(case: &Case, rows: usize, bias: bool) {
        let &Case { k, n, block, range: [low, high], zeros } = case;
        let levels = (high - low + 1) as usize;
        let code = |i: usize, c: usize| low + (mixed(i * 131 + c * 7 + 1) % levels) as i32;
        let scale = |b: usize, c: usize| 0.01 + mixed(b * 17 + c) as f32 % 97.0 / 100.0;
        let zero = |b: usize, c: usize| if zeros { low + (mixed(b * 3 + c * 11) % levels) as i32 } else { 0 };
        let x: Vec<f32> = (0..rows * k).map(|i| (mixed(i + 5) % 2001) as f32 / 1000.0 - 1.0).collect();
        let start: Vec<f32> = (0..n).map(|c| mixed(c) as f32 % 13.0 - 6.0).collect();
        // The specification.
        let mut want = Vec::new();
        for r in 0..rows {
            for c in 0..n {
                let mut y = if bias { start[c] } else { 0.0 };
                for b in 0..k.div_ceil(block) {
                    let mut p = 0.0f32;
                    for i in b * block..k.min((b + 1) * block) {
                        p = x[r * k + i].mul_add((code(i, c) - zero(b, c)) as f32, p);
                    }
                    y = p.mul_add(scale(b, c), y);
                }
                want.push(y.to_bits());
            }
        }
        let codes = Codes { code: &code, range: case.range, block, scale: &scale, zero: &zero };
        for isa in tested() {
            let packed = CodedProduct::pack(isa, [k, n], &codes);
            assert_eq!(packed.sizes(), [k, n]);
            for tasks in [1, 5] {
                let mut out = vec![f32::NAN; rows * n];
                packed.run(rows, &x, bias.then_some(&start[..]), &mut out, tasks, &in_turn);
                let got: Vec<u32> = out.iter().map(|y| y.to_bits()).collect();
                assert!(got == want, "{isa:?}, {rows} x {k} x {n}, blocks of {block}, {:?}, {tasks} tasks", case.range);
            }
        }
    }

    #[test]
    fn products_are_as_specified() {
        for range in [[-2, 1], [0, 3], [-8, 7], [-4, 3], [0, 15], [-127, 127], [0, 255], [100, 110]] {
            for (k, n, block) in [(1, 1, 32), (32, 64, 32), (37, 17, 32), (100, 130, 16), (64, 33, 5), (48, 200, 48)] {
                for zeros in [false, true] {
                    for (rows, bias) in [(1, false), (2, true), (3, false), (4, true), (37, true)] {
                        check(&Case { k, n, block, range, zeros }, rows, bias);
                    }
                }
            }
        }
    }

    #[test]
    fn empty_products_are_the_bias() {
        let codes = Codes { code: &|_, _| 0, range: [0, 0], block: 4, scale: &|_, _| 1.0, zero: &|_, _| 0 };
        let packed = CodedProduct::pack(FloatIsa::best(), [0, 3], &codes);
        let mut out = [0.0; 6];
        packed.run(2, &[], Some(&[1.0, 2.0, 3.0]), &mut out, 2, &in_turn);
        assert_eq!(out, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
        CodedProduct::pack(FloatIsa::best(), [3, 0], &codes).run(1, &[0.0; 3], None, &mut [], 2, &in_turn);
    }
}
