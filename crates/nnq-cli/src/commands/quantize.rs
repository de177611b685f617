//! `nnq quantize`.
use crate::{
    args::{Quantize, Ranges, Reading, Texts},
    interrupt::Interrupt,
    print::{self, Progress, Side, Table, number},
};
use nnq::{
    Error, Result,
    data::{self, Dataset, Preprocess},
    quant::{recipe::ActivationMode, report::LayerLoss},
    quantize::{self, Job, Outcome, Samples},
    search::{Answers, Cost, Found, Target},
    text::open as open_texts,
};
use std::{path::Path, sync::Arc};

/// How many of the layers that lose most are shown.
const WORST: usize = 5;

/// Runs the command.
pub fn run(args: &Quantize, interrupt: &Interrupt) -> Result<()> {
    let mut recipe = args.choice.recipe()?;
    if let Some(ranges) = args.dynamic {
        recipe.activation.mode = match ranges {
            Ranges::Tensor => ActivationMode::Dynamic,
            Ranges::Token => ActivationMode::Token,
        };
        recipe.dynamic_attention |= args.dynamic_attention;
        recipe.check()?;
    }
    if args.weight_only {
        let method = &args.choice.method;
        match args.choice.recipe {
            Some(_) => recipe.activation.mode = ActivationMode::Float,
            None => recipe.only_weights(method.granularity, method.weight_range),
        }
        recipe.check()?;
    }
    if args.integer_only {
        recipe.activation.mode = ActivationMode::Integer;
        recipe.check()?;
    }
    let samples = args.data.as_deref().map(|path| samples(path, &args.texts, &args.reading)).transpose()?;
    let eval = super::labelled_of(args.eval.as_deref(), &args.texts, &args.reading)?;
    let classes = || args.reading.classes.as_deref().map(data::read_classes).transpose();
    let target = match args.accuracy_drop {
        Some(points) => Some(Target { drop: points / 100.0, budget: args.time_budget, classes: classes()? }),
        None => None,
    };
    let job = Job {
        model: args.model.clone(),
        samples,
        stats: args.stats.clone(),
        recipe,
        eval,
        target,
        format: args.writing.format.into(),
        pack: args.writing.pack.into(),
        out: args.writing.out.clone(),
        threads: args.writing.threads.threads,
        cancel: Some(interrupt.flag()),
    };
    let outcome = with_progress(|progress| quantize::run(&job, progress))?;
    print::report(args.writing.output.json, &outcome, text)
}

/// Opens data to calibrate on: texts where there is a tokenizer.
pub(super) fn samples(path: &Path, texts: &Texts, reading: &Reading) -> Result<Samples> {
    let preprocess = reading.preprocess.as_deref().map_or_else(|| Ok(Preprocess::raw()), Preprocess::from_arg)?;
    match super::tokenizer(texts)? {
        Some(tokenizer) => Ok(Samples { dataset: Arc::new(open_texts(path, &tokenizer)?), preprocess }),
        None if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv")) => {
            Err(Error::usage("texts need a tokenizer").at(path.display()).cure("give --tokenizer tokenizer.json"))
        }
        None => open(path, &preprocess),
    }
}

/// Opens pictures or tensors to calibrate on.
pub(super) fn open(path: &Path, preprocess: &Preprocess) -> Result<Samples> {
    let dataset = Arc::new(Dataset::open(path, &data::Options::calibration())?);
    Ok(Samples { dataset, preprocess: preprocess.clone() })
}

/// Runs a flow of several stages with a bar for each.
pub(super) fn with_progress<T>(flow: impl FnOnce(&mut quantize::Progress) -> Result<T>) -> Result<T> {
    let mut bar: Option<(String, Progress)> = None;
    flow(&mut |what, done, total| {
        if bar.as_ref().is_none_or(|(name, _)| name != what) {
            bar = Some((what.to_owned(), Progress::new(what)));
        }
        if let Some((_, bar)) = &mut bar {
            bar.update(done, total);
        }
    })
}

