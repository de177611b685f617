//! Moves of bytes from place to place, as loops around copies.
use super::memory::Memory;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// `count` runs of `len` bytes: run `i` from `src + i * src_step` to `dst + i * dst_step`, counted from the starts of the
/// spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Copies {
    pub src: usize,
    pub dst: usize,
    pub len: usize,
    pub count: usize,
    pub src_step: usize,
    pub dst_step: usize,
}

/// A loop: its turn `i` is `i * src_step` bytes further in the source and `i * dst_step` bytes further in the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Repeat {
    pub times: usize,
    pub src_step: usize,
    pub dst_step: usize,
}

/// Copies in the order of their destinations, done again in each turn of loops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves {
    /// What one turn of the innermost loop does.
    pub copies: Vec<Copies>,
    /// The loops, the outermost first; each leaves what the loops within it wrote behind.
    pub repeats: Vec<Repeat>,
}

/// Bytes of the longer side of a block of two loops: its lines stay in the first-level cache.
const BLOCK: usize = 32;

impl From<Copies> for Moves {
    fn from(one: Copies) -> Moves {
        Moves { copies: vec![one], repeats: Vec::new() }
    }
}

impl Moves {
    /// Moves of `len` bytes, each to its own place.
    pub fn all(len: usize) -> Moves {
        Copies { src: 0, dst: 0, len, count: 1, src_step: 0, dst_step: 0 }.into()
    }

    /// Moves to byte `i` of the destination from byte `sources[i]`; a negative number leaves it alone.
    pub fn of(sources: &[i32]) -> Moves {
        let (period, step) = period(sources);
        if period == sources.len() {
            return Moves { copies: runs(sources), repeats: Vec::new() };
        }
        let times = sources.len() / period;
        let mut moves = Moves::of(&sources[..period]);
        match (&mut moves.copies[..], &moves.repeats[..]) {
            ([], _) => {}
            ([all], []) if (all.count, all.len, step) == (1, period, period) => all.len *= times,
            ([one], []) if one.count == 1 => {
                (one.count, one.src_step, one.dst_step) = (times, step, period);
            }
            _ => moves.repeats.insert(0, Repeat { times, src_step: step, dst_step: period }),
        }
        moves
    }

    /// How often the copies are done.
    fn turns(&self) -> usize {
        self.repeats.iter().map(|r| r.times).product()
    }

    /// Runs of bytes.
    pub(super) fn runs(&self) -> usize {
        self.turns() * self.copies.iter().map(|c| c.count).sum::<usize>()
    }

    /// Pieces that the work can be cut into: turns, or without loops the runs.
    pub(super) fn units(&self) -> usize {
        if self.repeats.is_empty() { self.runs() } else { self.turns() }
    }

    /// Whether all reads lie within `src` bytes, all writes within `dst`, and no byte is written twice. No number is larger
    /// than 2^40.
    pub(super) fn check(&self, src: usize, dst: usize) -> Result<(), String> {
        let (mut read, mut written) = (0, 0);
        for c in self.copies.iter().filter(|c| c.count > 0) {
            if c.dst < written || (c.count > 1 && c.dst_step < c.len) {
                return Err(format!("{c:?} writes again what was written"));
            }
            read = read.max(c.src.saturating_add((c.count - 1).saturating_mul(c.src_step)).saturating_add(c.len));
            written = c.dst.saturating_add((c.count - 1).saturating_mul(c.dst_step)).saturating_add(c.len);
        }
        for r in self.repeats.iter().rev() {
            if r.times == 0 || written == 0 || r.dst_step < written {
                return Err(format!("{r:?} of moves to {written} bytes"));
            }
            read = read.saturating_add((r.times - 1).saturating_mul(r.src_step));
            written = written.saturating_add((r.times - 1).saturating_mul(r.dst_step));
        }
        match read <= src && written <= dst {
            true => Ok(()),
            false => Err(format!("moves from {read} bytes of {src} to {written} bytes of {dst}")),
        }
    }

