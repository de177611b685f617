//! A summary of any number of values, of bounded size, that merges exactly.
use super::{
    count::{self, Counter},
    extremes::Extremes,
};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What range selection needs to know about a stream of binary32 values: counts, exact extremes, exact sums, and a
/// histogram with fixed bins.
///
/// A bin holds the values that share sign, exponent and the leading `mantissa` bits of the fraction, so that its edges
/// do not depend on the data and its width is `2^-mantissa` of its lower edge or less. Each bin has a count and the
/// sum of the remaining fraction bits, both integers: the mean of the values in a bin is known exactly, and so is the
/// sum of all values. Merging adds integers and compares extremes; it is associative and commutative, and gives the
/// same bits for any sharding and order.
///
/// Far below the largest magnitude, more than 2^[`FINE`] times smaller, bins have [`COARSEST`] bits: on a grid of 16 bits that
/// reaches the largest magnitude such values are less than a step. This bounds the memory by the shape of the distribution's
/// top, rather than by how many values were seen: small magnitudes go on turning up for as long as one looks.
///
/// With the default of 7 bits a bin is at most 1/128 wide (relative). At 8 bits the step of a range `[0, t]` is
/// `t / 255`, and the bins just below `t` are `t / 128` to `t / 256` wide: about one step there, half a step at
/// `t / 2`, and so on. Wider bins than steps therefore only occur where the distribution within a bin is close to
/// uniform, which is what [`crate::quant::range`] assumes between the exact means. One more bit would double the memory
/// (now 2 KiB per sign and octave that occurs, 35 to 70 KiB for usual activations) for a second-order effect.
///
/// Derived from the bins and not exact: the sum of squares (within `2^-2(mantissa+1)` relative, usually far better),
/// and quantiles (within one bin).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Sketch {
    mantissa: u8,
    min: f32,
    max: f32,
    finite: u64,
    zeros: u64,
    nan: u64,
    pos_inf: u64,
    neg_inf: u64,
    pages: Pages,
    extremes: Extremes,
}

/// Count and sum of the fraction bits below the bin's lower edge, in units of the last place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Bin {
    count: u64,
    low: u64,
}

/// Values of the histogram that lie together: `count` values spread evenly over `[lo, hi]`, or all at `lo` when equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    /// Lower end.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
    /// Number of values.
    pub count: f64,
}

impl Segment {
    /// The mean of its values.
    pub fn mean(&self) -> f64 {
        f64::midpoint(self.lo, self.hi)
    }
}

const SIGN: u16 = 256;
/// The finest resolution; 16 key bits in all.
pub const FINEST: u8 = 7;
/// The coarsest resolution. With fewer bits the sums of [`MAX_COUNT`] fractions would not fit 64 bits.
pub const COARSEST: u8 = 3;
/// More values than this in one sketch are refused, so that no sum overflows: `2^43 * 2^(23-3) < 2^64`.
pub const MAX_COUNT: u64 = 1 << 43;

/// Octaves below the largest magnitude that have the sketch's own resolution.
pub const FINE: u16 = 16;

/// The bins of a histogram, by octave.
#[derive(Clone, Debug, Default, PartialEq)]
struct Pages {
    /// By sign (bit 8) and exponent (bits 0 to 7); present when something was counted. A page more than [`FINE`] octaves below
    /// the top has `2^COARSEST` bins, any other as many as the sketch's resolution says.
    by_key: BTreeMap<u16, Vec<Bin>>,
    /// The largest exponent of a page.
    top: u16,
}

