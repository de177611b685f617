//! One cell of the comparison: all engines on one batch size and number of threads.
use super::{Engine, Form, process::Process};
use serde::Serialize;
use std::{
    process::Command,
    time::{Duration, Instant},
};

/// Rounds: at most, and at least where one turn is long.
const ROUNDS: (usize, usize) = (8, 3);
/// Runs in a turn, at most.
const RUNS: f64 = 1000.0;
/// Before a turn: the threads of the engine before have stopped spinning by its end.
const PAUSE: Duration = Duration::from_millis(50);

/// All engines under the same conditions.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Samples per run.
    pub batch: usize,
    /// Threads per engine.
    pub threads: usize,
    /// One per engine and form of the network.
    pub rows: Vec<Row>,
}

/// An engine in a cell.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Who.
    pub engine: Engine,
    /// What of the network it ran.
    pub form: Form,
    /// What it took.
    pub figures: Option<Figures>,
    /// Why there is nothing, or no more.
    pub error: Option<String>,
}

/// What an engine took.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Of the engine.
    pub version: String,
    /// Instruction set, where the engine says it.
    pub isa: Option<String>,
    /// Milliseconds from the file to the engine's session, in a process that has loaded the engine.
    pub load_ms: f64,
    /// Measured runs.
    pub runs: usize,
    /// Milliseconds of one run: the median over all.
    pub median_ms: f64,
    /// The fastest run.
    pub min_ms: f64,
    /// Times as long as nnq's run of the same kind of network (int8 or float): above 1, nnq is faster. The median over the rounds.
    pub ratio: Option<f64>,
    /// Times as long as nnq's run of the int8 network.
    pub ratio_int8: Option<f64>,
    /// Share of the other engines' turns during which this one computed nevertheless, where the system tells.
    pub restless: Option<f64>,
}

/// How an engine's process begins, or why it cannot.
pub(super) type Start = Result<Command, String>;

/// An engine that is to run.
pub(super) struct Contestant {
    pub engine: Engine,
    pub form: Form,
    pub start: Start,
}

/// An engine at work.
struct Runner {
    engine: Engine,
    form: Form,
    process: Result<Process, String>,
    version: String,
    isa: Option<String>,
    load_ms: f64,
    /// Runs in a turn.
    runs: usize,
    /// Seconds of each run, by round.
    rounds: Vec<Vec<f64>>,
    /// Seconds that it computed during others' turns.
    restless: Option<f64>,
}

/// Loads all engines, then lets them take turns for about `seconds` each. Answers in the order of the contestants.
pub(super) fn measure(contestants: Vec<Contestant>, seconds: f64, stop: &mut dyn FnMut() -> bool) -> Vec<Row> {
    let mut runners: Vec<Runner> = contestants.into_iter().map(|c| Runner::new(c, stop)).collect();
    let turn = seconds / ROUNDS.0 as f64;
    let longest = runners.iter_mut().filter_map(|r| r.warm_up(turn, stop)).fold(turn, f64::max);
    let rounds = ((seconds / longest) as usize).clamp(ROUNDS.1, ROUNDS.0);
    // Of all turns together, and of each engine's own.
    let mut wall = (0.0, vec![0.0; runners.len()]);
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..runners.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for i in order {
            if stop() {
                break;
            }
            if runners[i].process.is_err() {
                continue;
            }
            std::thread::sleep(PAUSE);
            let before: Vec<Option<f64>> = runners.iter().map(Runner::busy).collect();
            let clock = Instant::now();
            runners[i].turn(stop);
            let elapsed = clock.elapsed().as_secs_f64();
            wall.0 += elapsed;
            wall.1[i] += elapsed;
            for (_, (r, before)) in runners.iter_mut().zip(before).enumerate().filter(|(k, _)| *k != i) {
                r.restless = before.and_then(|b| Some(r.restless? + r.busy()? - b));
            }
        }
    }
    let baseline = |form| runners.iter().find(|r| r.engine == Engine::Nnq && r.form == form).map(|r| r.rounds.clone());
    let (int8, float) = (baseline(Form::Int8), baseline(Form::Float));
    let row = |(r, own): (Runner, f64)| {
        let same = if r.form == Form::Float { &float } else { &int8 };
        let figures = r.figures(same.as_deref(), int8.as_deref(), wall.0 - own);
        Row { engine: r.engine, form: r.form, figures, error: r.process.err() }
    };
    runners.into_iter().zip(wall.1).map(row).collect()
}

impl Runner {
    fn new(contestant: Contestant, stop: &mut dyn FnMut() -> bool) -> Self {
        let Contestant { engine, form, start } = contestant;
        let mut runner = Self {
            engine,
            form,
            process: start.and_then(|mut command| Process::start(&mut command)),
            version: String::new(),
            isa: None,
            load_ms: 0.0,
            runs: 1,
            rounds: Vec::new(),
            restless: Some(0.0),
        };
        if let Some(ready) = runner.attempt(|p| p.answer(stop)) {
            runner.version = ready.version.unwrap_or_default();
            runner.isa = ready.isa;
            runner.load_ms = ready.load_ms.unwrap_or_default();
        }
        runner
    }

