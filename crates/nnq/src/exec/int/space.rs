//! The arena of codes while it is handed out.
use nnq_kernels::SLACK;

/// First fit by liveness.
#[derive(Default)]
pub(super) struct Space {
    /// What is in use.
    live: Vec<Taken>,
    /// Every value that was given a place of its own.
    values: Vec<Lifetime>,
    size: usize,
}

/// Bytes of the arena.
struct Taken {
    start: usize,
    end: usize,
    /// The step after which they are free.
    last: usize,
    /// The value that lies there; `None`: memory of one step.
    value: Option<usize>,
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

impl Space {
    /// A place for a value.
    pub(super) fn value(&mut self, of: Lifetime) -> usize {
        let number = self.values.len();
        self.values.push(of);
        self.take(of.bytes, of.first, of.last, Some(number))
    }

    /// Memory for step `now` only.
    pub(super) fn temporary(&mut self, bytes: usize, now: usize) -> usize {
        self.take(bytes, now, now, None)
    }

    fn take(&mut self, bytes: usize, now: usize, last: usize, value: Option<usize>) -> usize {
        self.live.retain(|t| t.last >= now);
        self.live.sort_unstable_by_key(|t| t.start);
        let bytes = (bytes + SLACK).next_multiple_of(64);
        let mut at = 0;
        for t in &self.live {
            if at + bytes <= t.start {
                break;
            }
            at = at.max(t.end);
        }
        self.live.push(Taken { start: at, end: at + bytes, last, value });
        self.size = self.size.max(at + bytes);
        at
    }

    /// The value at `at` lives on until `last`.
    pub(super) fn keep(&mut self, at: usize, last: usize) {
        for t in self.live.iter_mut().filter(|t| t.start == at) {
            t.last = t.last.max(last);
            if let Some(number) = t.value {
                self.values[number].last = t.last;
            }
        }
    }

    /// Bytes of the arena.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The most bytes of values that are needed at the same time, `others` among them: no plan needs less memory.
    pub(super) fn most(&self, others: &[Lifetime]) -> usize {
        let all = || self.values.iter().chain(others).filter(|v| v.first <= v.last);
        let steps = all().map(|v| v.first + 1).max().unwrap_or(0);
        let (mut begin, mut end) = (vec![0; steps], vec![0; steps]);
        for v in all() {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_sums_are_of_what_lives() {
        let value = |bytes, first, last| Lifetime { bytes, first, last };
        let mut s = Space::default();
        let a = s.value(value(1000, 0, 1));
        let b = s.value(value(500, 1, 2));
        assert!(b >= a + 1000 + SLACK);
        // `a` is over.
        assert_eq!(s.value(value(900, 2, 3)), a);
        assert_eq!(s.most(&[]), 1500);
        assert_eq!(s.most(&[value(200, 0, 0)]), 1500);
        assert_eq!(s.most(&[value(200, 0, 5)]), 1700);
        // Memory of one step is none of a value's.
        let t = s.temporary(5000, 3);
        assert!(t > 0 && s.size() > t + 5000);
        assert_eq!(s.most(&[]), 1500);
        s.keep(b, 3);
        s.value(value(1, 3, 3));
        assert_eq!(s.most(&[]), 1500);
        let mut s = Space::default();
        let a = s.value(value(10, 0, 0));
        s.keep(a, 4);
        assert!(s.value(value(10, 4, 4)) > a);
        assert_eq!(s.most(&[]), 20);
    }
}
