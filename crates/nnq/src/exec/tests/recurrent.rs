//! Recurrent layers whose inputs and states are quantized as they come.
use super::*;
use crate::{
    ir::op::{Cell, Direction, Gate, RecurrentAttrs},
    quant::{
        recipe::{ActivationMode, Recipe, WeightGranularity},
        stats::Stats,
    },
};

/// What is not the cell itself.
#[derive(Clone, Copy, Default)]
struct Extras {
    bias: bool,
    lengths: bool,
    states: bool,
    peepholes: bool,
    batch_first: bool,
    clip: bool,
}

const HIDDEN: usize = 21;
const INPUT: usize = 7;

/// A layer of 21, quantized dynamically by `recipe`.
fn layer(cell: Cell, direction: Direction, with: Extras, mut recipe: Recipe) -> Graph {
    let mut net = Net::new(3);
    let (d, rows) = (direction.count(), cell.gates() * HIDDEN);
    let x = net.b.input("x", DType::F32, &format!("S,R,{INPUT}"));
    let constant = |net: &mut Net, name: &str, shape: &[usize]| {
        let numbers = net.n.reals(shape.iter().product());
        Some(net.b.constant(name, Tensor::of(shape, numbers)))
    };
    let w = constant(&mut net, "w", &[d, rows, INPUT]);
    let r = constant(&mut net, "r", &[d, rows, HIDDEN]);
    let b = with.bias.then(|| constant(&mut net, "b", &[d, 2 * rows])).flatten();
    let lengths = with.lengths.then(|| net.b.input("lengths", DType::I32, "B"));
    let h = with.states.then(|| net.b.input("h", DType::F32, &format!("P,Q,{HIDDEN}")));
    let mut inputs = vec![Some(x), w, r, b, lengths, h];
    let lstm = matches!(cell, Cell::Lstm { .. });
    if lstm {
        inputs.push(with.states.then(|| net.b.input("c", DType::F32, &format!("P,Q,{HIDDEN}"))));
        inputs.push(with.peepholes.then(|| constant(&mut net, "p", &[d, 3 * HIDDEN])).flatten());
    }
    let (batch_first, clip) = (with.batch_first, with.clip.then_some(0.7));
    let op = Op::Recurrent(RecurrentAttrs { direction, batch_first, clip, ..RecurrentAttrs::new(cell) });
    let y = net.b.ops("layer", op, &inputs, if lstm { 3 } else { 2 });
    let graph = net.finish(&y);
    recipe.activation.mode = ActivationMode::Dynamic;
    let stats = Stats::new([0; 32], String::new());
    crate::quantize::annotate(&Arc::new(graph), &stats, &recipe).unwrap().graph
}

/// Inputs of `time` steps for `batch` samples.
fn inputs(graph: &Graph, [time, batch]: [usize; 2], directions: usize, batch_first: bool) -> Vec<Tensor> {
    let mut n = Numbers(99);
    let one = |&v: &ValueId| {
        let (shape, name) = (|a: [usize; 3]| a, graph.value(v).name.as_str());
        let shape = match (name, batch_first) {
            ("lengths", _) => {
                let all = (0..batch).map(|b| ((time * (b + 1)).div_ceil(batch) - usize::from(b == 1)) as i32);
                return Tensor::of::<i32>(&[batch], all.collect());
            }
            ("x", false) => shape([time, batch, INPUT]),
            ("x", true) => shape([batch, time, INPUT]),
            (_, false) => shape([directions, batch, HIDDEN]),
            (_, true) => shape([batch, directions, HIDDEN]),
        };
        Tensor::of(&shape, n.reals(shape.iter().product()))
    };
    graph.inputs.iter().map(one).collect()
}

fn bits(t: &[Tensor]) -> Vec<Vec<u32>> {
    t.iter().map(|t| t.as_slice::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()).collect()
}

/// The simulator and the engine on every instruction set and some threads.
fn agreed(graph: &Graph, x: &[Tensor]) -> Vec<Tensor> {
    let program = Arc::new(lower::lower(graph, Profile::Dyadic).unwrap());
    assert!(program.steps.iter().any(|s| matches!(s.kind, StepKind::Recurrent(_))), "{:?}", program.notes);
    let want = sim::Session::new(program.clone(), 1).unwrap().run(x.to_vec()).unwrap();
    for isa in Isa::all().iter().copied().filter(|isa| isa.is_supported()) {
        for threads in 1..=3 {
            let options = int::Options { threads, isa: Some(isa), separate: false };
            let mut session = int::Session::new(program.clone(), &options).unwrap();
            for _ in 0..2 {
                assert_eq!(bits(&session.run(x.to_vec()).unwrap()), bits(&want), "{isa}, {threads} threads");
            }
        }
    }
    want
}

fn float(graph: &Graph, x: &[Tensor]) -> Vec<Tensor> {
    let mut real = graph.clone();
    for i in 0..real.value_count() {
        let v = ValueId(i as u32);
        let tensor = real.value(v).quant.is_some().then(|| graph.real_constant(v).unwrap());
        let value = real.value_mut(v);
        value.dynamic = None;
        if let Some(tensor) = tensor {
            (value.constant, value.quant) = (Some(tensor), None);
        }
    }
    let options = super::super::float::Options { threads: 1 };
    super::super::float::Session::new(Arc::new(real), &options).unwrap().run(x.to_vec()).unwrap()
}

