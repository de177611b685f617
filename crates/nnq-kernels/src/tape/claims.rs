//! Who has taken which piece of which step.
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counters of one run. Each member begins with a share of its own of each step and goes on with what others have not begun, so
/// that nobody waits for a thread that the system does not run.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// For each step and member the pieces of its share that are taken.
    taken: Vec<Line>,
    /// For each step the pieces that are done.
    done: Vec<Line>,
}

/// A counter in a line of the cache of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line(AtomicUsize);

impl Claims {
    /// Readies the counters for a run of `steps` steps; nobody works meanwhile.
    pub(super) fn reset(&mut self, steps: usize, members: usize) {
        if members == 1 {
            return;
        }
        let grow = |lines: &mut Vec<Line>, n: usize| {
            if lines.len() < n {
                lines.resize_with(n, Line::default);
            }
            lines[..n].iter_mut().for_each(|line| *line.0.get_mut() = 0);
        };
        grow(&mut self.taken, steps * members);
        grow(&mut self.done, steps);
    }

    /// Takes a piece of share number `share`, which has `count` pieces.
    pub(super) fn take(&self, share: usize, count: usize) -> Option<usize> {
        let counter = &self.taken[share].0;
        // A look first: others' exhausted shares are not written.
        if counter.load(Ordering::Relaxed) >= count {
            return None;
        }
        Some(counter.fetch_add(1, Ordering::Relaxed)).filter(|&piece| piece < count)
    }

    /// Says that `pieces` pieces of a step are done; what was written in them is seen by whoever finds the step finished.
    pub(super) fn finish(&self, step: usize, pieces: usize) {
        self.done[step].0.fetch_add(pieces, Ordering::AcqRel);
    }

    /// How many pieces of a step are done.
    pub(super) fn finished(&self, step: usize) -> usize {
        self.done[step].0.load(Ordering::Acquire)
    }
}
