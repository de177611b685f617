//! Whole networks: simulator and integer engine give the same bits, for both profiles, on every instruction set, with any
//! number of threads and any batch, from the graph in memory and from the files written from it.

use crate::networks::{Network, bits, part, program, simulate};
use nnq::{
    engine,
    exec::{
        int,
        lower::{Profile, Program},
    },
    ir::Tensor,
};
use nnq_kernels::Isa;
use std::sync::Arc;

/// Test samples of a network.
const SAMPLES: usize = 4;

fn check(network: Option<Network>) {
    let Some(network) = network else { return };
    let name = network.name;
    let x = network.batch(SAMPLES);
    let quantized = network.quantize();
    let mut failures = Vec::new();
    for profile in [Profile::Dyadic, Profile::Onnx] {
        let whole = program(&quantized.graph, profile);
        let (integer, float) = whole.integer_share();
        assert!(integer > float, "{name}: {integer} integer steps, {float} float");
        let expected = simulate(&whole, &x);
        let spread = expected.as_slice::<f32>().unwrap().windows(2).filter(|w| w[0] != w[1]).count();
        assert!(spread > expected.len() / 2, "{name}: the outputs say nothing: {expected:?}");
        let mut same = |what: String, got: &[u32], from: usize| {
            let expected = bits(&expected);
            let expected = &expected[from..from + got.len()];
            let unequal = expected.iter().zip(got).filter(|(a, b)| a != b).count();
            if unequal > 0 {
                failures.push(format!("{name} {profile} {what}: {unequal} of {} differ", got.len()));
            }
        };
        for &isa in Isa::all() {
            if !isa.is_supported() {
                println!("skipped: {name} {profile} on {}: not on this machine", isa.name());
                continue;
            }
            // The scalar code is slow, and the tests of the kernels cover its threads.
            let (threads, samples): (&[usize], usize) = if isa == Isa::Scalar { (&[2], 1) } else { (&[1, 2], SAMPLES) };
            for &threads in threads {
                let mut run = session(&whole, Some(isa), threads);
                let outputs = x.shape()[0].min(samples);
                let got = bits(&run(&part(&x, 0..outputs)));
                same(format!("{} {threads} threads, batch {outputs}", isa.name()), &got, 0);
                let one = got.len() / outputs;
                for i in 0..if outputs > 1 { outputs } else { 0 } {
                    let got = bits(&run(&part(&x, i..i + 1)));
                    same(format!("{} {threads} threads, sample {i} alone", isa.name()), &got, i * one);
                }
            }
        }
        for (format, path) in &quantized.files {
            let read = program(&engine::load(path).unwrap(), profile);
            same(format!("{format:?} read back"), &bits(&session(&read, None, 2)(&x)), 0);
            let steps = read.integer_share();
            assert!(steps.0 >= integer, "{name} {format:?} read back: {steps:?} steps, not {integer}");
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Something that runs a program on the integer engine.
fn session(program: &Arc<Program>, isa: Option<Isa>, threads: usize) -> impl FnMut(&Tensor) -> Tensor {
    let mut session = int::Session::new(program.clone(), &int::Options { threads, isa, separate: false }).unwrap();
    move |x| session.run(vec![x.clone()]).unwrap().remove(0)
}

#[test]
fn demo() {
    check(Some(Network::demo()));
}

macro_rules! networks {
    ($($name:ident)*) => { $(
        #[test]
        fn $name() {
            check(Network::real(stringify!($name)));
        }
    )* };
}
networks!(resnet8 resnet20 resnet32 resnet44 resnet56 mobilenetv1 mobilenetv2 squeezenet kws);