const CELLS: [Cell; 5] = [
    Cell::Rnn,
    Cell::Gru { linear_before_reset: false },
    Cell::Gru { linear_before_reset: true },
    Cell::Lstm { input_forget: false },
    Cell::Lstm { input_forget: true },
];

#[test]
fn simulator_and_engine_agree() {
    for cell in CELLS {
        for direction in [Direction::Forward, Direction::Reverse, Direction::Bidirectional] {
            for bits in 0..16u32 {
                let is = |bit: u32| bits >> bit & 1 == 1;
                let with = Extras {
                    bias: is(0),
                    lengths: is(1),
                    states: is(2),
                    peepholes: is(0),
                    batch_first: is(3),
                    clip: is(2) && is(0),
                };
                let graph = layer(cell, direction, with, Recipe::default());
                let batch = if is(1) { 3 } else { 1 + usize::from(is(3)) };
                let x = inputs(&graph, [6, batch], direction.count(), with.batch_first);
                let (got, want) = (agreed(&graph, &x), float(&graph, &x));
                for (got, want) in got.iter().zip(&want) {
                    let (got, want) = (got.to_f32s(), want.to_f32s());
                    let power = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>();
                    let noise = power(&mut got.iter().zip(&want).map(|(a, b)| a - b));
                    // Only activations are rounded, to 8 bits over their range: a hundredth of the amplitude.
                    let snr = 10.0 * (power(&mut want.iter().copied()) / noise).log10();
                    assert!(snr > 25.0, "{cell:?} {direction:?} {bits:b}: {snr} dB");
                }
            }
        }
    }
}

/// Many rows, so that threads share the product with the inputs; other grids of weights.
#[test]
fn kinds_of_weights() {
    for (bits, signed, granularity) in [
        (8, true, WeightGranularity::Tensor),
        (8, false, WeightGranularity::Channel),
        (4, true, WeightGranularity::Channel),
        (2, true, WeightGranularity::Tensor),
    ] {
        let mut recipe = Recipe::default();
        (recipe.weight.bits, recipe.weight.signed, recipe.weight.symmetric) = (bits, signed, signed);
        recipe.weight.granularity = granularity;
        let cell = Cell::Gru { linear_before_reset: true };
        let graph = layer(cell, Direction::Bidirectional, Extras::default(), recipe);
        agreed(&graph, &inputs(&graph, [300, 2], 2, false));
    }
}

/// `h' = W x + R h + b` with numbers that can be followed.
#[test]
fn by_hand() {
    let mut net = Net::new(1);
    let x = net.b.input("x", DType::F32, "2,1,1");
    net.b.graph().value_mut(x).dynamic = Some(crate::ir::Dynamic::Tensor);
    let mut weight = |name: &str, code: i8, scale: f32| {
        let v = net.b.constant(name, Tensor::of::<i8>(&[1, 1, 1], vec![code]));
        let value = net.b.graph().value_mut(v);
        value.dtype = Some(DType::F32);
        value.quant = Some(Arc::new(QParams::channel(QType::I8, 1, vec![scale])));
        Some(v)
    };
    let (w, r) = (weight("w", 2, 0.5), weight("r", 3, 0.25));
    let b = Some(net.b.constant("b", Tensor::of::<f32>(&[1, 2], vec![0.5, 0.25])));
    let functions = vec![Gate::Affine { alpha: 1.0, beta: 0.0 }];
    let op = Op::Recurrent(RecurrentAttrs { functions, ..RecurrentAttrs::new(Cell::Rnn) });
    let y = net.b.ops("layer", op, &[Some(x), w, r, b], 1);
    let graph = net.finish(&y);
    let y = agreed(&graph, &[Tensor::of::<f32>(&[2, 1, 1], vec![2.0, -0.55])]);
    // x: scale 0.01, zero point 55, codes 255 and 0. The first state is 0: nothing is added. The second is h = 2.75: scale h / 255, zero point 0,
    // code 255.
    let sx = (2.0f32 + 0.55) / 255.0;
    let first = 400.0 * (sx * 0.5) + 0.75;
    let second = 765.0 * (first / 255.0 * 0.25) + (-110.0 * (sx * 0.5) + 0.75);
    assert_eq!(y[0].as_slice::<f32>().unwrap(), [first, second]);
}

#[test]
fn numbers_without_a_range_are_refused_by_name() {
    let with = Extras { states: true, ..Extras::default() };
    let graph = layer(Cell::Rnn, Direction::Forward, with, Recipe::default());
    let program = Arc::new(lower::lower(&graph, Profile::Dyadic).unwrap());
    let mut int = int::Session::new(program.clone(), &int::Options { threads: 2, ..Default::default() }).unwrap();
    let mut sim = sim::Session::new(program, 1).unwrap();
    for at in 0..2 {
        let mut x = inputs(&graph, [4, 1], 1, false);
        let mut broken = x[at].to_f32s();
        broken[1] = f32::NAN;
        x[at] = Tensor::of(x[at].shape(), broken);
        let e = int.run(x.clone()).unwrap_err().to_string();
        assert!(e.contains("node 'layer'") && e.contains(if at == 0 { "value 'x'" } else { "value 'layer" }), "{e}");
        assert_eq!(e, sim.run(x).unwrap_err().to_string());
    }
    // Nothing is left of it.
    assert!(int.run(inputs(&graph, [4, 1], 1, false)).is_ok());
}