    /// The units `units` of moves from byte `src` to byte `dst` of the arena.
    ///
    /// # Safety
    /// The moves were checked for the bytes there; nobody else works on these units, and nobody writes what is read.
    pub(super) unsafe fn run(&self, memory: &Memory, src: usize, dst: usize, units: Range<usize>) {
        let (from, to) = (memory.start(src).cast_const(), memory.start(dst));
        let Some((inner, outer)) = self.repeats.split_last() else {
            let mut first = 0;
            for c in &self.copies {
                let part =
                    units.start.clamp(first, first + c.count) - first..units.end.clamp(first, first + c.count) - first;
                let once = Repeat { times: 1, src_step: 0, dst_step: 0 };
                let start = (c.src + part.start * c.src_step, c.dst + part.start * c.dst_step);
                let runs = Repeat { times: part.len(), src_step: c.src_step, dst_step: c.dst_step };
                // SAFETY: the caller's.
                unsafe { copy(from.wrapping_add(start.0), to.wrapping_add(start.1), once, runs, c.len) };
                first += c.count;
            }
            return;
        };
        let mut unit = units.start;
        while unit < units.end {
            let (mut row, turn) = (unit / inner.times, unit % inner.times);
            let times = (inner.times - turn).min(units.end - unit);
            let (mut src, mut dst) = (turn * inner.src_step, turn * inner.dst_step);
            for r in outer.iter().rev() {
                src += row % r.times * r.src_step;
                dst += row % r.times * r.dst_step;
                row /= r.times;
            }
            for c in &self.copies {
                let runs = Repeat { times: c.count, src_step: c.src_step, dst_step: c.dst_step };
                let (from, to) = (from.wrapping_add(src + c.src), to.wrapping_add(dst + c.dst));
                // SAFETY: the caller's.
                unsafe { copy(from, to, Repeat { times, ..*inner }, runs, c.len) };
            }
            unit += times;
        }
    }
}

/// Runs of `len` bytes in two loops, in any order.
///
/// # Safety
/// Every run is readable and writable, and no run is written twice or read and written.
unsafe fn copy(from: *const u8, to: *mut u8, a: Repeat, b: Repeat, len: usize) {
    // The longer loop is the inner one.
    let (a, b) = if a.times > b.times { (b, a) } else { (a, b) };
    for first_a in (0..a.times).step_by(BLOCK) {
        for first_b in (0..b.times).step_by(if a.times == 1 { b.times } else { BLOCK }) {
            let part = |r: Repeat, first: usize| Repeat { times: (r.times - first).min(BLOCK), ..r };
            let inner = if a.times == 1 { b } else { part(b, first_b) };
            let outer = part(a, first_a);
            let from = from.wrapping_add(first_a * a.src_step + first_b * b.src_step);
            let to = to.wrapping_add(first_a * a.dst_step + first_b * b.dst_step);
            // SAFETY: the caller's.
            unsafe {
                match len {
                    1 => block::<1>(from, to, outer, inner),
                    2 => block::<2>(from, to, outer, inner),
                    4 => block::<4>(from, to, outer, inner),
                    8 => block::<8>(from, to, outer, inner),
                    16 => block::<16>(from, to, outer, inner),
                    _ => each(outer, inner, |src, dst| {
                        to.wrapping_add(dst).copy_from_nonoverlapping(from.wrapping_add(src), len);
                    }),
                }
            }
        }
    }
}

/// # Safety
/// As [`copy`].
unsafe fn block<const LEN: usize>(from: *const u8, to: *mut u8, a: Repeat, b: Repeat) {
    each(a, b, |src, dst| {
        let (from, to) = (from.wrapping_add(src).cast::<[u8; LEN]>(), to.wrapping_add(dst).cast::<[u8; LEN]>());
        // SAFETY: the caller's; arrays of bytes may lie anywhere.
        unsafe { *to = *from };
    });
}

/// The offsets of every turn of two loops.
#[inline(always)]
fn each(a: Repeat, b: Repeat, mut f: impl FnMut(usize, usize)) {
    for i in 0..a.times {
        let (mut src, mut dst) = (i * a.src_step, i * a.dst_step);
        for _ in 0..b.times {
            f(src, dst);
            (src, dst) = (src + b.src_step, dst + b.dst_step);
        }
    }
}

/// The smallest number of bytes after which everything comes again, the sources a constant number of bytes further, and that
/// number. All bytes, where there is none.
fn period(sources: &[i32]) -> (usize, usize) {
    let n = sources.len();
    let small = (1..).take_while(|d| d * d <= n).filter(|d| n.is_multiple_of(*d));
    let (mut periods, large): (Vec<usize>, Vec<usize>) = small.map(|d| (d, n / d)).unzip();
    periods.extend(large.into_iter().rev());
    let steps = |period: usize| {
        let pairs = || sources.iter().zip(&sources[period..]);
        // Where nothing comes from anywhere, any step fits.
        let step = pairs().find(|(a, _)| **a >= 0).map_or(0, |(a, b)| b - a);
        let fits = step >= 0 && pairs().all(|(&a, &b)| if a < 0 || b < 0 { a < 0 && b < 0 } else { b - a == step });
        fits.then_some((period, step as usize))
    };
    periods.into_iter().filter(|&p| p < n).find_map(steps).unwrap_or((n, 0))
}