    /// Does something with the process; an error ends it.
    fn attempt<T>(&mut self, act: impl FnOnce(&mut Process) -> Result<T, String>) -> Option<T> {
        match act(self.process.as_mut().ok()?) {
            Ok(answer) => Some(answer),
            Err(e) => {
                self.process = Err(e);
                None
            }
        }
    }

    /// Two runs; the second says how many make a turn of `seconds`. Answers how long a turn will take.
    fn warm_up(&mut self, seconds: f64, stop: &mut dyn FnMut() -> bool) -> Option<f64> {
        let one = *self.attempt(|p| p.turn(2, stop))?.last()?;
        self.runs = (seconds / one).clamp(1.0, RUNS) as usize;
        Some(one * self.runs as f64)
    }

    fn turn(&mut self, stop: &mut dyn FnMut() -> bool) {
        let runs = self.runs;
        let times = self.attempt(|p| p.turn(runs, stop));
        self.rounds.extend(times);
    }

    fn busy(&self) -> Option<f64> {
        self.process.as_ref().ok()?.busy()
    }

    /// `others`: seconds that the other engines' turns took.
    fn figures(&self, same: Option<&[Vec<f64>]>, int8: Option<&[Vec<f64>]>, others: f64) -> Option<Figures> {
        let all: Vec<f64> = self.rounds.iter().flatten().copied().collect();
        Some(Figures {
            version: self.version.clone(),
            isa: self.isa.clone(),
            load_ms: self.load_ms,
            runs: all.len(),
            median_ms: 1e3 * median(all.clone())?,
            min_ms: 1e3 * all.iter().copied().fold(f64::INFINITY, f64::min),
            ratio: same.and_then(|s| ratio(&self.rounds, s)),
            ratio_int8: int8.and_then(|s| ratio(&self.rounds, s)),
            restless: self.restless.filter(|_| others > 0.0).map(|s| s / others),
        })
    }
}

/// The median over the rounds of one's median over the other's in the same round.
fn ratio(one: &[Vec<f64>], other: &[Vec<f64>]) -> Option<f64> {
    let ratios = one.iter().zip(other).filter_map(|(a, b)| Some(median(a.clone())? / median(b.clone())?));
    median(ratios.collect())
}

/// The middle one, or the mean of the two in the middle.
fn median(mut x: Vec<f64>) -> Option<f64> {
    x.sort_by(f64::total_cmp);
    let (low, high) = (x.get(x.len().checked_sub(1)? / 2)?, x.get(x.len() / 2)?);
    Some((low + high) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_paired_ratios() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
        // The machine was three times as slow in the second round: the ratio does not see it.
        let (ours, theirs) = ([vec![1.0, 1.0, 9.0], vec![3.0]], [vec![2.0, 2.0], vec![6.0, 6.0]]);
        assert_eq!(ratio(&theirs, &ours), Some(2.0));
        assert_eq!(ratio(&theirs, &[]), None);
    }

    /// Engines that answer made-up times: the protocol, the order of rows, ratios and reasons, without any engine.
    #[cfg(unix)]
    #[test]
    fn engines_take_turns() {
        let fake = |seconds: &str| {
            let script = format!(
                r#"echo '{{"version": "1", "load_ms": 5}}'; while read n; do s={seconds}; i=1; while [ $i -lt $n ]; do s="$s, {seconds}"; i=$((i+1)); done; echo "{{\"seconds\": [$s]}}"; done"#
            );
            let mut c = Command::new("sh");
            c.args(["-c", &script]);
            Ok(c)
        };
        let broken = || {
            let mut c = Command::new("sh");
            c.args(["-c", r#"echo '{"error": "ImportError: nothing"}'"#]);
            Ok(c)
        };
        let contestants = vec![
            Contestant { engine: Engine::Nnq, form: Form::Int8, start: fake("0.02") },
            Contestant { engine: Engine::OnnxRuntime, form: Form::Int8, start: fake("0.05") },
            Contestant { engine: Engine::OpenVino, form: Form::Int8, start: broken() },
            Contestant { engine: Engine::OpenVino, form: Form::OwnInt8, start: Err("no tool".into()) },
            Contestant { engine: Engine::Nnq, form: Form::Float, start: fake("0.08") },
        ];
        let rows = measure(contestants, 0.32, &mut || false);
        let close = |x: Option<f64>, y: f64| (x.unwrap() - y).abs() < 1e-9;
        let figures = |i: usize| rows[i].figures.as_ref().unwrap();
        assert!(close(Some(figures(0).median_ms), 20.0) && close(figures(0).ratio, 1.0));
        assert!(close(figures(1).ratio, 2.5) && close(figures(1).ratio_int8, 2.5) && figures(1).load_ms == 5.0);
        assert!(close(figures(4).ratio, 1.0) && close(figures(4).ratio_int8, 4.0));
        // Turns of 80 ms, the longest run: 0.32 s hold four rounds.
        assert_eq!((figures(0).runs, figures(4).runs), (8, 4));
        assert!(rows[2].figures.is_none() && rows[2].error.as_deref() == Some("ImportError: nothing"));
        assert_eq!(rows[3].error.as_deref(), Some("no tool"));
    }
}
