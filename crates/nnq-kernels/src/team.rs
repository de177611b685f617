//! A team of threads: the caller, and helpers that join in while it works.
//!
//! A helper that has nothing to do spins for a moment (work usually comes back at once), then sleeps. A helper that the
//! system does not run in time is not waited for: the work has to be such that whoever is there can do it all, piece by piece.
//! Nothing is allocated and no lock is taken while a team works.
use std::{
    any::Any,
    cell::UnsafeCell,
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long a helper looks for new work before it sleeps.
const PATIENCE: Duration = Duration::from_micros(100);
/// Looks of a waiting member before it offers its core to others (there may be fewer cores than members).
const LOOKS: u32 = 500;
/// In [`Shared::gate`]: the work is over, nobody may join in any more.
const CLOSED: usize = 1;
/// In [`Shared::gate`]: one helper at work.
const ONE: usize = 2;

/// The caller's thread and its helpers. Dropping it ends the helpers.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

/// One thread of a team at work.
#[derive(Debug)]
pub struct Member<'a> {
    index: usize,
    shared: &'a Shared,
}

/// The work: what each member calls.
type Work = *const (dyn Fn(&Member) + Sync);

struct Shared {
    members: usize,
    /// Number of the newest piece of work.
    newest: AtomicUsize,
    work: UnsafeCell<Option<Work>>,
    /// Helpers at work, and whether it is over.
    gate: AtomicUsize,
    /// A member panicked: the others do not wait for it.
    broken: AtomicBool,
    panic: UnsafeCell<Option<Box<dyn Any + Send>>>,
    /// Someone has stored a panic.
    stored: AtomicBool,
    /// For each helper: it sleeps, or is about to.
    asleep: Box<[AtomicBool]>,
    end: AtomicBool,
}

// SAFETY: `work` is written by the caller while the gate is closed and nobody is at work, and read by helpers that came through the
// open gate; `panic` is written by the one member that set `stored` and read when nobody is at work any more.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `work` is only used while the call that owns it waits.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("members", &self.members).finish_non_exhaustive()
    }
}

impl Team {
    /// A team of `members` threads, the caller's among them; 0: one for each core that this process may use.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(members: usize) -> io::Result<Team> {
        let members = match members {
            0 => thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let shared = Arc::new(Shared {
            members,
            newest: AtomicUsize::new(0),
            work: UnsafeCell::new(None),
            gate: AtomicUsize::new(CLOSED),
            broken: AtomicBool::new(false),
            panic: UnsafeCell::new(None),
            stored: AtomicBool::new(false),
            asleep: (1..members).map(|_| AtomicBool::new(false)).collect(),
            end: AtomicBool::new(false),
        });
        let mut team = Team { shared: shared.clone(), helpers: Vec::with_capacity(members - 1) };
        for index in 1..members {
            let shared = shared.clone();
            let helper = thread::Builder::new().name(format!("nnq-{index}")).spawn(move || shared.help(index))?;
            team.helpers.push(helper);
        }
        Ok(team)
    }

    /// How many threads compute.
    pub fn members(&self) -> usize {
        self.shared.members
    }