impl Pages {
    /// Bits that tell bins apart in the page `key`.
    fn resolution(&self, key: u16, mantissa: u8) -> u8 {
        if (key & (SIGN - 1)) + FINE < self.top { COARSEST } else { mantissa }
    }
    /// Adds bins of one page, given as `(count, sum of the fraction bits below)` at `2^bits` bins.
    fn add(&mut self, key: u16, bits: u8, mantissa: u8, cells: impl Iterator<Item = (u64, u64)>) {
        self.raise(key & (SIGN - 1));
        let mine = self.resolution(key, mantissa);
        let page = self.by_key.entry(key).or_insert_with(|| vec![Bin::default(); 1 << mine]);
        let coarser = bits - mine;
        for (i, (count, low)) in cells.enumerate() {
            // In a coarser bin the dropped key bits become leading fraction bits.
            let dropped = (i as u64 & ((1 << coarser) - 1)) << (23 - bits);
            let bin = &mut page[i >> coarser];
            bin.count += count;
            bin.low += low + dropped * count;
        }
    }
    /// There is an exponent `top`: pages that are far below it now become coarse.
    fn raise(&mut self, top: u16) {
        if top <= self.top {
            return;
        }
        self.top = top;
        for (&key, page) in &mut self.by_key {
            if (key & (SIGN - 1)) + FINE < top && page.len() > 1 << COARSEST {
                let each = page.len() >> COARSEST;
                let bits = page.len().trailing_zeros();
                *page = page
                    .chunks(each)
                    .map(|bins| {
                        bins.iter().enumerate().fold(Bin::default(), |sum, (i, b)| Bin {
                            count: sum.count + b.count,
                            low: sum.low + b.low + ((i as u64) << (23 - bits)) * b.count,
                        })
                    })
                    .collect();
            }
        }
    }
    /// Adds the cells of a counter.
    fn count(&mut self, mantissa: u8) -> impl FnMut(u16, &[(u64, u64); count::PER_PAGE]) + '_ {
        move |key, cells| self.add(key, FINEST, mantissa, cells.iter().copied())
    }
}

/// With a counter of this thread's, empty before and after.
fn with_counter<T>(f: impl FnOnce(&mut Counter) -> T) -> T {
    thread_local! {
        static COUNTER: RefCell<Counter> = RefCell::default();
    }
    COUNTER.with(|counter| f(&mut counter.borrow_mut()))
}

fn lock(shared: &Mutex<Sketch>) -> MutexGuard<'_, Sketch> {
    // Counts are complete or absent whenever the lock is free.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Sketch {
    fn default() -> Self {
        Self::new()
    }
}

impl Sketch {
    /// An empty sketch of the default resolution, 7 bits.
    pub fn new() -> Self {
        Self {
            mantissa: FINEST,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            finite: 0,
            zeros: 0,
            nan: 0,
            pos_inf: 0,
            neg_inf: 0,
            pages: Pages::default(),
            extremes: Extremes::default(),
        }
    }
    /// An empty sketch with `2^mantissa` bins per octave.
    ///
    /// # Errors
    /// Outside 3 to 7 bits.
    pub fn with_resolution(mantissa: u8) -> Result<Self> {
        if !(COARSEST..=FINEST).contains(&mantissa) {
            return Err(Error::usage(format!("{mantissa} mantissa bits for a sketch"))
                .cure(format!("use {COARSEST} to {FINEST}")));
        }
        Ok(Self { mantissa, ..Self::new() })
    }

