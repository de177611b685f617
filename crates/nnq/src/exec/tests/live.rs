//! Products of two values that are quantized as they come.
use super::*;
use crate::{ErrorKind, ir::Dynamic};

/// `x` of `[.., m, k]` times its own turned rows, of which the axes before may be averaged away; both are quantized as they come.
fn scores(shape: &str, rank: usize, averaged: &[i64], of: [Dynamic; 2]) -> Graph {
    let mut net = Net::new(rank as u64);
    let x = net.b.input("x", DType::F32, shape);
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(rank - 1, rank - 2);
    let mut turned = net.b.op("turned", Op::Transpose { perm }, &[x]);
    if !averaged.is_empty() {
        let axes = net.b.constant("axes", Tensor::of(&[averaged.len()], averaged.to_vec()));
        let mean = Op::Reduce { kind: crate::ir::op::Reduction::Mean, keepdims: true, noop_with_empty_axes: false };
        turned = net.b.op("mean", mean, &[turned, axes]);
    }
    for (v, of) in [x, turned].into_iter().zip(of) {
        net.b.graph().value_mut(v).dynamic = Some(of);
    }
    let y = net.b.op("scores", Op::MatMul, &[x, turned]);
    net.finish(&[y])
}

fn lives(kinds: &[StepKind]) -> Vec<bool> {
    kinds.iter().filter_map(|k| if let StepKind::Live(l) = k { Some(l.by_row) } else { None }).collect()
}

#[test]
fn simulator_and_engine_agree() {
    let (tensor, row) = (Dynamic::Tensor, Dynamic::Row);
    let cases: &[(&str, &[usize], &[i64])] = &[
        ("N,H,T,16", &[2, 3, 9, 16], &[]),
        ("N,H,T,33", &[1, 12, 40, 33], &[]),
        ("T,7", &[5, 7], &[]),
        ("T,64", &[200, 64], &[]),
        // Matrices that several on the left share.
        ("N,H,T,16", &[2, 3, 9, 16], &[1]),
        ("N,H,T,16", &[2, 3, 9, 16], &[0, 1]),
        ("N,H,T,1", &[1, 1, 1, 1], &[]),
        ("N,T,8", &[2, 0, 8], &[]),
    ];
    for (shape, sizes, averaged) in cases {
        for of in [[tensor, tensor], [row, row], [row, tensor]] {
            let (_, kinds) = agree(&scores(shape, sizes.len(), averaged, of), sizes, 3);
            assert_eq!(lives(&kinds), [of == [row, row]], "{shape} {of:?}");
        }
    }
}

/// One grid for an operand: the formula of the page, written out.
#[test]
fn numbers_are_those_of_the_page() {
    let graph = scores("T,2", 2, &[], [Dynamic::Tensor; 2]);
    let program = Arc::new(lower::lower(&graph, Profile::Dyadic).unwrap());
    let x = Tensor::of::<f32>(&[2, 2], vec![2.55, 0.0, -2.55, 1.0]);
    let y = int::Session::new(program, &int::Options::default()).unwrap().run(vec![x]).unwrap().remove(0);
    // From -2.55 to 2.55 in 255 steps of 0.02; -lo / s = 127.5 (as binary32 has it) gives the zero point 127 or 128.
    let s = (2.55f32 + 2.55) / 255.0;
    let z = (2.55 / s).round_ties_even();
    let q = |x: f32| ((x / s).round_ties_even() + z).clamp(0.0, 255.0) - z;
    let real = |a: [f32; 2], b: [f32; 2]| (q(a[0]) * q(b[0]) + q(a[1]) * q(b[1])) * (s * s);
    let rows = [[2.55, 0.0], [-2.55, 1.0]];
    let want: Vec<f32> = rows.iter().flat_map(|&a| rows.iter().map(move |&b| real(a, b))).collect();
    assert_eq!(y.as_slice::<f32>().unwrap(), want);
}

/// By row, what a sample gives is what it gives alone.
#[test]
fn samples_are_what_they_are_alone() {
    let graph = scores("N,T,8", 3, &[], [Dynamic::Row; 2]);
    let run = |x: Tensor| {
        let program = Arc::new(lower::lower(&graph, Profile::Dyadic).unwrap());
        let mut session = int::Session::new(program, &int::Options { threads: 2, ..Default::default() }).unwrap();
        session.run(vec![x]).unwrap().remove(0).to_f32s()
    };
    let mut x = Numbers(9).reals(4 * 5 * 8);
    for (i, sample) in x.chunks_mut(40).enumerate() {
        sample.iter_mut().for_each(|x| *x *= 100f32.powi(i as i32 - 2));
    }
    let together = run(Tensor::of(&[4, 5, 8], x.clone()));
    let alone: Vec<f32> = x.chunks(40).flat_map(|x| run(Tensor::of(&[1, 5, 8], x.to_vec()))).collect();
    assert_eq!(together, alone);
    assert!(!graph.is_dynamic() && scores("N,T,8", 3, &[], [Dynamic::Tensor; 2]).is_dynamic());
}

#[test]
fn numbers_without_a_range_are_refused_by_name() {
    for of in [Dynamic::Row, Dynamic::Tensor] {
        let graph = scores("N,T,8", 3, &[], [of; 2]);
        let mut x = vec![1.0f32; 48];
        x[17] = f32::INFINITY;
        let x = Tensor::of(&[2, 3, 8], x);
        let program = Arc::new(lower::lower(&graph, Profile::Dyadic).unwrap());
        let sim = sim::Session::new(program.clone(), 1).unwrap().run(vec![x.clone()]).unwrap_err();
        let int = int::Session::new(program, &int::Options::default()).unwrap().run(vec![x]).unwrap_err();
        for e in [sim, int] {
            assert!(e.kind() == ErrorKind::Value && e.to_string().contains("'x'"), "{e}");
        }
    }
}

/// Sums that could exceed 32 bits are an error, not a wrong number.
#[test]
fn too_deep_products_are_refused() {
    let graph = scores("T,33026", 2, &[], [Dynamic::Tensor; 2]);
    let x = Tensor::of(&[1, 33026], vec![1.0f32; 33026]);
    let program = Arc::new(lower::lower(&graph, Profile::Dyadic).unwrap());
    let sim = sim::Session::new(program.clone(), 1).unwrap().run(vec![x.clone()]).unwrap_err();
    let int = int::Session::new(program, &int::Options::default()).unwrap().run(vec![x]).unwrap_err();
    assert_eq!(sim.to_string(), int.to_string());
    assert!(sim.to_string().contains("33026 products of two codes"), "{sim}");
}
