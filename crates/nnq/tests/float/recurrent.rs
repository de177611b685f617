//! Recurrent layers: what the node tests do not ask.
use super::*;
use nnq::{
    exec::float::{Options, Session},
    ir::{
        DType, GraphBuilder,
        op::{Cell, Direction, RecurrentAttrs},
    },
};
use std::sync::Arc;

const CELLS: [Cell; 4] = [
    Cell::Rnn,
    Cell::Gru { linear_before_reset: false },
    Cell::Gru { linear_before_reset: true },
    Cell::Lstm { input_forget: false },
];

/// X [T, B, 7] through a layer of 40.
fn layer(cell: Cell, direction: Direction, batch_first: bool) -> Arc<nnq::ir::Graph> {
    let mut b = GraphBuilder::new("layer");
    let (d, g) = (direction.count(), cell.gates());
    let x = b.input("x", DType::F32, "S, R, 7");
    let w = b.constant("w", tensor(&[d, g * 40, 7], 1));
    let r = b.constant("r", tensor(&[d, g * 40, 40], 2));
    let bias = b.constant("b", tensor(&[d, 2 * g * 40], 3));
    let op = Op::Recurrent(RecurrentAttrs { direction, batch_first, ..RecurrentAttrs::new(cell) });
    let y = b.ops("layer", op, &[Some(x), Some(w), Some(r), Some(bias)], 2);
    b.output(y[0]).output(y[1]);
    Arc::new(b.finish().unwrap())
}

fn outputs(graph: &Arc<nnq::ir::Graph>, x: &Tensor, threads: usize) -> Vec<Tensor> {
    Session::new(graph.clone(), &Options { threads }).unwrap().run(vec![x.clone()]).unwrap()
}

/// A sample's result is that of the sample alone, on any number of threads; both layouts hold the same numbers.
#[test]
fn samples_threads_and_layouts() {
    for cell in CELLS {
        for direction in [Direction::Forward, Direction::Reverse, Direction::Bidirectional] {
            let (time, batch, d) = (9, 5, direction.count());
            let graph = layer(cell, direction, false);
            let x = tensor(&[time, batch, 7], 11);
            let y = outputs(&graph, &x, 1);
            assert_eq!(y[0].shape(), [time, d, batch, 40]);
            assert_eq!(y[0].to_f32s(), outputs(&graph, &x, 3)[0].to_f32s());
            let rows = x.to_f32s();
            let numbers = y[0].to_f32s();
            let first = layer(cell, direction, true);
            let turned: Vec<f32> =
                (0..batch * time).flat_map(|i| rows[(i % time * batch + i / time) * 7..][..7].to_vec()).collect();
            let all = outputs(&first, &Tensor::of(&[batch, time, 7], turned.clone()), 2);
            assert_eq!(all[0].shape(), [batch, time, d, 40]);
            for b in 0..batch {
                let alone = Tensor::of(&[time, 1, 7], turned[b * time * 7..][..time * 7].to_vec());
                let alone = outputs(&graph, &alone, 1);
                let want: Vec<f32> =
                    (0..time * d).flat_map(|i| numbers[(i * batch + b) * 40..][..40].to_vec()).collect();
                assert_eq!(alone[0].to_f32s(), want, "{cell:?} {direction:?}");
                assert_eq!(all[0].to_f32s()[b * time * d * 40..][..time * d * 40], want, "{cell:?} {direction:?}");
            }
        }
    }
}

/// Binary64 is the reference of binary32.
#[test]
fn single_and_double_precision() {
    for cell in CELLS {
        let (g, a) = (cell.gates(), RecurrentAttrs::new(cell));
        let (x, w, r) = (tensor(&[12, 2, 9], 1), tensor(&[1, g * 24, 9], 2), tensor(&[1, g * 24, 24], 3));
        let single = one(Op::Recurrent(a.clone()), &[&x, &w, &r]).unwrap();
        let wide = one(Op::Recurrent(a), &[&double(&x), &double(&w), &double(&r)]).unwrap();
        let want: Vec<(f64, f64)> = wide.as_slice::<f64>().unwrap().iter().map(|&y| (y, 2e-5)).collect();
        close(&single, &[12, 1, 2, 24], &want);
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let (x, w, r) = (tensor(&[3, 2, 4], 1), tensor(&[1, 20, 4], 2), tensor(&[1, 20, 5], 3));
    let lstm = || Op::Recurrent(RecurrentAttrs::new(Cell::Lstm { input_forget: false }));
    assert!(one(lstm(), &[&x, &w, &r]).is_ok());
    let refused = |x: &[&Tensor], part: &str| {
        let e = one(lstm(), x).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
    };
    refused(&[&tensor(&[3, 4], 1), &w, &r], "3 axes");
    refused(&[&x, &tensor(&[1, 20, 3], 1), &r], "W of shape [1, 20, 3], expected [1, 20, 4]");
    refused(&[&x, &w, &tensor(&[2, 20, 5], 1)], "R of shape");
    refused(&[&x, &w, &r, &tensor(&[1, 20], 1)], "B of shape [1, 20], expected [1, 40]");
    refused(&[&x, &double(&w), &r], "element types");
    let lengths = |v: Vec<i32>| Tensor::of(&[v.len()], v);
    let bias = tensor(&[1, 40], 1);
    refused(&[&x, &w, &r, &bias, &lengths(vec![1])], "sequence_lens");
    refused(&[&x, &w, &r, &bias, &lengths(vec![1, 4])], "a sequence of length 4 of 3 times");
    let mut b = GraphBuilder::new("g");
    let ids = [("x", &x), ("w", &w), ("r", &tensor(&[1, 20, 6], 4))].map(|(n, t)| b.constant(n, t.clone()));
    let y = b.op("layer", lstm(), &ids);
    b.output(y);
    let e = b.finish().unwrap_err().to_string();
    assert!(e.contains("node 'layer' (LSTM") && e.contains("W [1, 20, 4]"), "{e}");
}