    /// Adds values. NaN and infinities are counted apart and enter neither histogram nor extremes.
    ///
    /// # Errors
    /// When the sketch would hold more than [`MAX_COUNT`] values.
    pub fn observe(&mut self, data: &[f32]) -> Result<()> {
        self.add(data).map(|_| ())
    }
    /// Adds values of calibration sample `index`, whose extremes are kept for averaging methods.
    ///
    /// # Errors
    /// Like [`Sketch::observe`].
    pub fn observe_sample(&mut self, index: u64, data: &[f32]) -> Result<()> {
        let seen = self.add(data)?;
        self.extremes_of(index, &seen);
        Ok(())
    }
    /// Adds values of calibration sample `index` to a sketch that several threads share; it is locked for moments only.
    ///
    /// # Errors
    /// Like [`Sketch::observe`].
    pub fn observe_shared(shared: &Mutex<Self>, index: u64, data: &[f32]) -> Result<()> {
        with_counter(|counter| {
            Self::observe_part(shared, counter, data);
            Self::end_sample(shared, counter, index)
        })
    }
    /// Adds a part of a sample to a shared sketch, through a counter that nothing else uses until [`Sketch::end_sample`].
    pub fn observe_part(shared: &Mutex<Self>, counter: &mut Counter, data: &[f32]) {
        counter.add(data, |key, cells| {
            let this = &mut *lock(shared);
            this.pages.count(this.mantissa)(key, cells);
        });
    }
    /// Adds what the counter holds to a shared sketch: the rest of calibration sample `index`.
    ///
    /// # Errors
    /// Like [`Sketch::observe`].
    pub fn end_sample(shared: &Mutex<Self>, counter: &mut Counter, index: u64) -> Result<()> {
        let this = &mut *lock(shared);
        let seen = this.end(counter)?;
        this.extremes_of(index, &seen);
        Ok(())
    }
    fn extremes_of(&mut self, index: u64, seen: &count::Summary) {
        if seen.finite > 0 {
            self.extremes.insert(index, seen.min, seen.max);
        }
    }
    fn add(&mut self, data: &[f32]) -> Result<count::Summary> {
        self.room(data.len() as u64)?;
        with_counter(|counter| {
            counter.add(data, self.pages.count(self.mantissa));
            self.end(counter)
        })
    }
    fn end(&mut self, counter: &mut Counter) -> Result<count::Summary> {
        let seen = counter.end(self.pages.count(self.mantissa));
        self.room(seen.finite + seen.nan + seen.pos_inf + seen.neg_inf)?;
        self.min = self.min.min(seen.min);
        self.max = self.max.max(seen.max);
        self.finite += seen.finite;
        self.zeros += seen.zeros;
        self.nan += seen.nan;
        self.pos_inf += seen.pos_inf;
        self.neg_inf += seen.neg_inf;
        Ok(seen)
    }
    fn room(&self, more: u64) -> Result<()> {
        match self.count().checked_add(more) {
            Some(n) if n <= MAX_COUNT => Ok(()),
            _ => Err(Error::value(format!("more than {MAX_COUNT} values in one sketch"))
                .cure("calibrate with fewer samples")),
        }
    }
    /// Adds what `other` has seen: the result is that of one sketch that saw both.
    ///
    /// # Errors
    /// When the resolutions differ, or like [`Sketch::observe`]. `self` is unchanged then.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.mantissa != other.mantissa {
            return Err(Error::usage(format!(
                "sketches of {} and {} mantissa bits cannot be merged",
                self.mantissa, other.mantissa
            )));
        }
        self.room(other.count())?;
        self.pages.raise(other.pages.top);
        for (&key, theirs) in &other.pages.by_key {
            // At least as fine as this sketch's, whose top is at least as high now.
            let bits = theirs.len().trailing_zeros() as u8;
            self.pages.add(key, bits, self.mantissa, theirs.iter().map(|b| (b.count, b.low)));
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.finite += other.finite;
        self.zeros += other.zeros;
        self.nan += other.nan;
        self.pos_inf += other.pos_inf;
        self.neg_inf += other.neg_inf;
        self.extremes.merge(&other.extremes);
        Ok(())
    }

    /// Values seen, the non-finite ones among them.
    pub fn count(&self) -> u64 {
        self.finite + self.nan + self.pos_inf + self.neg_inf
    }
    /// Finite values.
    pub fn finite(&self) -> u64 {
        self.finite
    }
    /// Values equal to zero (of either sign).
    pub fn zeros(&self) -> u64 {
        self.zeros
    }
    /// NaNs.
    pub fn nan(&self) -> u64 {
        self.nan
    }
    /// Infinities: negative, positive.
    pub fn infinities(&self) -> [u64; 2] {
        [self.neg_inf, self.pos_inf]
    }
    /// Exact least and greatest finite value; `None` when there is none.
    pub fn extremes(&self) -> Option<[f32; 2]> {
        (self.finite > 0).then_some([self.min, self.max])
    }
    /// Extremes of each sample that came by [`Sketch::observe_sample`].
    pub fn samples(&self) -> &Extremes {
        &self.extremes
    }
    /// Bins per octave, as a power of two.
    pub fn resolution(&self) -> u8 {
        self.mantissa
    }
    /// Bytes of memory in use, roughly.
    pub fn memory(&self) -> usize {
        let bins: usize = self.pages.by_key.values().map(Vec::len).sum();
        size_of::<Self>() + bins * size_of::<Bin>() + self.extremes.len() * 8
    }
    /// Sum of the finite values: exact integers, converted to binary64 by page and added in a fixed order.
    pub fn sum(&self) -> f64 {
        self.page_sums().map(|(key, s)| if key & SIGN == 0 { s } else { -s }).sum()
    }
    /// Sum of the magnitudes of the finite values, like [`Sketch::sum`].
    pub fn sum_abs(&self) -> f64 {
        self.page_sums().map(|(_, s)| s).sum()
    }
    #[allow(clippy::cast_precision_loss)]
    fn page_sums(&self) -> impl Iterator<Item = (u16, f64)> + '_ {
        self.pages.by_key.iter().map(|(&key, bins)| {
            let bits = self.pages.resolution(key, self.mantissa);
            let total: u128 = bins
                .iter()
                .enumerate()
                .map(|(i, b)| u128::from(b.count) * u128::from(edge(key, bits, i)) + u128::from(b.low))
                .sum();
            (key, total as f64 * unit(key))
        })
    }
    /// Mean of the finite values; 0 when there are none.
    #[allow(clippy::cast_precision_loss)]
    pub fn mean(&self) -> f64 {
        if self.finite == 0 { 0.0 } else { self.sum() / self.finite as f64 }
    }
    /// Sum of the squares of the finite values, from the bins: each as if spread evenly around its exact mean.
    pub fn sum_squares(&self) -> f64 {
        self.segments().iter().map(|s| s.count * (s.mean().powi(2) + (s.hi - s.lo).powi(2) / 12.0)).sum()
    }

    /// The histogram in ascending order.
    ///
    /// A bin that holds a single value, or several whose mean lies on the bin's edge, gives that value exactly (powers
    /// of two, the 6 of a Relu6, the ends of a sigmoid). Any other bin gives an even spread around its exact mean, as
    /// wide as the bin and the exact extremes allow.
    pub fn segments(&self) -> Vec<Segment> {
        let pages = &self.pages.by_key;
        let mut out = Vec::with_capacity(pages.values().map(Vec::len).sum());
        for (&key, bins) in pages.range(SIGN..).rev() {
            out.extend(bins.iter().enumerate().rev().filter_map(|(i, b)| self.segment(key, i, *b)));
        }
        for (&key, bins) in pages.range(..SIGN) {
            out.extend(bins.iter().enumerate().filter_map(|(i, b)| self.segment(key, i, *b)));
        }
        out
    }
    #[allow(clippy::cast_precision_loss)]
    fn segment(&self, key: u16, i: usize, bin: Bin) -> Option<Segment> {
        if bin.count == 0 {
            return None;
        }
        let bits = self.pages.resolution(key, self.mantissa);
        let (unit, edge) = (unit(key), edge(key, bits, i) as f64);
        let mean = (edge + bin.low as f64 / bin.count as f64) * unit;
        // The greatest value of the bin, not the next bin's edge.
        let last = (edge + ((1u64 << (23 - bits)) - 1) as f64) * unit;
        let (mean, mut lo, mut hi) =
            if key & SIGN == 0 { (mean, edge * unit, last) } else { (-mean, -last, -edge * unit) };
        lo = lo.max(self.min.into());
        hi = hi.min(self.max.into());
        let half = if bin.count == 1 { 0.0 } else { (mean - lo).min(hi - mean).max(0.0) };
        Some(Segment { lo: mean - half, hi: mean + half, count: bin.count as f64 })
    }

    /// The value below which a fraction `q` (0 to 1) of the finite values lies, to the resolution of a bin: the
    /// `ceil(q n)`-th smallest, interpolated evenly within its bin. `None` when there are no values.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        walk(self.segments().into_iter(), q, self.finite)
    }
    /// Like [`Sketch::quantile`] for the magnitudes.
    pub fn quantile_abs(&self, q: f64) -> Option<f64> {
        walk(magnitudes(&self.segments()).into_iter(), q, self.finite)
    }
}