    /// The caller calls `work` as member 0, and so does every helper that is awake before the caller is through; returns when
    /// all of them are through.
    ///
    /// # Panics
    /// When a member panics, with its message.
    pub fn run<'w>(&mut self, work: &'w (dyn Fn(&Member) + Sync + 'w)) {
        let shared = &*self.shared;
        if shared.members == 1 {
            return work(&Member { index: 0, shared });
        }
        let pointer: *const (dyn Fn(&Member) + Sync + 'w) = work;
        // SAFETY: the gate is closed and nobody is at work: the last call waited for that. The pointer is used only behind the
        // gate, which this call closes before it returns; only its lifetime is changed.
        unsafe {
            *shared.work.get() = Some(std::mem::transmute::<*const (dyn Fn(&Member) + Sync + 'w), Work>(pointer));
        }
        // Late helpers of the last work come and go at the closed gate: what they add they take away again.
        shared.gate.fetch_sub(CLOSED, Ordering::SeqCst);
        shared.newest.fetch_add(1, Ordering::SeqCst);
        for (asleep, helper) in shared.asleep.iter().zip(&self.helpers) {
            if asleep.load(Ordering::SeqCst) {
                helper.thread().unpark();
            }
        }
        shared.attempt(0, work);
        shared.gate.fetch_or(CLOSED, Ordering::SeqCst);
        wait_until(|| shared.gate.load(Ordering::SeqCst) == CLOSED);
        if shared.broken.swap(false, Ordering::Relaxed) {
            shared.stored.store(false, Ordering::Relaxed);
            // SAFETY: nobody is at work.
            if let Some(panic) = unsafe { (*shared.panic.get()).take() } {
                resume_unwind(panic);
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // A helper catches the panics of its work.
            let _ = helper.join();
        }
    }
}

impl Shared {
    /// The life of a helper.
    fn help(&self, index: usize) {
        let mut seen = 0;
        loop {
            let news = || self.newest.load(Ordering::SeqCst) != seen || self.end.load(Ordering::Relaxed);
            if !spin_until(news) {
                let asleep = &self.asleep[index - 1];
                asleep.store(true, Ordering::SeqCst);
                while !news() {
                    thread::park();
                }
                asleep.store(false, Ordering::Relaxed);
            }
            if self.newest.load(Ordering::SeqCst) == seen {
                return;
            }
            let gate = self.gate.fetch_add(ONE, Ordering::SeqCst);
            // While a helper is behind the gate, no newer work begins.
            seen = self.newest.load(Ordering::SeqCst);
            if gate & CLOSED == 0 {
                // SAFETY: the caller wrote it before it opened the gate, and it stays until this helper has left.
                if let Some(work) = unsafe { *self.work.get() } {
                    // SAFETY: as above.
                    self.attempt(index, unsafe { &*work });
                }
            }
            self.gate.fetch_sub(ONE, Ordering::SeqCst);
        }
    }

    /// Calls the work; a panic is kept for the caller.
    fn attempt(&self, index: usize, work: &(dyn Fn(&Member) + Sync)) {
        let member = Member { index, shared: self };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(&member))) {
            if !self.stored.swap(true, Ordering::SeqCst) {
                // SAFETY: only the first member comes here, and the caller looks when all are done.
                unsafe { *self.panic.get() = Some(panic) };
            }
            self.broken.store(true, Ordering::SeqCst);
        }
    }
}

impl Member<'_> {
    /// Number of this member, below [`Member::members`]; the caller is 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many threads compute.
    pub fn members(&self) -> usize {
        self.shared.members
    }

    /// Waits until `done` answers true: for a piece of work that another member has taken.
    ///
    /// # Panics
    /// When another member panicked.
    pub fn wait(&self, done: impl Fn() -> bool) {
        wait_until(|| {
            assert!(!self.shared.broken.load(Ordering::Relaxed), "another thread of the team panicked");
            done()
        });
    }
}

/// Looks again and again.
fn wait_until(done: impl Fn() -> bool) {
    let mut looks = 0;
    while !done() {
        looks += 1;
        if looks < LOOKS {
            std::hint::spin_loop();
        } else {
            thread::yield_now();
        }
    }
}

/// Looks for a while; whether it has come true.
fn spin_until(true_now: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..32 {
            if true_now() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > PATIENCE {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes pieces until none is left, and waits until all are done.
    fn pieces(member: &Member, next: &AtomicUsize, done: &AtomicUsize, of: usize, f: impl Fn(usize)) {
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= of {
                break;
            }
            f(piece);
            done.fetch_add(1, Ordering::Release);
        }
        member.wait(|| done.load(Ordering::Acquire) >= of);
    }

    #[test]
    fn every_piece_is_done_once_and_in_order_of_the_steps() {
        const STEPS: usize = 50;
        for members in 1..5 {
            let mut team = Team::new(members).unwrap();
            assert_eq!(team.members(), members);
            for pieces_of_a_step in [1, 2, 7] {
                for _ in 0..20 {
                    let zeros = |n: usize| (0..n).map(|_| AtomicUsize::new(0)).collect::<Vec<_>>();
                    let (next, done) = (zeros(STEPS), zeros(STEPS));
                    let count = AtomicUsize::new(0);
                    team.run(&|m| {
                        assert!(m.index() < members);
                        for step in 0..STEPS {
                            pieces(m, &next[step], &done[step], pieces_of_a_step, |_| {
                                // Every piece of the steps before is done.
                                assert!(count.fetch_add(1, Ordering::Relaxed) >= step * pieces_of_a_step);
                            });
                        }
                    });
                    assert_eq!(count.into_inner(), STEPS * pieces_of_a_step);
                }
            }
        }
    }

    #[test]
    fn helpers_wake_up() {
        let mut team = Team::new(2).unwrap();
        for _ in 0..3 {
            thread::sleep(PATIENCE * 20);
            let helped = AtomicBool::new(false);
            // The caller waits for the helper.
            team.run(&|m| match m.index() {
                0 => m.wait(|| helped.load(Ordering::Relaxed)),
                _ => helped.store(true, Ordering::Relaxed),
            });
        }
    }

    #[test]
    fn panics_reach_the_caller_and_the_team_lives_on() {
        for guilty in 0..3 {
            let mut team = Team::new(3).unwrap();
            let there = AtomicUsize::new(0);
            let work = |m: &Member| {
                there.fetch_add(1, Ordering::Relaxed);
                m.wait(|| there.load(Ordering::Relaxed) == 3);
                assert!(m.index() != guilty, "member {guilty} fails");
                m.wait(|| false);
            };
            let panic = catch_unwind(AssertUnwindSafe(|| team.run(&work))).unwrap_err();
            assert_eq!(panic.downcast_ref::<String>(), Some(&format!("member {guilty} fails")));
            let alive = AtomicUsize::new(0);
            team.run(&|m| {
                alive.fetch_add(1, Ordering::Relaxed);
                m.wait(|| alive.load(Ordering::Relaxed) == 3);
            });
        }
    }
}
