//! `nnq reconstruct`.
use super::learning::{self, Bar};
use crate::{
    args::Reconstruct,
    interrupt::Interrupt,
    print::{self, Side, Table, number},
};
use nnq::{Result, quantize::Samples};
use nnq_train::{
    Event,
    reconstruct::{self, Job, Outcome, Settings},
};

/// Runs the command.
pub fn run(args: &Reconstruct, interrupt: &Interrupt) -> Result<()> {
    let recipe = args.choice.recipe()?;
    let data = super::labelled_by(&args.data, &args.reading, &nnq::data::Options::calibration())?;
    let job = Job {
        model: args.model.clone(),
        samples: Samples { dataset: data.dataset, preprocess: data.preprocess },
        settings: Settings {
            unit: args.unit,
            steps: args.steps,
            batch: args.batch as usize,
            mirror: args.mirror,
            rate: args.lr.unwrap_or_else(|| args.codes.usual_rate(args.steps)),
            scale_rate: args.scale_lr.unwrap_or_else(|| args.codes.usual_scale_rate()),
            rounded: args.rounded.unwrap_or_else(|| reconstruct::usual_rounded(&recipe)),
            codes: args.codes,
            strength: args.strength,
            seed: recipe.seed,
        },
        recipe,
        checkpoint: Some(nnq::quantize::unfinished(&args.learning.writing.out)),
        output: learning::output(&args.learning, args.eval.as_deref(), &args.reading, interrupt)?,
    };
    let mut bar = Bar::default();
    let outcome = reconstruct::run(&job, &mut |event| {
        if let Event::Stage(what, done, of) = event {
            bar.of(what).update(done, of);
        }
    })?;
    drop(bar);
    print::report(args.learning.writing.output.json, &outcome, text)
}

/// The outcome for people.
fn text(o: &Outcome) -> String {
    let mut out = learning::head(&o.written);
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
    out += &learning::accuracy(&o.written, ["float", "quantized"]);
    out += &format!("{} samples, {} of learning\n", o.samples, number::seconds(o.written.seconds));
    out + &learning::notes(&o.written)
}
