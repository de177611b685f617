//! The search for a recipe: it reaches what can be reached, by repairs that cost as little as possible, judged on other samples than those that it
//! calibrated on, and says so where it does not.
use nnq::{
    Result,
    data::{Dataset, Image, Sample},
    demo::{self, Stream},
    quant::recipe::{Recipe, WeightGranularity},
    quantize::{self, Format, Job, Outcome, Samples},
    search::{Answers, Cost, Found, Target},
};
use std::{sync::Arc, time::Duration};

fn search(dataset: Dataset, recipe: Recipe, drop: f64, budget: Option<Duration>) -> Result<(Found, Outcome)> {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("demo.onnx");
    std::fs::write(&model, demo::MODEL).unwrap();
    let job = Job {
        model,
        samples: Some(Samples { dataset: Arc::new(dataset), preprocess: demo::preprocess() }),
        stats: None,
        recipe,
        eval: None,
        target: Some(Target { drop, budget, classes: None }),
        pack: Default::default(),
        format: Format::Qdq,
        out: folder.path().join("out.onnx"),
        threads: 2,
        cancel: None,
    };
    let outcome = quantize::run(&job, &mut |_, _, _| {})?;
    assert!(job.out.exists());
    Ok((outcome.search.clone().unwrap(), outcome))
}

/// Four-bit weights with one scale per tensor: the demo network loses tens of points.
fn bad() -> Recipe {
    Recipe::from_toml("samples = 200\n[weight]\nbits = 4\ngranularity = \"tensor\"\n[activation]\nrange = \"minmax\"\n")
        .unwrap()
}

#[test]
fn a_bad_start_is_repaired_at_no_cost_to_the_user() {
    let (found, outcome) = search(demo::dataset(Stream::Train, 700).unwrap(), bad(), 0.01, None).unwrap();
    let first = &found.trials[0];
    assert!(first.verdict.unwrap().drop > 0.1 && first.what == "as asked", "{first:?}");
    assert!(found.reached && found.verdict.drop <= 0.01, "{:?}", found.verdict);
    assert_eq!((found.answers, found.samples, found.out_of_time), (Answers::Labels, 500, false));
    assert_eq!(outcome.calibration_samples, 200);
    // Nothing that makes the network slower was needed, and what was found is what the file says.
    assert!(found.trials.iter().all(|t| !t.kept || t.cost != Cost::Speed));
    assert_eq!(found.recipe.weight.granularity, WeightGranularity::Channel);
    assert_eq!(found.recipe.weight.bits, 4);
}

#[test]
fn without_labels_agreement_counts() {
    let labelled = demo::dataset(Stream::Train, 300).unwrap();
    let image = |i: usize| match labelled.sample(i).unwrap() {
        Sample::Image { image, .. } => image,
        _ => unreachable!("the demo has pictures"),
    };
    let images: Vec<Image> = (0..300).map(image).collect();
    let (found, _) = search(Dataset::in_memory(images, None, vec![]).unwrap(), Recipe::default(), 0.02, None).unwrap();
    assert_eq!((found.answers, found.samples), (Answers::Agreement, 150));
    assert!(found.reached && found.verdict.drop >= 0.0);
}

#[test]
fn an_unreachable_target_is_said_to_be_missed() {
    let mut recipe = bad();
    (recipe.weight.bits, recipe.activation.bits) = (2, 2);
    let dataset = || demo::dataset(Stream::Train, 300).unwrap();
    let (found, _) = search(dataset(), recipe, 0.0, Some(Duration::ZERO)).unwrap();
    assert!(!found.reached && found.out_of_time && found.verdict.drop > 0.3, "{:?}", found.verdict);
    assert_eq!(found.trials.len(), 1);
}