/// Joins neighbouring bytes to runs, and equal runs at equal distances to one entry.
fn runs(sources: &[i32]) -> Vec<Copies> {
    let mut single: Vec<Copies> = Vec::new();
    for (dst, &src) in sources.iter().enumerate() {
        let Ok(src) = usize::try_from(src) else { continue };
        match single.last_mut() {
            Some(run) if run.src + run.len == src && run.dst + run.len == dst => run.len += 1,
            _ => single.push(Copies { src, dst, len: 1, count: 1, src_step: 0, dst_step: 0 }),
        }
    }
    let mut copies: Vec<Copies> = Vec::new();
    for run in single {
        if let Some(last) = copies.last_mut()
            && last.len == run.len
        {
            let end = (last.src + (last.count - 1) * last.src_step, last.dst + (last.count - 1) * last.dst_step);
            let steps = (run.src.checked_sub(end.0), run.dst - end.1);
            if let (Some(src_step), dst_step) = steps
                && (last.count == 1 || (src_step, dst_step) == (last.src_step, last.dst_step))
            {
                (last.src_step, last.dst_step, last.count) = (src_step, dst_step, last.count + 1);
                continue;
            }
        }
        copies.push(run);
    }
    copies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(src: usize, dst: usize, len: usize, count: usize, src_step: usize, dst_step: usize) -> Copies {
        Copies { src, dst, len, count, src_step, dst_step }
    }

    #[test]
    fn what_lies_together_is_joined() {
        assert_eq!(Moves::of(&(0..12).collect::<Vec<_>>()), Moves::from(copies(0, 0, 12, 1, 0, 0)));
        assert_eq!(Moves::of(&[0, 1, 4, 5, 8, 9]), Moves::from(copies(0, 0, 2, 3, 4, 2)));
        assert_eq!(Moves::of(&[-1, 0, 1, -1, -1, 2, 3, -1]), Moves::from(copies(0, 1, 2, 2, 2, 4)));
        // Backwards there is no step.
        assert_eq!(Moves::of(&[2, 1]).copies.len(), 2);
        assert_eq!(Moves::of(&[-1; 6]).copies.len() + Moves::of(&[]).copies.len(), 0);
    }

    #[test]
    fn regular_moves_are_loops_around_one_copy() {
        // Two groups of 58 channels are interleaved, in each of 784 pixels of two images.
        let shuffle = |i: i32| i / 116 * 116 + i % 2 * 58 + i % 116 / 2;
        let moves = Moves::of(&(0..2 * 784 * 116).map(shuffle).collect::<Vec<_>>());
        let repeats =
            vec![Repeat { times: 1568, src_step: 116, dst_step: 116 }, Repeat { times: 58, src_step: 1, dst_step: 2 }];
        assert_eq!(moves, Moves { copies: vec![copies(0, 0, 1, 2, 58, 1)], repeats });
        // Channels of two images come to stand last.
        let last = |i: i32| i / 640 * 640 + i % 64 * 10 + i % 640 / 64;
        let moves = Moves::of(&(0..1280).map(last).collect::<Vec<_>>());
        assert_eq!(moves.copies, [copies(0, 0, 1, 64, 10, 1)]);
        assert_eq!(moves.repeats.iter().map(|r| r.times).collect::<Vec<_>>(), [2, 10]);
    }

    #[test]
    fn moves_that_overlap_or_reach_too_far_are_refused() {
        let moves = |copies: Vec<Copies>, repeats: Vec<Repeat>| Moves { copies, repeats };
        let one = copies(0, 0, 4, 2, 8, 4);
        assert_eq!(Moves::from(one).check(12, 8), Ok(()));
        assert!(Moves::from(one).check(11, 8).is_err() && Moves::from(one).check(12, 7).is_err());
        assert!(Moves::from(copies(0, 0, 4, 2, 8, 3)).check(99, 99).is_err());
        assert!(moves(vec![one, copies(0, 7, 1, 1, 0, 0)], vec![]).check(99, 99).is_err());
        let repeat = |times: usize, dst_step: usize| vec![Repeat { times, src_step: 1, dst_step }];
        assert_eq!(moves(vec![one], repeat(3, 8)).check(14, 24), Ok(()));
        for (repeats, src, dst) in
            [(repeat(3, 8), 13, 24), (repeat(3, 8), 14, 23), (repeat(3, 7), 99, 99), (repeat(0, 8), 99, 99)]
        {
            assert!(moves(vec![one], repeats.clone()).check(src, dst).is_err(), "{repeats:?}");
        }
        assert!(moves(vec![], repeat(1 << 40, 1 << 40)).check(99, 99).is_err());
    }
}
