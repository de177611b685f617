//! Activations and weights of 9 to 16 bits, from the recipe to the file and back.
use crate::networks::{Job, Network, bits, ort_values, program, python, scratch, simulate};
use nnq::{
    demo::{self, Stream},
    engine,
    exec::{float, int, lower::Profile},
    quant::recipe::Recipe,
    quantize::{self, Format, Samples, annotate},
};
use nnq_kernels::Isa;
use std::sync::Arc;

#[test]
fn more_bits_come_closer_to_the_float_network() {
    let network = Network::demo();
    let samples =
        Samples { dataset: Arc::new(demo::dataset(Stream::Train, 64).unwrap()), preprocess: demo::preprocess() };
    // Pictures that were calibrated on: on others what lies beyond their range is clipped, at any number of bits.
    let x = network.calibration_batch();
    let exact = {
        let mut session = float::Session::new(network.graph.clone(), &float::Options { threads: 1 }).unwrap();
        session.run(vec![x.clone()]).unwrap().remove(0)
    };
    let mut last = 0.0;
    for (weight, activation, least) in [(8, 8, 25.0), (8, 12, 30.0), (12, 12, 50.0), (16, 16, 70.0)] {
        let mut recipe = Recipe { samples: 64, ..Recipe::default() };
        (recipe.weight.bits, recipe.activation.bits) = (weight, activation);
        let stats =
            quantize::calibrate(&network.graph, [0; 32], &samples, &recipe, 2, None, &mut |_, _, _| {}).unwrap();
        let graph = annotate(&network.graph, &stats, &recipe).unwrap().graph;
        let program_ = program(&graph, Profile::default());
        let want = simulate(&program_, &x);
        let options = int::Options { threads: 2, isa: Some(Isa::best()), ..Default::default() };
        let got = int::Session::new(program_, &options).unwrap().run(vec![x.clone()]).unwrap().remove(0);
        assert!(bits(&got) == bits(&want), "w{weight}a{activation}");
        let (g, e) = (got.as_slice::<f32>().unwrap(), exact.as_slice::<f32>().unwrap());
        let noise: f64 = g.iter().zip(e).map(|(g, e)| f64::from(g - e).powi(2)).sum();
        let snr = 10.0 * (e.iter().map(|e| f64::from(*e).powi(2)).sum::<f64>() / noise).log10();
        assert!(snr > least && snr > last, "w{weight}a{activation}: {snr} dB after {last}");
        last = snr;
        // Its file gives the same numbers again.
        let dir = tempfile::tempdir_in(scratch()).unwrap();
        let path = dir.path().join("wide.onnx");
        quantize::export(&graph, Format::Qdq, Default::default(), &path).unwrap();
        let again = simulate(&program(&engine::load(&path).unwrap(), Profile::default()), &x);
        assert!(bits(&again) == bits(&want), "w{weight}a{activation}: the file gives other numbers");
        if let Some(python) = python() {
            let values = ort_values(&python, &[Job { model: &path, optimize: false }], &x).remove(0);
            let other = values[&graph.value(graph.outputs[0]).name].as_slice::<f32>().unwrap().to_vec();
            let noise: f64 = g.iter().zip(&other).map(|(g, e)| f64::from(g - e).powi(2)).sum();
            let signal: f64 = other.iter().map(|e| f64::from(*e).powi(2)).sum();
            assert!(10.0 * (signal / noise.max(1e-30)).log10() > least, "w{weight}a{activation} in ONNX Runtime");
        }
    }
}
