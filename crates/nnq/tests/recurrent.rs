//! Recurrent layers quantized dynamically: through files, and beside ONNX Runtime.

use crate::{
    dynamic::{array, bits, file, run},
    networks::{self, python},
};
use nnq::{
    engine,
    exec::{
        int,
        lower::{Profile, Program, StepKind, lower},
    },
    formats::onnx::{self, quantized},
    ir::{
        DType, Graph, GraphBuilder, Op, Tensor,
        op::{Cell, Direction, RecurrentAttrs},
    },
    quant::{
        recipe::{ActivationMode, Recipe, WeightGranularity},
        stats::Stats,
    },
    quantize::annotate,
};
use std::sync::Arc;

const CELLS: [Cell; 4] = [
    Cell::Rnn,
    Cell::Gru { linear_before_reset: false },
    Cell::Gru { linear_before_reset: true },
    Cell::Lstm { input_forget: false },
];
const INPUT: usize = 10;
const HIDDEN: usize = 12;

fn numbers(n: usize, amplitude: f32, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i + seed * 71) * 7919 % 1009) as f32 / 504.0 - 1.0) * amplitude).collect()
}

/// Two layers, so that the second reads states of the first; quantized dynamically.
fn network(
    cell: Cell,
    direction: Direction,
    (granularity, bits): (WeightGranularity, u8),
    mode: ActivationMode,
) -> Graph {
    let mut b = GraphBuilder::new("net");
    let (d, rows) = (direction.count(), cell.gates() * HIDDEN);
    let mut x = b.input("x", DType::F32, &format!("T,N,{INPUT}"));
    let mut columns = INPUT;
    for i in 0..2 {
        let weight = |b: &mut GraphBuilder, name: &str, shape: &[usize]| {
            let t = numbers(shape.iter().product(), 0.6, i * 3 + shape.len());
            b.constant(&format!("{name}{i}"), Tensor::of(shape, t))
        };
        let w = weight(&mut b, "w", &[d, rows, columns]);
        let r = weight(&mut b, "r", &[d, rows, HIDDEN]);
        let c = weight(&mut b, "b", &[d, 2 * rows]);
        let op = Op::Recurrent(RecurrentAttrs { direction, hidden: HIDDEN, ..RecurrentAttrs::new(cell) });
        // [time, directions, samples, hidden] becomes [time, samples, directions * hidden].
        let y = b.op(&format!("layer{i}"), op, &[x, w, r, c]);
        let y = b.op(&format!("turn{i}"), Op::Transpose { perm: vec![0, 2, 1, 3] }, &[y]);
        let shape = b.constant(&format!("shape{i}"), Tensor::of(&[3], vec![0i64, 0, (d * HIDDEN) as i64]));
        x = b.op(&format!("flat{i}"), Op::Reshape { allowzero: false }, &[y, shape]);
        columns = d * HIDDEN;
    }
    b.output(x);
    let mut recipe = Recipe::default();
    recipe.activation.mode = mode;
    (recipe.weight.granularity, recipe.weight.bits) = (granularity, bits);
    annotate(&Arc::new(b.finish().unwrap()), &Stats::new([0; 32], String::new()), &recipe).unwrap().graph
}

fn input() -> Tensor {
    Tensor::of(&[9, 2, INPUT], numbers(9 * 2 * INPUT, 2.0, 5))
}

fn layers(p: &Program, by_row: bool) -> usize {
    p.steps.iter().filter(|s| matches!(&s.kind, StepKind::Recurrent(r) if r.by_row == by_row)).count()
}

/// Largest difference, as a part of the largest number.
fn difference(got: &Tensor, want: &Tensor) -> f32 {
    assert_eq!(got.shape(), want.shape());
    let (got, want) = (got.as_slice::<f32>().unwrap(), want.as_slice::<f32>().unwrap());
    let most = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    got.iter().zip(want).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / most
}

