//! `nnq reconstruct`.
use crate::{
    args::Reconstruct,
    interrupt::Interrupt,
    print::{self, Progress, Side, Table, number},
};
use nnq::{Result, quantize::Samples};
use nnq_train::{
    Event,
    job::Place,
    reconstruct::{self, Job, Outcome, Settings},
};

/// Runs the command.
pub fn run(args: &Reconstruct, interrupt: &Interrupt) -> Result<()> {
    let recipe = args.choice.recipe()?;
    let data = super::labelled_by(&args.data, &args.reading, &nnq::data::Options::calibration())?;
    let job = Job {
        model: args.model.clone(),
        samples: Samples { dataset: data.dataset, preprocess: data.preprocess },
        eval: args.eval.as_deref().map(|path| super::labelled(path, &args.reading)).transpose()?,
        settings: Settings {
            unit: args.unit,
            steps: args.steps,
            batch: args.batch as usize,
            rate: args.lr,
            scale_rate: args.scale_lr,
            rounded: args.rounded,
            strength: args.strength,
            seed: recipe.seed,
        },
        recipe,
        checkpoint: Some(nnq::quantize::unfinished(&args.out)),
        format: args.format.into(),
        pack: args.pack.into(),
        out: args.out.clone(),
        threads: args.threads.threads,
        place: Place::from_name(&args.device)?,
        cancel: Some(interrupt.flag()),
    };
    let mut bar: Option<(String, Progress)> = None;
    let outcome = reconstruct::run(&job, &mut |event| {
        if let Event::Stage(what, done, of) = event {
            if bar.as_ref().is_none_or(|(name, _)| name != what) {
                bar = Some((what.to_owned(), Progress::new(what)));
            }
            if let Some((_, bar)) = &mut bar {
                bar.update(done, of);
            }
        }
    })?;
    drop(bar);
    print::report(args.output.json, &outcome, text)
}

/// The outcome for people.
fn text(o: &Outcome) -> String {
    let mut out = format!("{} -> {}\n\n", o.model, o.out);
    let mut table = Table::new(&[
        ("part ends with", Side::Left),
        ("products", Side::Right),
        ("error, to nearest", Side::Right),
        ("learned", Side::Right),
    ]);
    for b in &o.blocks {
        let learned = format!("{}{}", number::percent(b.after), if b.kept { "" } else { " (not kept)" });
        table.row([&b.to, &b.products.to_string(), &number::percent(b.before), &learned]);
    }
    out += &format!("{table}\n");
    if let Some(after) = &o.after {
        let mut table =
            Table::new(&[("", Side::Left), ("float", Side::Right), ("quantized", Side::Right), ("change", Side::Left)]);
        let before = o.before.as_ref().map_or_else(String::new, |r| number::percent(r.top1));
        let change = o.difference.map_or_else(String::new, |[d, lo, hi]| super::quantize::change(d, [lo, hi]));
        table.row(["top 1", &before, &number::percent(after.top1), &change]);
        out += &format!("{table}\n");
    }
    out += &format!("{} samples, {} of learning\n", o.samples, number::seconds(o.seconds));
    for m in &o.messages {
        out += &format!("note: {m}\n");
    }
    out
}