/// The segments of the magnitudes, ascending.
pub(crate) fn magnitudes(segments: &[Segment]) -> Vec<Segment> {
    let mut all: Vec<_> = segments
        .iter()
        .map(|s| if s.mean() < 0.0 { Segment { lo: -s.hi, hi: -s.lo, count: s.count } } else { *s })
        .collect();
    all.sort_by(|a, b| a.mean().total_cmp(&b.mean()));
    all
}

#[allow(clippy::cast_precision_loss)]
fn walk(mut segments: impl Iterator<Item = Segment>, q: f64, n: u64) -> Option<f64> {
    let rank = (q * n as f64).ceil().clamp(1.0, (n as f64).max(1.0));
    let mut below = 0.0;
    let mut last = None;
    segments
        .find_map(|s| {
            last = Some(s.hi);
            if below + s.count < rank {
                below += s.count;
                return None;
            }
            // The k-th of c evenly spread values.
            let at = if s.count > 1.0 { (rank - below - 1.0) / (s.count - 1.0) } else { 0.5 };
            Some(s.lo + (s.hi - s.lo) * at)
        })
        .or(last)
}

/// Lower edge of a bin of a page of `2^bits` bins, in units of the page's last place.
fn edge(key: u16, bits: u8, i: usize) -> u64 {
    let implicit = if key & (SIGN - 1) == 0 { 0 } else { 1 << 23 };
    implicit + ((i as u64) << (23 - bits))
}