#[test]
fn files_bring_back_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net.onnx");
    for cell in CELLS {
        for direction in [Direction::Forward, Direction::Bidirectional] {
            for (weights, mode) in [
                ((WeightGranularity::Channel, 8), ActivationMode::Dynamic),
                ((WeightGranularity::Tensor, 8), ActivationMode::Dynamic),
                ((WeightGranularity::Channel, 4), ActivationMode::Dynamic),
                ((WeightGranularity::Channel, 8), ActivationMode::Token),
                ((WeightGranularity::Block(5), 8), ActivationMode::Token),
            ] {
                let by_row = mode == ActivationMode::Token;
                let graph = network(cell, direction, weights, mode);
                let (want, program) = run(&graph, &input());
                assert_eq!(layers(&program, by_row), 2, "{:?}", program.notes);
                for explicit in [quantized::to_qdq(&graph).unwrap(), quantized::to_qoperator(&graph).unwrap()] {
                    onnx::write(&explicit, &path, &onnx::WriteOptions::default()).unwrap();
                    let (got, program) = run(&engine::load(&path).unwrap(), &input());
                    assert_eq!(layers(&program, by_row), 2, "{cell:?} {direction:?} {weights:?}: {:?}", program.notes);
                    assert_eq!(bits(&got), bits(&want), "{cell:?} {direction:?} {weights:?} {mode:?}");
                }
            }
        }
    }
}

/// DynamicQuantizeLSTM: bytes of either kind, a scale for each direction or row, one direction and two.
#[test]
fn files_of_onnx_runtime() {
    for name in ["lstm", "bilstm"] {
        for scales in ["pt", "pc"] {
            let (x, want) = (array(&format!("{name}.s8.{scales}.x.npy")), array(&format!("{name}.s8.{scales}.y.npy")));
            for kind in ["s8", "u8"] {
                let stem = format!("{name}.{kind}.{scales}");
                let (got, program) = run(&engine::load(&file(&format!("{stem}.onnx"))).unwrap(), &x);
                assert_eq!(layers(&program, false), 1, "{stem}: {:?}", program.notes);
                let error = difference(&got, &want);
                println!("{stem}: differs from ONNX Runtime by {error:.1e} of the largest state");
                // It adds the bias last and has sigmoids and tangents of its own: the last bits of a state, no code of it.
                assert!(error <= 1e-5, "{stem}: {error}");
            }
        }
    }
}

/// Others run the file in floating point with the same weights: what is left is the rounding of inputs and states.
#[test]
fn files_in_onnx_runtime() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (i, cell) in CELLS.into_iter().enumerate() {
        for direction in [Direction::Forward, Direction::Bidirectional] {
            let mode = if i % 2 == 0 { ActivationMode::Dynamic } else { ActivationMode::Token };
            let graph = network(cell, direction, (WeightGranularity::Channel, 8), mode);
            let path = dir.path().join(format!("{i}.onnx"));
            onnx::write(&quantized::to_qdq(&graph).unwrap(), &path, &onnx::WriteOptions::default()).unwrap();
            let (got, _) = run(&graph, &input());
            let values = networks::ort_values(&python, &[networks::Job { model: &path, optimize: false }], &input());
            let error = difference(&got, &values[0][&graph.value(graph.outputs[0]).name]);
            println!("{cell:?} {direction:?}: differs from ONNX Runtime by {error:.1e} of the largest state");
            // A code is 1/255 of a range; a state of these layers is a sum over 22 of them, squashed.
            assert!(error > 0.0 && error <= 0.05, "{cell:?} {direction:?}: {error}");
        }
    }
}

#[test]
fn compiled_plans_name_what_they_cannot_hold() {
    let x = array("lstm.s8.pt.x.npy");
    let program = Arc::new(lower(&engine::load(&file("lstm.s8.pt.onnx")).unwrap(), Profile::default()).unwrap());
    let mut session = int::Session::new(program, &int::Options { threads: 1, ..Default::default() }).unwrap();
    let e = session.compile(vec![vec![x.shape().to_vec()]]).unwrap_err().to_string();
    assert!(
        e.contains("node 'lstm_quant'") && e.contains("recurrent layer") && e.contains("run the ONNX file itself"),
        "{e}"
    );
}
