//! A team of threads that computes one thing after another together: the caller and some helpers that
//! wait for it.
//!
//! A helper that has nothing to do spins for a moment (work usually comes back at once), then sleeps. Between two steps
//! of one piece of work the members meet at a [`Member::barrier`], which costs a few hundred nanoseconds, not a
//! sleep and a waking. Nothing is allocated and no lock is taken while a team works.
use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

/// How long a helper looks for new work before it sleeps.
const PATIENCE: Duration = Duration::from_micros(100);
/// Looks at a barrier before the thread offers its core to others (there may be fewer cores than members).
const LOOKS: u32 = 1000;

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
    /// Barriers that this member has passed in this piece of work.
    passed: Cell<usize>,
}

/// The work: what each member calls.
type Work = *const (dyn Fn(&Member) + Sync);

struct Shared {
    members: usize,
    /// Number of the newest piece of work.
    newest: AtomicUsize,
    work: UnsafeCell<Option<Work>>,
    /// Helpers that have not finished it.
    busy: AtomicUsize,
    /// Members that wait at the barrier, and barriers passed since the work began.
    arrived: AtomicUsize,
    passed: AtomicUsize,
    /// A member panicked: the others do not wait for it.
    broken: AtomicBool,
    panic: UnsafeCell<Option<Box<dyn Any + Send>>>,
    /// Someone has stored a panic.
    stored: AtomicBool,
    /// For each helper: it sleeps, or is about to.
    asleep: Box<[AtomicBool]>,
    caller_asleep: AtomicBool,
    caller: UnsafeCell<Option<Thread>>,
    end: AtomicBool,
}