/// The outcome for people.
pub(super) fn text(o: &Outcome) -> String {
    let mut out = format!("{} -> {}\n\n", o.model, o.out);
    if let Some(found) = &o.search {
        out += &search(found);
    }
    let mut table = Table::new(&[
        ("", Side::Left),
        ("float", Side::Right),
        ("simulated", Side::Right),
        ("integer", Side::Right),
        ("change", Side::Left),
    ]);
    if let (Some(float), Some(sim), Some(int)) = (&o.float, &o.sim, &o.int) {
        let judged = |r: &nnq::eval::EvalReport| r.top1_restricted.unwrap_or(r.top1);
        let name = if float.top1_restricted.is_some() { "top 1 among the data's classes" } else { "top 1" };
        table.row([
            name,
            &number::percent(judged(float)),
            &number::percent(judged(&sim.eval)),
            &number::percent(judged(&int.eval)),
            &change(int.difference, int.interval),
        ]);
        if float.top1_restricted.is_some() {
            let [f, s, i] = [float.top1, sim.eval.top1, int.eval.top1].map(number::percent);
            table.row(["top 1 of all classes", &f, &s, &i, ""]);
        }
        let same = if sim.eval.logits_sha256 == int.eval.logits_sha256 { "equal to the bit" } else { "DIFFERENT BITS" };
        table.row(["outputs", "", "", "", same]);
    }
    table.row([
        "file",
        &number::bytes(o.float_bytes),
        "",
        &number::bytes(o.quantized_bytes),
        &number::percent(o.size_ratio),
    ]);
    if let (Some(f), Some(i)) = (o.float_ms, o.int_ms) {
        let ms = |x: f64| format!("{} ms", number::digits(x));
        table.row(["one sample", &ms(f), "", &ms(i), &format!("{} times as fast", number::digits(f / i))]);
    }
    out += &table.to_string();
    out += &format!(
        "\n{} calibration samples, quantized in {} ({} of it calibrating); {} integer steps, {} in floating point",
        o.calibration_samples,
        number::seconds(o.quantize_seconds),
        number::seconds(o.calibrate_seconds),
        o.integer_steps,
        o.float_steps
    );
    if let Some(bytes) = o.peak_memory_bytes {
        out += &format!("; peak memory {}", number::bytes(bytes));
    }
    out += "\n";
    if !o.weights.is_empty() {
        out += &format!("\n{}", print::weights(&o.weights));
    }
    let worst = worst(&o.layers);
    if !worst.is_empty() {
        out += "\nwhere most is lost (signal to quantization noise):\n";
        let mut table = Table::new(&[
            ("layer", Side::Left),
            ("operator", Side::Left),
            ("dB", Side::Right),
            ("lost here, dB", Side::Right),
        ]);
        for l in worst {
            table.row([l.node.clone(), l.op.clone(), format!("{:.1}", l.sqnr_db), format!("{:.1}", l.drop_db)]);
        }
        out += &table.to_string();
    }
    for m in &o.messages {
        out += &format!("note: {m}\n");
    }
    out
}

/// What the search for a recipe came to.
fn search(found: &Found) -> String {
    let mut table = Table::new(&[
        ("tried", Side::Left),
        ("costs", Side::Left),
        ("lost, points", Side::Right),
        ("95 %", Side::Left),
        ("noise", Side::Right),
        ("seconds", Side::Right),
        ("", Side::Left),
    ]);
    // No minus before nothing.
    let points = |x: f64| format!("{:.2}", 100.0 * x + 0.0);
    for t in &found.trials {
        let costs = match t.cost {
            Cost::Nothing => "",
            Cost::Patience => "time to quantize",
            Cost::Speed => "size, speed",
        };
        let (lost, interval, noise) = match &t.verdict {
            Some(v) => (
                points(v.drop),
                format!("{} to {}", points(v.interval[0]), points(v.interval[1])),
                number::digits(v.noise),
            ),
            None => ("-".into(), "-".into(), "-".into()),
        };
        let seconds = format!("{:.0}", t.seconds);
        table.row([
            t.what.clone(),
            costs.into(),
            lost,
            interval,
            noise,
            seconds,
            if t.kept { "kept" } else { "" }.into(),
        ]);
    }
    let what = match found.answers {
        Answers::Labels => "accuracy",
        Answers::Agreement => "agreement with the float model",
    };
    let [low, high] = found.verdict.interval;
    let lost = format!(
        "{} points of {what} (95 %: {} to {}) on {} samples that calibration did not see",
        points(found.verdict.drop),
        points(low),
        points(high),
        found.samples
    );
    let verdict = match (found.reached, found.out_of_time) {
        (true, _) => format!("at most {} points: reached, with {lost}", points(found.target)),
        (false, true) => {
            format!("at most {} points: NOT reached in the time given; the best loses {lost}", points(found.target))
        }
        (false, false) => format!(
            "at most {} points: NOT reached, and there is nothing left to try; the best loses {lost}",
            points(found.target)
        ),
    };
    let failed: String = found
        .trials
        .iter()
        .filter_map(|t| t.failed.as_ref().map(|why| format!("note: {} was not possible: {why}\n", t.what)))
        .collect();
    format!("{table}\n{failed}{verdict}\n\n")
}

/// A paired difference for people.
pub(super) fn change(difference: f64, interval: [f64; 2]) -> String {
    let points = |x: f64| format!("{:+.2}", 100.0 * x);
    format!("{} points (95 %: {} to {})", points(difference), points(interval[0]), points(interval[1]))
}

/// The layers with the lowest ratio, worst first.
fn worst(layers: &[LayerLoss]) -> Vec<&LayerLoss> {
    let mut sorted: Vec<&LayerLoss> = layers.iter().filter(|l| l.sqnr_db.is_finite()).collect();
    sorted.sort_by(|a, b| a.sqnr_db.total_cmp(&b.sqnr_db));
    sorted.truncate(WORST);
    sorted
}
