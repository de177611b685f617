//! Attention that exporters wrote in primitives becomes one step where it computes in floating point, and answers the same.
use super::*;
use crate::exec::float;

const ROWS: usize = 6;
const HEADS: usize = 3;
const SIZE: usize = 8;

/// How it is written.
#[derive(Clone, Debug, Default)]
struct Written {
    /// The scores are divided; otherwise queries and keys are multiplied.
    divided: bool,
    /// Keys are turned twice.
    twice: bool,
    mask: Option<&'static [usize]>,
    /// The mask is the first operand.
    swapped: bool,
    /// The result, and all that moves it, lies on a grid.
    rounded: bool,
    /// Somebody reads the weights, too.
    shown: bool,
    /// The weights are rounded.
    inner: bool,
    /// Shares of queries rather than of keys.
    across: bool,
}

impl Written {
    fn graph(&self) -> Graph {
        let mut net = Net::new(3);
        let x = net.b.input("x", DType::F32, &format!("N, {ROWS}, {}", HEADS * SIZE));
        let split = net.b.constant("split", Tensor::of(&[4], vec![0i64, 0, HEADS as i64, SIZE as i64]));
        let join = net.b.constant("join", Tensor::of(&[3], vec![0i64, 0, (HEADS * SIZE) as i64]));
        let number = |net: &mut Net, x: f32| net.b.constant("number", Tensor::of(&[1], vec![x]));
        let turn =
            |net: &mut Net, x: ValueId, perm: &[usize]| net.b.op("turn", Op::Transpose { perm: perm.to_vec() }, &[x]);
        let heads = |net: &mut Net| {
            let factors = net.n.reals(HEADS * SIZE);
            let factors = net.b.constant("factors", Tensor::of(&[HEADS * SIZE], factors));
            let own = net.b.op("own", Op::Binary(Binary::Mul), &[x, factors]);
            net.b.op("heads", Op::Reshape { allowzero: false }, &[own, split])
        };
        let (q, k, v) = (heads(&mut net), heads(&mut net), heads(&mut net));
        let (mut q, v) = (turn(&mut net, q, &[0, 2, 1, 3]), turn(&mut net, v, &[0, 2, 1, 3]));
        let mut k = match self.twice {
            true => {
                let k = turn(&mut net, k, &[0, 2, 1, 3]);
                turn(&mut net, k, &[0, 1, 3, 2])
            }
            false => turn(&mut net, k, &[0, 2, 3, 1]),
        };
        if !self.divided {
            for operand in [&mut q, &mut k] {
                let by = number(&mut net, 0.6);
                *operand = net.b.op("scaled", Op::Binary(Binary::Mul), &[*operand, by]);
            }
        }
        let mut scores = net.b.op("scores", Op::MatMul, &[q, k]);
        if self.divided {
            let by = number(&mut net, 2.9);
            scores = net.b.op("divided", Op::Binary(Binary::Div), &[scores, by]);
        }
        if let Some(shape) = self.mask {
            let mut mask = net.n.reals(shape.iter().product());
            mask.iter_mut().step_by(5).for_each(|m| *m = f32::NEG_INFINITY);
            let mask = net.b.constant("mask", Tensor::of(shape, mask));
            let operands = if self.swapped { [mask, scores] } else { [scores, mask] };
            scores = net.b.op("masked", Op::Binary(Binary::Add), &operands);
        }
        let axis = if self.across { 2 } else { -1 };
        let weights = net.b.op("weights", Op::Softmax { axis, flat: false }, &[scores]);
        if self.inner {
            net.grid(weights, QType::U8, 1.0 / 255.0, 0);
        }
        let y = net.b.op("sums", Op::MatMul, &[weights, v]);
        let turned = turn(&mut net, y, &[0, 2, 1, 3]);
        let joined = net.b.op("joined", Op::Reshape { allowzero: false }, &[turned, join]);
        if self.rounded {
            for v in [y, turned, joined] {
                net.grid(v, QType::U8, 0.02, 128);
            }
        }
        let mut outputs = vec![joined];
        outputs.extend(self.shown.then_some(weights));
        net.finish(&outputs)
    }
    /// Answers the number of steps that are attention, and the largest difference to the primitives in floating point.
    fn run(&self) -> (usize, f32) {
        let (graph, shape) = (self.graph(), [2, ROWS, HEADS * SIZE]);
        let (got, kinds) = agree(&graph, &shape, 8);
        let x = Numbers(8 | 1).reals(shape.iter().product()).iter().map(|v| v * 3.0).collect::<Vec<f32>>();
        let mut session = float::Session::new(Arc::new(graph), &float::Options { threads: 1 }).unwrap();
        let want = session.run(vec![Tensor::of(&shape, x)]).unwrap();
        let pairs = want.iter().zip(&got).flat_map(|(w, g)| w.to_f32s().into_iter().zip(g.to_f32s()));
        let apart = pairs.map(|(w, g)| (w - g).abs()).fold(0.0, f32::max);
        (kinds.iter().filter(|k| matches!(k, StepKind::Float(Op::Attention(_)))).count(), apart)
    }
}

