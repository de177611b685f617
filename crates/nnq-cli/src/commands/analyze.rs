//! `nnq analyze`.
use super::{
    hessian,
    quantize::{samples, with_progress},
};
use crate::{
    args::Analyze,
    interrupt::Interrupt,
    print::{self, Side, Table, number},
};
use nnq::{
    Result,
    analyze::{self, Analysis, Finding, Job, Layer, Repair, Score},
    data,
    quant::analysis::Cause,
};
use serde::Serialize;

/// Layers of this share of the loss get a bar, so long for all of it.
const MARKED: f64 = 0.1;
const BLOCKS: f64 = 20.0;
/// Other places of a finding that are named.
const NAMED: usize = 4;

/// Runs the command.
pub fn run(args: &Analyze, interrupt: &Interrupt) -> Result<()> {
    let job = Job {
        model: args.model.clone(),
        samples: args.data.as_deref().map(|path| samples(path, &args.texts, &args.reading)).transpose()?,
        stats: args.stats.clone(),
        recipe: args.choice.recipe()?,
        eval: super::labelled_of(args.eval.as_deref(), &args.texts, &args.reading)?,
        classes: args.reading.classes.as_deref().map(data::read_classes).transpose()?,
        measured: args.measure as usize,
        sensitivity: !args.no_sensitivity,
        trials: !args.no_trials,
        threads: args.threads.threads,
        cancel: Some(interrupt.flag()),
    };
    let draws = hessian::wanted(args.hessian)?;
    let analysis = with_progress(|progress| analyze::run(&job, progress))?;
    let hessian = draws.map(|draws| hessian::run(&job, draws)).transpose()?;
    print::report(args.output.json, &Reports { analysis, hessian }, |r| {
        text(&r.analysis) + &r.hessian.as_ref().map_or_else(String::new, hessian::text)
    })
}

/// All that is printed.
#[derive(Serialize)]
struct Reports {
    #[serde(flatten)]
    analysis: Analysis,
    #[serde(skip_serializing_if = "Option::is_none")]
    hessian: Option<hessian::Report>,
}

/// A ratio in dB.
fn db(x: f64) -> String {
    if x.is_finite() { format!("{x:.1}") } else { "-".into() }
}

fn text(a: &Analysis) -> String {
    let mut out = format!("{}, measured on {} samples of {}\n\n", a.model, a.measured, a.data);
    out += &network(a).to_string();
    out += "\nwhat is left of each layer's output (dB): in all, with exact inputs ('own'), and with one cause alone\n";
    out += &causes(a).to_string();
    if a.layers.iter().any(|l| l.sensitivity.is_some()) {
        out += "\nthe whole network with this layer alone quantized, and with all but this layer\n";
        out += &metric(a).to_string();
    }
    out += &format!("\n{}\n", if a.findings.is_empty() { "no findings" } else { "findings:" });
    for (i, f) in a.findings.iter().enumerate() {
        out += &finding(i + 1, f);
    }
    if !a.advice.tries.is_empty() {
        let tried = a.advice.tries.iter().any(|r| r.trial.is_some());
        out += if tried { "\ntried on the whole network, best first:\n" } else { "\nworth a try (none was made):\n" };
        for r in &a.advice.tries {
            out += &repair(r, "  ");
        }
    }
    out += &format!("\n{}\n", a.advice.text);
    out += &format!(
        "\n{} in all: {} measuring layers, {} trying options",
        number::seconds(a.seconds),
        number::seconds(a.sensitivity_seconds),
        number::seconds(a.trial_seconds)
    );
    if let Some(bytes) = a.peak_memory_bytes {
        out += &format!("; peak memory {}", number::bytes(bytes));
    }
    out += "\n";
    for m in &a.messages {
        out += &format!("note: {m}\n");
    }
    out
}

/// Both networks.
fn network(a: &Analysis) -> Table {
    let mut table = Table::new(&[
        ("", Side::Left),
        ("top 1", Side::Right),
        ("same best class", Side::Right),
        ("divergence", Side::Right),
        ("answers, dB", Side::Right),
    ]);
    for (name, s) in [("float", &a.float), ("quantized", &a.quantized)] {
        table.row([
            name.to_owned(),
            s.top1.map_or_else(|| "-".into(), number::percent),
            number::percent(s.close.agreement),
            number::digits(s.close.divergence),
            db(s.close.sqnr_db),
        ]);
    }
    table
}

/// What arises in each layer, by cause.
fn causes(a: &Analysis) -> Table {
    let names = ["total", "cosine", "own", "weights", "bias", "x round", "x clip", "y round", "y clip", "inherited"];
    let mut columns = vec![("layer", Side::Left)];
    columns.extend(names.map(|name| (name, Side::Right)));
    columns.push(("most by", Side::Left));
    let mut table = Table::new(&columns);
    for l in &a.layers {
        let mut row = vec![l.node.clone(), db(l.sqnr_db), format!("{:.4}", l.cosine), db(l.own_sqnr_db)];
        row.extend(l.causes.iter().map(|c| db(c.sqnr_db)));
        row.push(l.dominant.map_or_else(String::new, |c: Cause| c.to_string()));
        table.row(row);
    }
    table
}

/// What each layer costs on the metric.
fn metric(a: &Analysis) -> Table {
    let mut table = Table::new(&[
        ("layer", Side::Left),
        ("operator", Side::Left),
        ("only: same", Side::Right),
        ("diverges", Side::Right),
        ("without: same", Side::Right),
        ("diverges", Side::Right),
        ("share of the loss", Side::Left),
    ]);
    for l in &a.layers {
        let share = a.advice.layers.iter().find(|s| s.what == l.node).map_or(0.0, |s| s.share);
        let bar = if share >= MARKED { "█".repeat((share * BLOCKS).ceil() as usize) } else { String::new() };
        let mut row = vec![l.node.clone(), l.op.clone()];
        row.extend(sensitivities(l));
        row.push(format!("{:3.0} % {bar}", 100.0 * share));
        table.row(row);
    }
    table
}

fn sensitivities(l: &Layer) -> [String; 4] {
    let Some(s) = &l.sensitivity else { return Default::default() };
    let same = |s: &Score| number::percent(s.close.agreement);
    let diverges = |s: &Score| format!("{:.1e}", s.close.divergence);
    let none = || "-".to_owned();
    let without = s.without.as_ref();
    [same(&s.only), diverges(&s.only), without.map_or_else(none, same), without.map_or_else(none, diverges)]
}

fn finding(i: usize, f: &Finding) -> String {
    let mut out = format!("{i}. {}: {} at '{}'", f.severity, f.kind, f.place);
    if !f.also.is_empty() {
        let named: Vec<_> = f.also.iter().take(NAMED).map(|p| format!("'{p}'")).collect();
        let more = f.also.len().saturating_sub(NAMED);
        out += &format!(", also {}", named.join(", "));
        if more > 0 {
            out += &format!(" and {more} more");
        }
    }
    out += &format!("\n   {}\n", f.cause);
    out + &repair(&f.repair, "   ")
}

/// An option, and what it brought.
fn repair(r: &Repair, indent: &str) -> String {
    let mut out = format!("{indent}-> {}\n", r.option.replace('\n', &format!("\n{indent}       ")));
    if let Some(t) = &r.trial {
        let score = |s: &Score| {
            let top1 = s.top1.map_or_else(String::new, |t| format!("top 1 {}, ", number::percent(t)));
            format!("{top1}same best class {}", number::percent(s.close.agreement))
        };
        out += &format!("{indent}   tried: {} -> {}\n", score(&t.before), score(&t.after));
    }
    out
}
