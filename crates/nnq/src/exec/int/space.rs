//! The arena of codes while it is handed out.
use nnq_kernels::SLACK;

/// Places in the arena for values and temporaries, by liveness: first fit while a plan is made for the first time, and for the
/// second time [`Space::tighter`] once all lifetimes are known.
#[derive(Default)]
pub(super) struct Space {
    taken: Vec<Taken>,
    /// Where what is asked for goes, in the order of asking, if that has been found out.
    given: Vec<usize>,
    /// The numbers in `taken` of what is in use.
    live: Vec<usize>,
    size: usize,
}

/// Bytes of the arena.
#[derive(Clone, Copy)]
struct Taken {
    at: usize,
    /// With room behind the value.
    room: usize,
    lifetime: Lifetime,
    /// Memory of one step and no value.
    temporary: bool,
}

impl Taken {
    fn end(&self) -> usize {
        self.at + self.room
    }
    fn meets(&self, other: &Taken) -> bool {
        self.lifetime.first <= other.lifetime.last && other.lifetime.first <= self.lifetime.last
    }
}

/// How long a value is needed, and how large it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetime {
    pub(super) bytes: usize,
    /// The step that produces it.
    pub(super) first: usize,
    /// The last step that reads it.
    pub(super) last: usize,
}

/// The first gap of `room` bytes between `used`, which are in the order of their places.
fn gap<'a>(used: impl Iterator<Item = &'a Taken>, room: usize) -> usize {
    let mut at = 0;
    for t in used {
        if at + room <= t.at {
            break;
        }
        at = at.max(t.end());
    }
    at
}

impl Space {
    /// A place for a value.
    pub(super) fn value(&mut self, of: Lifetime) -> usize {
        self.take(of, false)
    }

    /// Memory for step `now` only.
    pub(super) fn temporary(&mut self, bytes: usize, now: usize) -> usize {
        self.take(Lifetime { bytes, first: now, last: now }, true)
    }

    fn take(&mut self, lifetime: Lifetime, temporary: bool) -> usize {
        let Self { taken, live, given, .. } = self;
        live.retain(|&n| taken[n].lifetime.last >= lifetime.first);
        live.sort_unstable_by_key(|&n| taken[n].at);
        let room = (lifetime.bytes + SLACK).next_multiple_of(64);
        let number = taken.len();
        let at = given.get(number).copied().unwrap_or_else(|| gap(live.iter().map(|&n| &taken[n]), room));
        live.push(number);
        taken.push(Taken { at, room, lifetime, temporary });
        self.size = self.size.max(at + room);
        at
    }

    /// The value at `at` lives on until `last`.
    pub(super) fn keep(&mut self, at: usize, last: usize) {
        for &n in &self.live {
            if self.taken[n].at == at {
                self.taken[n].lifetime.last = self.taken[n].lifetime.last.max(last);
            }
        }
    }

    /// Bytes of the arena.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// A space for the same requests in the same order that needs less memory, if there is one: the largest are placed first, each
    /// in the first gap between those that it meets.
    pub(super) fn tighter(&self) -> Option<Self> {
        let mut order: Vec<usize> = (0..self.taken.len()).collect();
        order.sort_by_key(|&n| std::cmp::Reverse(self.taken[n].room));
        let mut placed: Vec<Taken> = Vec::with_capacity(order.len());
        let mut given = vec![0; order.len()];
        for n in order {
            let mut new = self.taken[n];
            new.at = gap(placed.iter().filter(|t| t.meets(&new)), new.room);
            given[n] = new.at;
            let behind = placed.partition_point(|t| t.at <= new.at);
            placed.insert(behind, new);
        }
        let size = placed.iter().map(Taken::end).max().unwrap_or(0);
        (size < self.size).then(|| Self { given, ..Self::default() })
    }

    /// The most bytes of values that are needed at the same time, with `times` spaces like this one and `others`: no plan needs less memory.
    pub(super) fn most(&self, others: &[Lifetime], times: usize) -> usize {
        let values = self.taken.iter().filter(|t| !t.temporary).map(|t| t.lifetime);
        let values = values.map(|v| Lifetime { bytes: v.bytes * times, ..v });
        most(values.chain(others.iter().copied()))
    }
}

/// The largest sum of values that are needed at the same time.
pub(super) fn most(values: impl Iterator<Item = Lifetime>) -> usize {
    let all: Vec<Lifetime> = values.filter(|v| v.first <= v.last).collect();
    let steps = all.iter().map(|v| v.first + 1).max().unwrap_or(0);
    let (mut begin, mut end) = (vec![0; steps], vec![0; steps]);
    for v in all {
        begin[v.first] += v.bytes;
        if let Some(end) = end.get_mut(v.last) {
            *end += v.bytes;
        }
    }
    let (mut sum, mut most) = (0, 0);
    for (begin, end) in begin.into_iter().zip(end) {
        sum += begin;
        most = most.max(sum);
        sum -= end;
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: usize, first: usize, last: usize) -> Lifetime {
        Lifetime { bytes, first, last }
    }

    #[test]
    fn places_are_used_again_and_sums_are_of_what_lives() {
        let mut s = Space::default();
        let a = s.value(value(1000, 0, 1));
        let b = s.value(value(500, 1, 2));
        assert!(b >= a + 1000 + SLACK);
        // `a` is over.
        assert_eq!(s.value(value(900, 2, 3)), a);
        assert_eq!(s.most(&[], 1), 1500);
        assert_eq!(s.most(&[value(200, 0, 0)], 1), 1500);
        assert_eq!(s.most(&[value(200, 0, 5)], 2), 3200);
        assert_eq!(s.most(&[value(200, 0, 5)], 1), 1700);
        // Memory of one step is none of a value's.
        let t = s.temporary(5000, 3);
        assert!(t > 0 && s.size() > t + 5000);
        assert_eq!(s.most(&[], 1), 1500);
        let mut s = Space::default();
        let a = s.value(value(10, 0, 0));
        s.keep(a, 4);
        assert!(s.value(value(10, 4, 4)) > a);
        assert_eq!(s.most(&[], 1), 20);
    }

    #[test]
    fn with_all_lifetimes_known_places_are_tighter() {
        let ask = |s: &mut Space| {
            // The small one lies in the way of the large one that comes when the first is over.
            [value(1000, 0, 1), value(100, 1, 5), value(2000, 2, 3)].map(|v| s.value(v))
        };
        let mut first = Space::default();
        ask(&mut first);
        assert!(first.size() > 3000);
        let mut second = first.tighter().unwrap();
        let [a, b, c] = ask(&mut second);
        assert!(second.size() < 2400, "{}", second.size());
        assert!((a + 1000 <= b || b + 100 <= a) && (c + 2000 <= b || b + 100 <= c));
        assert!(second.tighter().is_none());
    }
}
