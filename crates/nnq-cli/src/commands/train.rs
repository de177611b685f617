//! `nnq train`.
use crate::{
    args::{Optimizer, Quantizer, Schedule, Train},
    interrupt::Interrupt,
    print::{self, Progress, Side, Table, number},
};
use nnq::{Error, Result};
use nnq_train::{
    Event, Outcome,
    fake::ScaleRule,
    job::{self, Job, Place, Settings, Source},
    loss::Distill,
    optimizer::{self, Method, Steps},
    qat::Rules,
};

/// Runs the command.
pub fn run(args: &Train, interrupt: &Interrupt) -> Result<()> {
    let recipe = args.choice.recipe()?;
    let quantize = args.choice.method.bits.is_some() || args.choice.recipe.is_some();
    let source = match (&args.model, &args.zoo) {
        (_, Some(name)) => Source::Zoo(name.clone()),
        (Some(path), None) => Source::File(path.clone()),
        (None, None) => return Err(Error::usage("neither a model nor --zoo")),
    };
    let settings = Settings {
        epochs: args.epochs,
        batch: args.batch as usize,
        steps: Steps {
            method: match args.optimizer {
                Optimizer::Sgd => Method::Sgd { momentum: args.momentum },
                Optimizer::Adamw => Method::AdamW,
            },
            rate: args.lr.unwrap_or(if args.zoo.is_some() { 0.1 } else { 0.001 }),
            decay: args.weight_decay,
            schedule: match args.schedule {
                Schedule::Cosine => optimizer::Schedule::Cosine,
                Schedule::Constant => optimizer::Schedule::Constant,
            },
            warm_up: args.warm_up,
            scale_rate: args.scale_lr,
        },
        seed: recipe.seed,
        augment: args.augment,
        smoothing: args.smoothing,
        rules: Rules {
            estimator: args.estimator,
            scales: match args.quantizer {
                Quantizer::Lsq => ScaleRule::Lsq,
                Quantizer::Pact => ScaleRule::Pact,
                Quantizer::Fixed => ScaleRule::Fixed,
            },
        },
        distill: args.distill.map(|weight| Distill { weight, temperature: args.temperature }),
    };
    let job = Job {
        source,
        train: super::training(&args.data, &args.reading)?,
        eval: args.eval.as_deref().map(|path| super::labelled(path, &args.reading)).transpose()?,
        recipe: quantize.then_some(recipe),
        settings,
        eval_every: args.eval_every,
        checkpoint: args.checkpoint.clone().map(|path| (path, args.checkpoint_every)),
        log: args.log.clone(),
        format: args.format.into(),
        pack: args.pack.into(),
        out: args.out.clone(),
        threads: args.threads.threads,
        place: Place::from_name(&args.device)?,
        cancel: Some(interrupt.flag()),
    };
    let mut bar: Option<(String, Progress)> = None;
    let outcome = job::run(&job, &mut |event| match event {
        Event::Stage(what, done, of) => {
            if bar.as_ref().is_none_or(|(name, _)| name != what) {
                bar = Some((what.to_owned(), Progress::new(what)));
            }
            if let Some((_, bar)) = &mut bar {
                bar.update(done, of);
            }
        }
        Event::Step(s) => {
            if bar.as_ref().is_none_or(|(name, _)| name != "training") {
                bar = Some(("training".into(), Progress::new("training")));
            }
            if let Some((_, bar)) = &mut bar {
                bar.say(&format!(
                    "epoch {}: loss {:.3}, {:.1} %, {:.0} images/s",
                    s.epoch,
                    s.loss,
                    100.0 * s.accuracy,
                    s.images_per_second
                ));
                bar.update(s.step, s.steps);
            }
        }
        Event::Epoch(e) => {
            bar = None;
            let eval = e.eval.map_or_else(String::new, |x| format!(", evaluation {}", number::percent(x)));
            print::line(&format!(
                "epoch {} of {}: loss {:.4}, training {}{eval}, {:.0} images/s",
                e.epoch,
                e.epochs,
                e.loss,
                number::percent(e.accuracy),
                e.images_per_second
            ));
        }
    })?;
    print::report(args.output.json, &outcome, text)
}

/// The outcome for people.
fn text(o: &Outcome) -> String {
    let mut out = format!("{} -> {}\n\n", o.model, o.out);
    let mut table =
        Table::new(&[("", Side::Left), ("before", Side::Right), ("after", Side::Right), ("change", Side::Left)]);
    if let Some(after) = &o.after {
        let before = o.before.as_ref().map_or_else(String::new, |r| number::percent(r.top1));
        let change = o.difference.map_or_else(String::new, |[d, lo, hi]| super::quantize::change(d, [lo, hi]));
        table.row(["top 1", &before, &number::percent(after.top1), &change]);
        out += &format!("{table}\n");
    }
    out += &format!(
        "{} parameters, {} steps, {} of training, {:.0} images/s\n",
        number::count(o.parameters),
        o.steps,
        number::seconds(o.seconds),
        o.images_per_second
    );
    for m in &o.messages {
        out += &format!("note: {m}\n");
    }
    out
}
