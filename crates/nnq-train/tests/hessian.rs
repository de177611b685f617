//! The curvature of the demo's network, from file to report.
use super::pictures;
use nnq::{
    ErrorKind, analyze,
    demo::{self, Stream},
    quant::recipe::Recipe,
    quantize::Samples,
};
use nnq_train::{
    hessian::{self, Classes, Job, Report},
    place::Place,
};
use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

fn job(dir: &Path, threads: usize) -> Job {
    let model = dir.join("demo.onnx");
    std::fs::write(&model, demo::MODEL).unwrap();
    let data = pictures(Stream::Train, 48);
    let mut recipe = Recipe { samples: 16, ..Recipe::default() };
    (recipe.weight.bits, recipe.activation.bits) = (4, 8);
    let analysis = analyze::Job {
        model,
        samples: Some(Samples { dataset: data.dataset, preprocess: data.preprocess }),
        stats: None,
        recipe,
        eval: None,
        classes: None,
        measured: 8,
        sensitivity: false,
        trials: false,
        threads,
        cancel: None,
    };
    Job { analysis, draws: 2, place: Place::Cpu }
}

fn run(job: &Job) -> nnq::Result<Report> {
    hessian::run(job, &mut |_| {})
}

/// Every number is the same for any number of threads; there is a row for each layer, with its error under the recipe.
#[test]
fn the_same_numbers_for_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let [one, three] = [1, 3].map(|threads| Report { seconds: 0.0, ..run(&job(dir.path(), threads)).unwrap() });
    let json = |r: &Report| serde_json::to_string(r).unwrap();
    assert_eq!(json(&one), json(&three));
    assert_eq!((one.samples, one.classes), (8, Classes::Labels));
    assert!(one.loss > 0.0 && !one.layers.is_empty());
    for l in &one.layers {
        assert!(l.trace.is_finite() && l.trace_error > 0.0 && l.eigenvalue != 0.0, "{l:?}");
        assert!(l.squared_error.is_some_and(|e| e > 0.0), "{l:?}");
        assert_eq!(l.sensitivity, l.squared_error.map(|e| l.average_trace * e), "{l:?}");
    }
}

#[test]
fn it_stops_on_request_and_wants_two_draws() {
    let dir = tempfile::tempdir().unwrap();
    let mut stopped = job(dir.path(), 1);
    stopped.analysis.cancel = Some(Arc::new(AtomicBool::new(true)));
    assert_eq!(run(&stopped).unwrap_err().kind(), ErrorKind::Interrupted);
    let single = Job { draws: 1, ..job(dir.path(), 1) };
    assert!(run(&single).unwrap_err().to_string().contains("no standard error"));
}
