//! `nnq train`.
use super::learning::{self, Bar};
use crate::{
    args::{self, GradientRounding, Optimizer, Quantizer, Schedule, Train, WeightQuantizer},
    interrupt::Interrupt,
    print::{self, number},
};
use nnq::{
    Error, Result,
    data::{self, Dataset},
    eval::Labelled,
};
use nnq_train::{
    Event, Outcome,
    job::{self, Job, Settings, Source},
    loss::Distill,
    low::{Low, Rounding},
    optimizer::{self, Method, Steps},
    precision::Precision,
    qat::{Activations, Rules, Weights},
};
use std::sync::Arc;

/// Runs the command.
pub fn run(args: &Train, interrupt: &Interrupt) -> Result<()> {
    let mut recipe = args.choice.recipe()?;
    let bits = args.bits_schedule.clone().unwrap_or_default();
    if let Some(last) = bits.last() {
        (recipe.weight.bits, recipe.activation.bits) = last;
        recipe.check()?;
    }
    let quantize = args.choice.method.bits.is_some() || args.choice.recipe.is_some() || bits.last().is_some();
    let source = match (&args.model, &args.zoo) {
        (_, Some(name)) => Source::Zoo(args.start.wanted(name, recipe.seed)),
        (Some(_), None) if args.start.weights.is_some() || args.start.outputs.is_some() => {
            return Err(Error::usage("--weights or --outputs without --zoo").cure("a model file has its weights"));
        }
        (Some(path), None) => Source::File(path.clone()),
        (None, None) => return Err(Error::usage("neither a model nor --zoo")),
    };
    let settings = Settings {
        epochs: args.epochs,
        batch: args.batch as usize,
        parts: args.parts as usize,
        steps: Steps {
            method: match args.optimizer {
                Optimizer::Sgd => Method::Sgd { momentum: args.momentum },
                Optimizer::Adamw => Method::AdamW,
            },
            rate: args.lr.unwrap_or(match (&args.zoo, &args.start.weights) {
                (Some(_), None) => 0.1,
                (Some(_), Some(_)) => 0.01,
                (None, _) => 0.001,
            }),
            decay: args.weight_decay,
            schedule: match args.schedule {
                Schedule::Cosine => optimizer::Schedule::Cosine,
                Schedule::Constant => optimizer::Schedule::Constant,
            },
            warm_up: args.warm_up,
            scale_rate: args.scale_lr,
            weight_rate: args.weight_lr,
            bounded: true,
            clip: Some(args.clip_norm.unwrap_or(if args.zoo.is_some() { 0.0 } else { 1.0 })).filter(|c| *c != 0.0),
        },
        seed: recipe.seed,
        augment: args.augment,
        smoothing: args.smoothing,
        rules: rules(args),
        bits,
        low: Low {
            gradients: args.gradient_bits,
            updates: args.update_bits,
            rounding: match args.gradient_rounding {
                GradientRounding::Stochastic => Rounding::Stochastic,
                GradientRounding::Nearest => Rounding::Nearest,
            },
        },
        precision: match args.precision {
            args::Precision::F32 => Precision::F32,
            args::Precision::Bf16 => Precision::Bf16,
            args::Precision::F16 => Precision::F16,
        },
        distill: args.distill.map(|weight| Distill {
            weight,
            temperature: args.temperature,
            features: args.distill_features.unwrap_or(0.0),
        }),
        average: args.average,
    };
    let (train, validation) = samples(args, recipe.seed)?;
    let mut output = learning::output(&args.learning, args.eval.as_deref(), &args.reading, interrupt)?;
    output.eval = output.eval.or_else(|| validation.clone());
    let job = Job {
        source,
        train,
        validation,
        recipe: quantize.then_some(recipe),
        begin: args.begin.clone(),
        settings,
        eval_every: args.eval_every,
        checkpoint: args.checkpoint.clone().map(|path| (path, args.checkpoint_every)),
        log: args.log.clone(),
        output,
    };
    let mut bar = Bar::default();
    let outcome = job::run(&job, &mut |event| match event {
        Event::Stage(what, done, of) => bar.of(what).update(done, of),
        Event::Step(s) => {
            let bar = bar.of("training");
            bar.say(&format!(
                "epoch {}: loss {:.3}, {:.1} %, {:.0} images/s",
                s.epoch,
                s.loss,
                100.0 * s.accuracy,
                s.images_per_second
            ));
            bar.update(s.step, s.steps);
        }
        Event::Epoch(e) => {
            bar = Bar::default();
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
    print::report(args.learning.writing.output.json, &outcome, text)
}

/// What is trained on, and what of it is held out.
fn samples(args: &Train, seed: u64) -> Result<(Labelled, Option<Labelled>)> {
    let mut all = super::training(&args.data, &args.reading)?;
    let of = |dataset: Dataset| Labelled { dataset: Arc::new(dataset), ..all.clone() };
    let (mut train, validation) = match args.validation {
        None => (all.clone(), None),
        Some(share) if share > 0.0 && share < 1.0 => {
            let [rest, held] = Dataset::split(&all.dataset, share, seed)
                .map_err(|e| e.cure(format!("--validation {share} of {} samples", all.dataset.len())))?;
            (of(rest), Some(of(held)))
        }
        Some(share) => {
            return Err(Error::usage(format!("--validation {share} is no share")).cure("use one between 0 and 1"));
        }
    };
    if let Some(count) = args.balanced {
        all = train;
        let (len, count) = (all.dataset.len(), usize::try_from(count).unwrap_or(usize::MAX));
        if count > len {
            return Err(Error::usage(format!("--balanced {count} of {len} samples")).cure("ask for fewer"));
        }
        let chosen = data::subset(len, count, seed, data::Choice::Balanced, |i| all.dataset.label(i));
        train = Labelled { dataset: Arc::new(Dataset::part(&all.dataset, chosen)?), ..all };
    }
    Ok((train, validation))
}

fn rules(args: &Train) -> Rules {
    let activations = match args.quantizer {
        Quantizer::Lsq => Activations::Lsq,
        Quantizer::Pact => Activations::Pact,
        Quantizer::Fixed => Activations::Fixed,
        Quantizer::Dorefa => Activations::Dorefa,
        Quantizer::Binary => Activations::Binary,
        Quantizer::Ternary => Activations::Ternary,
    };
    let weights = match (args.weight_quantizer, args.quantizer) {
        (Some(WeightQuantizer::Lsq), _) | (None, Quantizer::Lsq | Quantizer::Pact) => Weights::Lsq,
        (Some(WeightQuantizer::Fixed), _) | (None, Quantizer::Fixed) => Weights::Fixed,
        (Some(WeightQuantizer::Dorefa), _) | (None, Quantizer::Dorefa) => Weights::Dorefa,
        (Some(WeightQuantizer::Binary), _) | (None, Quantizer::Binary) => Weights::Binary,
        (Some(WeightQuantizer::Balanced), _) => Weights::Balanced,
        (Some(WeightQuantizer::Ternary), _) | (None, Quantizer::Ternary) => Weights::Ternary,
    };
    Rules { estimator: args.estimator, activations, weights, normalization: args.batch_norm }
}

/// The outcome for people.
fn text(o: &Outcome) -> String {
    let mut out = learning::head(&o.written) + &learning::accuracy(&o.written, ["before", "after"]);
    out += &format!(
        "{} parameters, {} steps, {} of training, {:.0} images/s\n",
        number::count(o.parameters),
        o.steps,
        number::seconds(o.written.seconds),
        o.images_per_second
    );
    out + &learning::notes(&o.written)
}
