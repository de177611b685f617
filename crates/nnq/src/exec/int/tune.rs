//! Choosing by trying: what is open to a step, timed on this machine. The results are the same bits.
use super::{
    Progress,
    plan::{Part, Plan},
};
use crate::error::Result;
use nnq_kernels::{
    tape::{Choice, Real, Tape, Workspace},
    team::Team,
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// What was chosen, by the description of a step ([`Tape::description`]).
pub type Choices = BTreeMap<String, Choice>;

/// A measurement lasts at least this long.
const LAP: Duration = Duration::from_micros(200);
/// Measurements of each candidate, in turns; the shortest counts.
const ROUNDS: usize = 9;
/// After so many rounds those that are hopeless leave.
const TRIAL: usize = 2;
/// Slower than the best by this factor is hopeless.
const HOPELESS: f64 = 1.3;
/// What is not faster than the usual by this factor is no better.
const BETTER: f64 = 0.97;

/// Chooses for every step of a plan: as `choices` says, and by trying where it says nothing, which is added to it.
///
/// # Errors
/// What `progress` answers.
pub(super) fn tune(plan: &mut Plan, team: &mut Team, choices: &mut Choices, progress: &mut Progress) -> Result<()> {
    let steps = |plan: &Plan| plan.parts.iter().map(|p| if let Part::Tape(s) = p { s.tape.len() } else { 0 }).sum();
    let (all, mut done) = (steps(plan), 0);
    for part in &mut plan.parts {
        let Part::Tape(segment) = part else { continue };
        let mut trial = None;
        for i in 0..segment.tape.len() {
            if let Some(description) = segment.tape.description(i) {
                let choice = choices.get(&description).copied().unwrap_or_else(|| {
                    let choice =
                        trial.get_or_insert_with(|| Trial::new(&segment.tape)).best(&mut segment.tape, i, team);
                    choices.insert(description, choice);
                    choice
                });
                segment.tape.choose(i, choice);
            }
            done += 1;
            progress(done, all)?;
        }
    }
    Ok(())
}

/// Memory to run the steps of a segment by themselves.
struct Trial {
    workspace: Workspace,
    reals: Vec<(Vec<f32>, bool)>,
}

impl Trial {
    fn new(tape: &Tape) -> Self {
        let reals = tape.reals().iter().map(|&(len, written)| (vec![0.0; len], written));
        Self { workspace: Workspace::new(), reals: reals.collect() }
    }

    /// The best choice for step `i`.
    fn best(&mut self, tape: &mut Tape, i: usize, team: &mut Team) -> Choice {
        let ways: Vec<Choice> = tape.ways(i).into_iter().map(|way| Choice { way, split: None }).collect();
        let best = self.race(tape, i, team, &ways);
        let splits = tape.splits(i).into_iter().map(|split| Choice { split: Some(split), ..best });
        let splits: Vec<Choice> = [best].into_iter().chain(splits).collect();
        self.race(tape, i, team, &splits)
    }

    /// The fastest of some choices; the first one unless another is faster for certain.
    fn race(&mut self, tape: &mut Tape, i: usize, team: &mut Team, choices: &[Choice]) -> Choice {
        let usual = choices.first().copied().unwrap_or_default();
        if choices.len() < 2 {
            return usual;
        }
        tape.choose(i, usual);
        let mut repeat = 1;
        while self.lap(tape, i, team, repeat) < LAP && repeat < 1 << 12 {
            repeat *= 2;
        }
        let mut runners: Vec<(Choice, Duration)> = choices.iter().map(|&c| (c, Duration::MAX)).collect();
        for round in 0..ROUNDS {
            for (choice, best) in &mut runners {
                tape.choose(i, *choice);
                *best = self.lap(tape, i, team, repeat).min(*best);
            }
            if round + 1 == TRIAL {
                let best = runners.iter().map(|r| r.1).min().unwrap_or_default().as_secs_f64();
                runners.retain(|(choice, time)| *choice == usual || time.as_secs_f64() <= best * HOPELESS);
            }
        }
        let limit = runners.first().map_or(0.0, |r| r.1.as_secs_f64() * BETTER);
        let better = runners.iter().skip(1).filter(|r| r.1.as_secs_f64() < limit);
        better.min_by_key(|r| r.1).map_or(usual, |r| r.0)
    }

    /// The time of `repeat` runs of step `i`.
    fn lap(&mut self, tape: &Tape, i: usize, team: &mut Team, repeat: usize) -> Duration {
        let mut buffers: Vec<Real<'_>> = self
            .reals
            .iter_mut()
            .map(|(buffer, written)| if *written { Real::Write(buffer) } else { Real::Read(buffer) })
            .collect();
        let start = Instant::now();
        for _ in 0..repeat {
            tape.run(i..i + 1, &mut self.workspace, &mut buffers, team, None);
        }
        start.elapsed()
    }
}
