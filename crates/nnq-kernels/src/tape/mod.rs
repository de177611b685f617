//! A sequence of kernels over one piece of memory, run by a [`Team`].
//!
//! All sizes and places are fixed when a tape is made: running it allocates nothing (beyond what the kernels' own memory
//! grows to in the first run) and decides nothing. Each step is cut into pieces; every member of the team has a share of its own and
//! helps with the others' when it is through. A step so small that going apart costs more is one piece.
//!
//! Codes live in the arena of a [`Workspace`]; real numbers come in and go out in buffers of the caller's.
mod bound;
mod check;
mod choice;
mod claims;
mod integers;
mod memory;
mod moves;
mod parts;
mod run;
mod step;
mod weights;

pub use choice::{Choice, Split};
pub use integers::{Integers, Mask, MaskOf};
pub use memory::{Real, Workspace};
pub use moves::{Copies, Moves, Repeat};
pub use step::{
    Average, Code, Found, Kernel, Planes, Product, ProductOut, Requantize, Residual, Span, Strided, Within,
};
pub use weights::{Stored, Weights};

use crate::{Isa, team::Team};
use std::{ops::Range, time::Duration};

/// A sequence of kernels.
#[derive(Debug)]
pub struct Tape {
    isa: Isa,
    members: usize,
    steps: Vec<Step>,
    arena: usize,
    /// For each buffer of real numbers: elements, and whether the tape writes it.
    reals: Vec<(usize, bool)>,
}

#[derive(Debug)]
struct Step {
    /// Its place in the tape.
    number: usize,
    kernel: Kernel,
    bound: bound::Bound,
    choice: Choice,
    /// Units of work that cannot be cut.
    units: usize,
    /// Units that should stay together.
    grain: usize,
    /// Pieces that are done as a whole.
    pieces: usize,
}

impl Step {
    fn piece(&self, i: usize) -> Range<usize> {
        let grains = self.units.div_ceil(self.grain);
        let at = |i: usize| (grains * i / self.pieces * self.grain).min(self.units);
        at(i)..at(i + 1)
    }
}

impl Tape {
    /// Takes steps for a team of `members`, over `weights`, an arena of `arena` bytes and buffers of real numbers: for each its
    /// elements and whether the tape writes it.
    ///
    /// # Errors
    /// When a step reaches beyond the arena or a buffer, writes what it reads, or has parts that do not fit each other; or when
    /// this machine does not have `isa`.
    pub fn new(
        isa: Isa,
        members: usize,
        kernels: Vec<Kernel>,
        weights: &[Weights],
        arena: usize,
        reals: Vec<(usize, bool)>,
    ) -> Result<Tape, String> {
        if !isa.is_supported() {
            return Err(format!("this machine does not have the instruction set {isa}"));
        }
        let limits = check::Limits { arena, reals: &reals, weights };
        let steps = kernels
            .into_iter()
            .enumerate()
            .map(|(i, kernel)| {
                kernel.check(&limits).map_err(|e| format!("step {i}: {e}"))?;
                let bound = bound::Bound::new(isa, &kernel, weights, members);
                let mut step =
                    Step { number: i, kernel, bound, choice: Choice::default(), units: 0, grain: 1, pieces: 1 };
                step.cut(members);
                Ok(step)
            })
            .collect::<Result<_, String>>()?;
        Ok(Tape { isa, members, steps, arena, reals })
    }

    /// The kernels, in order.
    pub fn kernels(&self) -> impl Iterator<Item = &Kernel> {
        self.steps.iter().map(|step| &step.kernel)
    }

    /// How many steps there are.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// For each buffer of real numbers its elements, and whether the tape writes it.
    pub fn reals(&self) -> &[(usize, bool)] {
        &self.reals
    }

    /// Bytes of the arena that it needs.
    pub fn arena(&self) -> usize {
        self.arena
    }

    /// Runs the steps `which` in `workspace` and on the buffers of real numbers, with the members of `team`. With `times`, the
    /// wall-clock time of each step is written.
    ///
    /// # Panics
    /// When a buffer has another length or direction than was said to [`Tape::new`].
    pub fn run(
        &self,
        which: Range<usize>,
        workspace: &mut Workspace,
        reals: &mut [Real<'_>],
        team: &mut Team,
        times: Option<&mut [Duration]>,
    ) {
        self.check_reals(reals, 1);
        workspace.ready(self.arena, team.members());
        run::run(self, which, workspace, reals, team, times);
    }

    fn check_reals(&self, reals: &[Real<'_>], parts: usize) {
        assert!(reals.len() == self.reals.len(), "{} buffers of {}", reals.len(), self.reals.len());
        for (i, (real, &(len, written))) in reals.iter().zip(&self.reals).enumerate() {
            let (have, writable) = real.kind();
            let len = len * parts;
            assert!(have == len && writable == written, "buffer {i}: {have} elements where {len} are needed");
        }
    }
}

#[cfg(test)]
mod tests;