#[test]
fn every_writing_is_one_step() {
    let plain = Written::default();
    for (i, written) in [
        plain.clone(),
        Written { divided: true, ..plain.clone() },
        Written { twice: true, mask: Some(&[1, 1, 1, ROWS]), ..plain.clone() },
        Written { divided: true, mask: Some(&[ROWS, ROWS]), swapped: true, ..plain.clone() },
        Written { mask: Some(&[HEADS, 1, ROWS]), ..plain.clone() },
        Written { mask: Some(&[ROWS]), ..plain.clone() },
        Written { divided: true, twice: true, mask: Some(&[1, 1, 1, ROWS]), rounded: true, ..plain },
    ]
    .into_iter()
    .enumerate()
    {
        let (steps, apart) = written.run();
        assert_eq!(steps, 1, "{i}: {written:?}");
        // A step of the grid, where a sum lies near a tie; rounding of sums elsewhere.
        assert!(apart <= if written.rounded { 0.0201 } else { 2e-6 }, "{i}: {written:?}: {apart}");
    }
}

#[test]
fn what_others_see_or_round_stays() {
    let plain = Written::default();
    for written in [
        // One number for all keys, more samples than there are.
        Written { mask: Some(&[ROWS, 1]), ..plain.clone() },
        Written { mask: Some(&[2, 1, 1, ROWS]), ..plain.clone() },
        Written { shown: true, ..plain.clone() },
        Written { across: true, ..plain.clone() },
        Written { inner: true, ..plain },
    ] {
        let (steps, apart) = written.run();
        assert_eq!(steps, 0, "{written:?}");
        assert!(apart <= if written.inner { 0.02 } else { 2e-6 }, "{written:?}: {apart}");
    }
}

/// A query that sees no key is answered with zeros.
#[test]
fn nothing_seen_is_zero() {
    let mut net = Net::new(5);
    let x = net.b.input("x", DType::F32, "1, 2, 4");
    let mask =
        net.b.constant("mask", Tensor::of(&[2, 2], vec![0.0, f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY]));
    let heads = crate::ir::op::AttentionAttrs { q_heads: 1, kv_heads: 1, ..Default::default() };
    let y = net.b.op("y", Op::Attention(heads), &[x, x, x, mask]);
    let graph = net.finish(&[y]);
    let mut session = float::Session::new(Arc::new(graph), &float::Options { threads: 1 }).unwrap();
    let x: Vec<f32> = (0..8).map(|i| i as f32 - 3.5).collect();
    let y = session.run(vec![Tensor::of(&[1, 2, 4], x.clone())]).unwrap().remove(0).to_f32s();
    assert_eq!(y, [&x[..4], &[0.0; 4]].concat());
}
