//! Running a tape part by part, so that what a part needs stays in the cache.
use super::{
    Tape,
    memory::{Arena, Memory, Real, RealPtr, Workspace},
    run::piece,
};
use crate::team::Team;
use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

impl Tape {
    /// Runs all steps once for each of `parts` parts of the buffers of real numbers. A part lies behind the one before and has the sizes
    /// that were said to [`Tape::new`]. Each member of `team` takes parts of its own, has an arena of its own and waits for nobody. With
    /// `times`, the time of each step is added up, as a share of the wall-clock time.
    ///
    /// # Panics
    /// When a buffer has another length or direction.
    pub fn run_parts(
        &self,
        parts: usize,
        workspace: &mut Workspace,
        reals: &mut [Real<'_>],
        team: &mut Team,
        times: Option<&mut [Duration]>,
    ) {
        self.check_reals(reals, parts);
        let (members, share) = (team.members(), Arena::share(self.arena));
        workspace.ready(share * members, members);
        let pointers: Vec<RealPtr> = reals.iter_mut().map(|real| RealPtr::of(real, parts.max(1))).collect();
        let Workspace { arena, locals, fault, .. } = workspace;
        let memory = Memory::new(arena, &pointers, locals, fault);
        let (next, times) = (AtomicUsize::new(0), times.map(Mutex::new));
        team.run(&|member| {
            loop {
                let part = next.fetch_add(1, Ordering::Relaxed);
                if part >= parts {
                    return;
                }
                let own = memory.part(member.index() * share, part);
                // SAFETY: there are as many locals as members, and a member is one thread.
                let local = unsafe { own.local(member.index()) };
                for (i, step) in self.steps.iter().enumerate() {
                    let start = times.as_ref().map(|_| Instant::now());
                    // SAFETY: the steps were checked against the memory when the tape was made; the arena is the member's own,
                    // and the part, which nobody else has taken, lies within the buffers.
                    unsafe { piece(self.isa, step, 0..step.units, &own, local) };
                    if let (Some(start), Some(Ok(mut times))) = (start, times.as_ref().map(Mutex::lock)) {
                        times[i] += start.elapsed() / members as u32;
                    }
                }
            }
        });
    }
}
