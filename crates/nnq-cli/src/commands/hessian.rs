//! `nnq analyze --hessian`.
use super::learning::Bar;
use crate::print::{Side, Table, number};
use nnq::{Result, analyze};
pub use nnq_train::hessian::Report;
use nnq_train::{
    Event,
    hessian::{self, Classes, Job},
    place::Place,
};

/// The draws that are wanted, if any.
pub fn wanted(draws: Option<u32>) -> Result<Option<u32>> {
    Ok(draws)
}

/// Measures on the samples of an analysis.
pub fn run(analysis: &analyze::Job, draws: u32) -> Result<Report> {
    let job = Job { analysis: analysis.clone(), draws, place: Place::Cpu };
    let mut bar = Bar::default();
    hessian::run(&job, &mut |event| {
        if let Event::Stage(what, done, of) = event {
            bar.of(what).update(done, of);
        }
    })
}

/// The table for people.
pub fn text(r: &Report) -> String {
    let classes = match r.classes {
        Classes::Labels => "the labels",
        Classes::Predicted => "the network's own best classes, as the data has no labels that suit it",
    };
    let mut out = format!(
        "\nHessian of the float network's loss by each layer's weights: cross-entropy with {classes}, {} on {}; {}\n",
        number::digits(r.loss),
        number::plural(r.samples as u64, "sample"),
        number::plural(r.draws.into(), "draw")
    );
    let mut table = Table::new(&[
        ("layer", Side::Left),
        ("weights", Side::Right),
        ("trace", Side::Right),
        ("+-", Side::Right),
        ("average", Side::Right),
        ("largest eigenvalue", Side::Right),
        ("|Q(w)-w|^2", Side::Right),
        ("sensitivity", Side::Right),
    ]);
    let known = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), number::digits);
    for l in &r.layers {
        let sign = if l.settled { "" } else { "~" };
        table.row([
            l.node.clone(),
            number::count(l.weights as u64),
            number::digits(l.trace),
            number::digits(l.trace_error),
            number::digits(l.average_trace),
            format!("{sign}{}", number::digits(l.eigenvalue)),
            known(l.squared_error),
            known(l.sensitivity),
        ]);
    }
    out += &table.to_string();
    if r.layers.iter().any(|l| !l.settled) {
        out += "~ not yet known to a thousandth when products were ended\n";
    }
    out + &format!("{} for the Hessian\n", number::seconds(r.seconds))
}