// SAFETY: `work` and `caller` are written by the caller while no helper is at work (`busy` is 0) and read by helpers after
// they saw the new number in `newest`; `panic` is written by the one member that set `stored` and read after `busy` fell to 0.
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
            busy: AtomicUsize::new(0),
            arrived: AtomicUsize::new(0),
            passed: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            panic: UnsafeCell::new(None),
            stored: AtomicBool::new(false),
            asleep: (1..members).map(|_| AtomicBool::new(false)).collect(),
            caller_asleep: AtomicBool::new(false),
            caller: UnsafeCell::new(None),
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

    /// Every member calls `work`, the caller as member 0; returns when all have finished.
    ///
    /// # Panics
    /// When a member panics, with its message.
    pub fn run<'w>(&mut self, work: &'w (dyn Fn(&Member) + Sync + 'w)) {
        let shared = &*self.shared;
        if shared.members == 1 {
            return work(&Member { index: 0, shared, passed: Cell::new(0) });
        }
        let pointer: *const (dyn Fn(&Member) + Sync + 'w) = work;
        // SAFETY: no helper is at work: the last call waited for them. The pointer outlives its use, since this
        // call returns only when no helper is at work any more; only its lifetime is changed.
        unsafe {
            *shared.work.get() = Some(std::mem::transmute::<*const (dyn Fn(&Member) + Sync + 'w), Work>(pointer));
            *shared.caller.get() = Some(thread::current());
        }
        shared.arrived.store(0, Ordering::Relaxed);
        shared.passed.store(0, Ordering::Relaxed);
        shared.busy.store(shared.members - 1, Ordering::Relaxed);
        shared.newest.fetch_add(1, Ordering::SeqCst);
        for (asleep, helper) in shared.asleep.iter().zip(&self.helpers) {
            if asleep.load(Ordering::SeqCst) {
                helper.thread().unpark();
            }
        }
        shared.attempt(0, work);
        let done = || shared.busy.load(Ordering::SeqCst) == 0;
        if !spin_until(done) {
            shared.caller_asleep.store(true, Ordering::SeqCst);
            while !done() {
                thread::park();
            }
            shared.caller_asleep.store(false, Ordering::Relaxed);
        }
        if shared.broken.swap(false, Ordering::Relaxed) {
            shared.stored.store(false, Ordering::Relaxed);
            // SAFETY: no helper is at work.
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
            seen += 1;
            // SAFETY: the caller wrote it before it raised `newest` and waits until this helper is done.
            let (work, caller) = unsafe { (*self.work.get(), (*self.caller.get()).clone()) };
            if let Some(work) = work {
                // SAFETY: as above.
                self.attempt(index, unsafe { &*work });
            }
            if self.busy.fetch_sub(1, Ordering::SeqCst) == 1
                && self.caller_asleep.load(Ordering::SeqCst)
                && let Some(caller) = caller
            {
                caller.unpark();
            }
        }
    }

    /// Calls the work; a panic is kept for the caller.
    fn attempt(&self, index: usize, work: &(dyn Fn(&Member) + Sync)) {
        let member = Member { index, shared: self, passed: Cell::new(0) };
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

    /// Waits until every member has come here. What members wrote before is then seen by all.
    ///
    /// # Panics
    /// When another member panicked.
    pub fn barrier(&self) {
        let shared = self.shared;
        if shared.members == 1 {
            return;
        }
        let number = self.passed.get();
        self.passed.set(number + 1);
        if shared.arrived.fetch_add(1, Ordering::AcqRel) == shared.members - 1 {
            shared.arrived.store(0, Ordering::Relaxed);
            shared.passed.store(number + 1, Ordering::Release);
            return;
        }
        let mut looks = 0;
        while shared.passed.load(Ordering::Acquire) == number {
            assert!(!shared.broken.load(Ordering::Relaxed), "another thread of the team panicked");
            looks += 1;
            if looks < LOOKS {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }

    /// This member's share of `units` equal pieces of work.
    pub fn share(&self, units: usize) -> std::ops::Range<usize> {
        let n = self.members();
        units * self.index / n..units * (self.index + 1) / n
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
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_member_works_once() {
        for members in 1..5 {
            let mut team = Team::new(members).unwrap();
            assert_eq!(team.members(), members);
            for round in 0..200 {
                let seen: Vec<AtomicUsize> = (0..members).map(|_| AtomicUsize::new(0)).collect();
                team.run(&|m| {
                    seen[m.index()].fetch_add(1 + round, Ordering::Relaxed);
                });
                assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1 + round));
            }
        }
    }

    #[test]
    fn barriers_order_the_steps() {
        for members in [2, 3, 5] {
            let mut team = Team::new(members).unwrap();
            let cells: Vec<AtomicU64> = (0..members).map(|_| AtomicU64::new(0)).collect();
            for _ in 0..5 {
                cells.iter().for_each(|c| c.store(0, Ordering::Relaxed));
                team.run(&|m| {
                    for step in 1..=100u64 {
                        cells[m.index()].store(step, Ordering::Relaxed);
                        m.barrier();
                        assert!(cells.iter().all(|c| c.load(Ordering::Relaxed) == step));
                        m.barrier();
                    }
                });
            }
        }
    }

    #[test]
    fn work_after_sleep() {
        let mut team = Team::new(2).unwrap();
        for _ in 0..3 {
            thread::sleep(PATIENCE * 20);
            let count = AtomicUsize::new(0);
            team.run(&|m| {
                // The caller waits long enough to fall asleep.
                if m.index() == 1 {
                    thread::sleep(PATIENCE * 20);
                }
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 2);
        }
    }

    #[test]
    fn panics_reach_the_caller_and_the_team_lives_on() {
        for guilty in 0..3 {
            let mut team = Team::new(3).unwrap();
            let work = |m: &Member| {
                assert!(m.index() != guilty, "member {guilty} fails");
                m.barrier();
            };
            let panic = catch_unwind(AssertUnwindSafe(|| team.run(&work))).unwrap_err();
            assert!(panic.is::<String>());
            let count = AtomicUsize::new(0);
            team.run(&|m| {
                m.barrier();
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 3);
        }
    }

    #[test]
    fn shares_cover_everything_once() {
        let mut team = Team::new(3).unwrap();
        for units in 0..10 {
            let seen: Vec<AtomicUsize> = (0..units).map(|_| AtomicUsize::new(0)).collect();
            team.run(&|m| {
                m.share(units).for_each(|i| {
                    seen[i].fetch_add(1, Ordering::Relaxed);
                })
            });
            assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
        }
    }
}
