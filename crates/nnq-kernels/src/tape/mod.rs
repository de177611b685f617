//! A sequence of kernels over one piece of memory, run by a [`Team`].
//!
//! All sizes and places are fixed when a tape is made: running it allocates nothing (beyond what the kernels' own memory
//! grows to in the first run) and decides nothing. Each step is cut into as many shares as the team has members; between
//! steps the members meet at a barrier. A step so small that a barrier would cost more is done by the caller alone.
//!
//! Codes live in an [`Arena`]; real numbers come in and go out in buffers of the caller's.
mod memory;
mod planes;
mod run;
mod step;

pub use memory::{Arena, Local, Real};
pub use step::{
    Average, Code, Copies, Kernel, Planes, Product, ProductOut, Requantize, Residual, Span, Strided, Weights,
};

use crate::{Isa, team::Team};
use std::{ops::Range, time::Duration};

/// A sequence of kernels.
#[derive(Debug)]
pub struct Tape {
    isa: Isa,
    steps: Vec<Step>,
    arena: usize,
    /// For each buffer of real numbers: elements, and whether the tape writes it.
    reals: Vec<(usize, bool)>,
}

#[derive(Debug)]
struct Step {
    kernel: Kernel,
    /// Pieces that the work can be cut into.
    units: usize,
    /// The caller does it alone.
    solo: bool,
}

impl Tape {
    /// Takes steps over an arena of `arena` bytes and over buffers of real numbers: for each its elements and whether the
    /// tape writes it.
    ///
    /// # Panics
    /// When a step reaches beyond the arena or a buffer, writes what it reads, or this machine does not have `isa`.
    pub fn new(isa: Isa, kernels: Vec<Kernel>, arena: usize, reals: Vec<(usize, bool)>) -> Tape {
        assert!(isa.is_supported(), "this machine does not have the instruction set {isa}");
        let limits = step::Limits { arena, reals: &reals };
        let steps = kernels
            .into_iter()
            .enumerate()
            .map(|(i, kernel)| {
                kernel.check(&limits).unwrap_or_else(|e| panic!("step {i}: {e}"));
                Step { units: kernel.units(), solo: kernel.is_small(), kernel }
            })
            .collect();
        Tape { isa, steps, arena, reals }
    }

    /// How many steps there are.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Bytes of the arena that it needs.
    pub fn arena(&self) -> usize {
        self.arena
    }

    /// Runs the steps `which` on the arena and the buffers of real numbers, with the members of `team`; `locals` holds one
    /// for each member. With `times`, every step is ended by a barrier and its wall-clock time written.
    ///
    /// # Panics
    /// When the arena is too small, a buffer has another length or direction than was said to [`Tape::new`], or there are
    /// fewer `locals` than members.
    pub fn run(
        &self,
        which: Range<usize>,
        arena: &mut Arena,
        reals: &mut [Real<'_>],
        locals: &mut [Local],
        team: &mut Team,
        times: Option<&mut [Duration]>,
    ) {
        assert!(arena.len() >= self.arena, "an arena of {} bytes; {} are needed", arena.len(), self.arena);
        assert!(reals.len() == self.reals.len(), "{} buffers of {}", reals.len(), self.reals.len());
        for (i, (real, &(len, written))) in reals.iter().zip(&self.reals).enumerate() {
            let (have, writable) = real.kind();
            assert!(have == len && writable == written, "buffer {i}: {real:?} where {len} elements are needed");
        }
        assert!(locals.len() >= team.members(), "{} locals for {} members", locals.len(), team.members());
        run::run(self, &self.steps[which], arena, reals, locals, team, times);
    }
}

#[cfg(test)]
mod tests;