/// The weight of the last place in a page.
fn unit(key: u16) -> f64 {
    let exponent = i32::from((key & (SIGN - 1)).max(1));
    2f64.powi(exponent - 127 - 23)
}

/// The sketch as it is written.
#[derive(Serialize, Deserialize)]
struct Wire {
    mantissa: u8,
    min: f32,
    max: f32,
    counts: [u64; 5],
    pages: Vec<(u16, Vec<Bin>)>,
    extremes: Extremes,
}

impl From<Sketch> for Wire {
    fn from(s: Sketch) -> Self {
        Self {
            mantissa: s.mantissa,
            min: s.min,
            max: s.max,
            counts: [s.finite, s.zeros, s.nan, s.neg_inf, s.pos_inf],
            pages: s.pages.by_key.into_iter().collect(),
            extremes: s.extremes,
        }
    }
}

impl TryFrom<Wire> for Sketch {
    type Error = &'static str;
    /// Refuses everything that no sequence of [`Sketch::observe`] and [`Sketch::merge`] could have made and that later
    /// code relies on.
    fn try_from(w: Wire) -> Result<Self, Self::Error> {
        if !(COARSEST..=FINEST).contains(&w.mantissa) {
            return Err("a sketch has an unknown resolution");
        }
        let [finite, zeros, nan, neg_inf, pos_inf] = w.counts;
        let all = w.counts.iter().try_fold(0u64, |n, c| n.checked_add(*c));
        if all.and_then(|n| n.checked_sub(zeros)).is_none_or(|n| n > MAX_COUNT) || zeros > finite {
            return Err("a sketch's counts are impossible");
        }
        let negative_zero = [w.min, w.max].iter().any(|x| x.to_bits() == 1 << 31);
        if finite > 0 && !(w.min.is_finite() && w.max.is_finite() && w.min <= w.max && !negative_zero)
            || finite == 0 && (w.min != f32::INFINITY || w.max != f32::NEG_INFINITY)
        {
            return Err("a sketch's extremes are impossible");
        }
        let mut total = 0u64;
        let mut previous = None;
        let top = w.pages.iter().map(|(key, _)| key & (SIGN - 1)).max().unwrap_or_default();
        let mut pages = Pages { by_key: BTreeMap::new(), top };
        for (key, bins) in &w.pages {
            let sorted = previous.is_none_or(|p| p < *key);
            let bits = pages.resolution(*key, w.mantissa);
            if !sorted || *key >= 2 * SIGN || *key & 255 == 255 || bins.len() != 1 << bits {
                return Err("a sketch's histogram has impossible pages");
            }
            let before = total;
            for b in bins {
                // Within MAX_COUNT neither sum overflows.
                total =
                    total.checked_add(b.count).filter(|t| *t <= finite).ok_or("a sketch's bins exceed its count")?;
                if b.low > b.count * ((1 << (23 - bits)) - 1) {
                    return Err("a sketch's bin has an impossible sum");
                }
            }
            if total == before {
                return Err("a sketch's histogram has an empty page");
            }
            previous = Some(*key);
        }
        if total != finite {
            return Err("a sketch's bins do not add up to its count");
        }
        pages.by_key = w.pages.into_iter().collect();
        let s = Self {
            mantissa: w.mantissa,
            min: w.min,
            max: w.max,
            finite,
            zeros,
            nan,
            pos_inf,
            neg_inf,
            pages,
            extremes: w.extremes,
        };
        // Every bin within the extremes, every sample too.
        let within = |lo: f64, hi: f64| lo >= f64::from(s.min) && hi <= f64::from(s.max);
        let ok = s.segments().iter().all(|x| x.lo <= x.hi && within(x.mean(), x.mean()))
            && s.extremes.iter().all(|(_, [lo, hi])| within(lo.into(), hi.into()));
        if ok { Ok(s) } else { Err("a sketch's histogram or samples lie outside its extremes") }
    }
}
