//! `nnq bench`.
mod peers;

use crate::{
    args::Bench,
    interrupt::Interrupt,
    print::{self, Progress, Side, Table, number},
};
use nnq::{
    Result,
    bench::{self, BenchReport, Memory, Sizes},
    error::At,
};
use serde::Serialize;
use std::fmt::Write;

/// Layers that the table for people shows; JSON has all of them.
const SHOWN: usize = 15;

/// The measurement and what was measured.
#[derive(Serialize)]
struct Report {
    model: String,
    #[serde(flatten)]
    bench: BenchReport,
}

/// Runs the command.
pub fn run(args: &Bench, interrupt: &Interrupt) -> Result<()> {
    if args.peers {
        return peers::run(args, interrupt);
    }
    let open = || super::open(&args.model, args.engine.map(Into::into), args.profile.into(), args.threads);
    let sizes = Sizes { batch: args.batch as usize, named: args.sizes.clone() };
    if args.worker {
        return bench::worker::serve(open, &sizes, std::io::stdin().lock(), std::io::stdout().lock());
    }
    let model = args.model.display().to_string();
    let mut engine = open()?;
    super::tune(&mut engine, args.tuning, args.batch as usize, interrupt).at(|| &model)?;
    let mut progress = Progress::new("measuring");
    let bench = bench::bench(&mut engine, &sizes, |done, of| {
        progress.update(done, of);
        interrupt.check()
    })
    .at(|| &model)?;
    drop(progress);
    print::report(args.output.json, &Report { model, bench }, text)
}

/// One line: what was needed, what was held.
fn memory(m: &Memory) -> String {
    let parts = [(m.file, "file"), (m.weights, "weights"), (m.arena, "arena"), (m.live, "activations at once")];
    let mut parts: Vec<String> =
        parts.iter().filter_map(|(bytes, what)| Some(format!("{} {what}", number::bytes((*bytes)?)))).collect();
    parts.push(match m.peak {
        Some(peak) => format!("{} at most resident", number::bytes(peak)),
        None => "what is resident is not known on this system".into(),
    });
    let verdict = match (m.allowance, m.is_within()) {
        (Some(allowance), Some(ok)) => format!(
            "; {} {} allowed (file + 1.15 x activations + 10 MB)",
            if ok { "within the" } else { "more than the" },
            number::bytes(allowance)
        ),
        _ => String::new(),
    };
    format!("memory: {}{verdict}\n\n", parts.join(", "))
}

fn text(report: &Report) -> String {
    let b = &report.bench;
    let mut out = format!(
        "{}: {}, {}, batch {}\n{} ms median of {} runs ({} to {}), {:.1} % of this machine's peak of {} Gop/s\n",
        report.model,
        print::engine(b.engine, b.profile, b.isa),
        number::plural(b.threads as u64, "thread"),
        b.batch,
        number::digits(b.median_ms),
        b.runs,
        number::digits(b.min_ms),
        number::digits(b.max_ms),
        100.0 * b.share_of_peak,
        number::digits(b.peak_gops),
    );
    out.push_str(&memory(&b.memory));
    let columns = [
        ("layer", Side::Left),
        ("kind", Side::Left),
        ("ms", Side::Right),
        ("share", Side::Right),
        ("MACs", Side::Right),
        ("of peak", Side::Right),
        ("bytes", Side::Right),
        ("of bandwidth", Side::Right),
        ("bound by", Side::Left),
    ];
    let mut table = Table::new(&columns);
    let mut layers: Vec<_> = b.layers.iter().collect();
    layers.sort_by(|x, y| y.ms.total_cmp(&x.ms));
    for l in layers.iter().take(SHOWN) {
        let of_peak = if l.macs == 0 { "-".into() } else { format!("{:.1} %", 100.0 * l.share_of_peak) };
        let share = format!("{:.1} %", 100.0 * l.share);
        let (macs, bytes) = (number::count(l.macs), number::bytes(l.bytes));
        let of_bandwidth = format!("{:.1} %", 100.0 * l.share_of_bandwidth);
        let bound = l.bound.to_string();
        table.row([&l.name, &l.kind, &number::digits(l.ms), &share, &macs, &of_peak, &bytes, &of_bandwidth, &bound]);
    }
    let _ = write!(out, "{table}");
    if layers.len() > SHOWN {
        let rest: f64 = layers[SHOWN..].iter().map(|l| l.share).sum();
        let _ = writeln!(out, " ... and {} more layers with {:.1} % of the time", layers.len() - SHOWN, 100.0 * rest);
    }
    let bounds: Vec<String> = b.bounds.iter().map(|(bound, share)| format!("{:.1} % {bound}", 100.0 * share)).collect();
    let _ = writeln!(out, "\ntime by what bounds the layer: {}", bounds.join(", "));
    out
}
