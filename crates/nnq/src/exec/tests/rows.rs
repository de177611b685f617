//! Matrix products whose rows are quantized as they come.
use super::*;
use crate::{ErrorKind, ir::Dynamic};

/// A product of `[..., k]` with `n` channels, whose input is quantized as it comes.
fn product(shape: &str, [k, n]: [usize; 2], gemm: Option<bool>, of: Dynamic) -> Graph {
    let mut net = Net::new(70 + k as u64);
    let x = net.b.input("x", DType::F32, shape);
    net.b.graph().value_mut(x).dynamic = Some(of);
    let y = match gemm {
        Some(trans_b) => {
            let w = if trans_b { net.weight(&[n, k], 0) } else { net.weight(&[k, n], 1) };
            let b = net.bias(n);
            net.b.op("gemm", Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b }, &[x, w, b])
        }
        None => {
            let w = net.weight(&[k, n], 1);
            net.b.op("matmul", Op::MatMul, &[x, w])
        }
    };
    net.finish(&[y])
}

fn session(graph: &Graph) -> int::Session {
    let program = Arc::new(lower::lower(graph, Profile::Dyadic).unwrap());
    int::Session::new(program, &int::Options { threads: 2, ..Default::default() }).unwrap()
}

#[test]
fn simulator_and_engine_agree() {
    for (trans_b, k, n, rows) in [(true, 37, 19, 5), (false, 64, 33, 1), (false, 1, 1, 4), (true, 300, 10, 170)] {
        let graph = product(&format!("N,{k}"), [k, n], Some(trans_b), Dynamic::Row);
        let (_, kinds) = agree(&graph, &[rows, k], 9);
        assert!(matches!(kinds[..], [StepKind::Rows(_)]), "{kinds:?}");
    }
    agree(&product("N,T,20", [20, 13], None, Dynamic::Row), &[3, 4, 20], 1);
}

/// What a row gives is what it gives alone on a grid for all numbers, whatever else is there.
#[test]
fn rows_are_what_they_are_alone() {
    let (k, n, rows) = (48, 21, 9);
    let [whole, alone] = [Dynamic::Row, Dynamic::Tensor].map(|of| product(&format!("N,{k}"), [k, n], Some(true), of));
    let mut x = Numbers(5).reals(rows * k);
    // Rows of very different size, of one sign, and of zeros.
    for (r, row) in x.chunks_mut(k).enumerate() {
        row.iter_mut().for_each(|x| *x *= 10f32.powi(r as i32 - 4));
    }
    x[k..2 * k].iter_mut().for_each(|x| *x = x.abs());
    x[2 * k..3 * k].fill(0.0);
    let together = session(&whole).run(vec![Tensor::of(&[rows, k], x.clone())]).unwrap().remove(0).to_f32s();
    let mut one = session(&alone);
    for (row, together) in x.chunks(k).zip(together.chunks(n)) {
        let want = one.run(vec![Tensor::of(&[1, k], row.to_vec())]).unwrap().remove(0).to_f32s();
        assert_eq!(together, want);
    }
    assert!(!whole.is_dynamic() && alone.is_dynamic());
}

#[test]
fn numbers_without_a_range_are_refused_by_name() {
    let graph = product("N,8", [8, 3], Some(true), Dynamic::Row);
    let mut x = vec![1.0f32; 24];
    x[17] = f32::NAN;
    let x = Tensor::of(&[3, 8], x);
    let program = Arc::new(lower::lower(&graph, Profile::Dyadic).unwrap());
    let sim = sim::Session::new(program, 1).unwrap().run(vec![x.clone()]).unwrap_err();
    let int = session(&graph).run(vec![x]).unwrap_err();
    for e in [sim, int] {
        assert_eq!(e.kind(), ErrorKind::Value);
        assert!(e.to_string().contains("'x'"), "{e}");
    }
}

/// The bias that a node behind a product adds is the product's own: one step, the same bits.
#[test]
fn a_bias_behind_a_product_is_its_own() {
    let build = |shape: &[usize], apart: bool| {
        let mut net = Net::new(5);
        let x = net.b.input("x", DType::F32, "N,T,20");
        net.b.graph().value_mut(x).dynamic = Some(Dynamic::Row);
        let w = net.weight(&[20, 13], 1);
        let y = net.b.op("matmul", Op::MatMul, &[x, w]);
        let b = Tensor::of(shape, net.n.reals(shape.iter().product()));
        let b = net.b.constant("bias", b);
        let z = net.b.op("add", Op::Binary(Binary::Add), &[b, y]);
        let outputs = if apart { vec![z, y] } else { vec![z] };
        net.finish(&outputs)
    };
    for shape in [&[13][..], &[1, 13], &[1]] {
        let (y, kinds) = agree(&build(shape, false), &[2, 3, 20], 3);
        assert!(matches!(kinds[..], [StepKind::Rows(_)]), "{kinds:?}");
        // Where others read the product, too, the sum is a step of its own.
        let (z, kinds) = agree(&build(shape, true), &[2, 3, 20], 3);
        assert_eq!(kinds.len(), 2);
        assert_eq!(y[0].as_slice::<f32>().unwrap(), z[0].as_slice::<f32>().unwrap());
    }
    // Other shapes are no bias.
    let (_, kinds) = agree(&build(&[3, 1], false), &[2, 3, 20], 3);
    assert_eq!(kinds.len(), 2);
}

/// A function of one number before it is computed row by row, in the same step, where nobody else reads it.
#[test]
fn a_function_before_is_part_of_the_product() {
    for (function, shown, steps) in
        [(Unary::Gelu { tanh: false }, false, 1), (Unary::Relu, false, 1), (Unary::Gelu { tanh: true }, true, 2)]
    {
        let mut net = Net::new(11);
        let x = net.b.input("x", DType::F32, "N, 24");
        let of = net.b.op("function", Op::Unary(function), &[x]);
        net.b.graph().value_mut(of).dynamic = Some(Dynamic::Row);
        let w = net.weight(&[24, 20], 1);
        let y = net.b.op("matmul", Op::MatMul, &[of, w]);
        let mut outputs = vec![y];
        outputs.extend(shown.then_some(of));
        let graph = net.finish(&outputs);
        for rows in [1, 60] {
            let (_, kinds) = agree(&graph, &[rows, 24], 4);
            assert_eq!(kinds.len(), steps, "{function:?}: {kinds:?}");
        }
    }
}
