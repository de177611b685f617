//! Recurrent layers whose inputs and states are quantized as they come, on one grid or by row.
use super::*;
use crate::{
    ir::{
        Dynamic, Granularity,
        op::{Cell, Direction, Gate, RecurrentAttrs},
    },
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

const MODES: [ActivationMode; 2] = [ActivationMode::Dynamic, ActivationMode::Token];

fn recipe(mode: ActivationMode) -> Recipe {
    let mut recipe = Recipe::default();
    recipe.activation.mode = mode;
    recipe
}

/// A layer of 21, quantized by `recipe`.
fn layer(cell: Cell, direction: Direction, with: Extras, recipe: &Recipe) -> Graph {
    layer_of(HIDDEN, cell, direction, with, recipe)
}

fn layer_of(hidden: usize, cell: Cell, direction: Direction, with: Extras, recipe: &Recipe) -> Graph {
    let mut net = Net::new(3);
    let (d, rows) = (direction.count(), cell.gates() * hidden);
    let x = net.b.input("x", DType::F32, &format!("S,R,{INPUT}"));
    let constant = |net: &mut Net, name: &str, shape: &[usize]| {
        let numbers = net.n.reals(shape.iter().product());
        Some(net.b.constant(name, Tensor::of(shape, numbers)))
    };
    let w = constant(&mut net, "w", &[d, rows, INPUT]);
    let r = constant(&mut net, "r", &[d, rows, hidden]);
    let b = with.bias.then(|| constant(&mut net, "b", &[d, 2 * rows])).flatten();
    let lengths = with.lengths.then(|| net.b.input("lengths", DType::I32, "B"));
    let h = with.states.then(|| net.b.input("h", DType::F32, &format!("P,Q,{hidden}")));
    let mut inputs = vec![Some(x), w, r, b, lengths, h];
    let lstm = matches!(cell, Cell::Lstm { .. });
    if lstm {
        inputs.push(with.states.then(|| net.b.input("c", DType::F32, &format!("P,Q,{hidden}"))));
        inputs.push(with.peepholes.then(|| constant(&mut net, "p", &[d, 3 * hidden])).flatten());
    }
    let (batch_first, clip) = (with.batch_first, with.clip.then_some(0.7));
    let op = Op::Recurrent(RecurrentAttrs { direction, batch_first, clip, ..RecurrentAttrs::new(cell) });
    let y = net.b.ops("layer", op, &inputs, if lstm { 3 } else { 2 });
    let graph = net.finish(&y);
    let stats = Stats::new([0; 32], String::new());
    crate::quantize::annotate(&Arc::new(graph), &stats, recipe).unwrap().graph
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

/// Threads share the channels of a single row, and the gates of several samples.
#[test]
fn wide_layers_share_their_work() {
    let (linear, gated) = (Cell::Gru { linear_before_reset: true }, Cell::Gru { linear_before_reset: false });
    for cell in [Cell::Lstm { input_forget: false }, linear, gated] {
        for mode in MODES {
            let graph =
                layer_of(300, cell, Direction::Forward, Extras { bias: true, ..Extras::default() }, &recipe(mode));
            for batch in [1, 9] {
                let x = Tensor::of(&[2, batch, INPUT], Numbers(5).reals(2 * batch * INPUT));
                agreed(&graph, &[x]);
            }
        }
    }
}

fn float(graph: &Graph, x: &[Tensor]) -> Vec<Tensor> {
    let mut real = graph.clone();
    for i in 0..real.value_count() {
        let v = ValueId(i as u32);
        let tensor = real.value(v).constant.is_some().then(|| graph.real_constant(v).unwrap());
        let value = real.value_mut(v);
        (value.dynamic, value.quant) = (None, None);
        if tensor.is_some() {
            value.constant = tensor;
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
                let batch = if is(1) { 3 } else { 1 + usize::from(is(3)) };
                for mode in MODES {
                    let graph = layer(cell, direction, with, &recipe(mode));
                    let x = inputs(&graph, [6, batch], direction.count(), with.batch_first);
                    let (got, want) = (agreed(&graph, &x), float(&graph, &x));
                    assert_near(&got, &want, &format!("{cell:?} {direction:?} {bits:b} {mode:?}"));
                }
            }
        }
    }
}

/// Only activations are rounded, to 8 bits over their range: a hundredth of the amplitude.
fn assert_near(got: &[Tensor], want: &[Tensor], what: &str) {
    for (got, want) in got.iter().zip(want) {
        let (got, want) = (got.to_f32s(), want.to_f32s());
        let power = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>();
        let noise = power(&mut got.iter().zip(&want).map(|(a, b)| a - b));
        let snr = 10.0 * (power(&mut want.iter().copied()) / noise).log10();
        assert!(snr > 25.0, "{what}: {snr} dB");
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
        (8, false, WeightGranularity::Block(8)),
        (4, true, WeightGranularity::Block(6)),
    ] {
        for mode in MODES {
            let mut recipe = recipe(mode);
            (recipe.weight.bits, recipe.weight.signed, recipe.weight.symmetric) = (bits, signed, signed);
            recipe.weight.granularity = granularity;
            let cell = Cell::Gru { linear_before_reset: true };
            let graph = layer(cell, Direction::Bidirectional, Extras::default(), &recipe);
            agreed(&graph, &inputs(&graph, [300, 2], 2, false));
        }
    }
}

/// Weights in blocks of columns, the last of which is shorter.
#[test]
fn blocks_of_columns() {
    for cell in CELLS {
        for mode in MODES {
            let mut recipe = recipe(mode);
            recipe.weight.granularity = WeightGranularity::Block(4);
            let with = Extras { bias: true, states: true, ..Extras::default() };
            let graph = layer(cell, Direction::Bidirectional, with, &recipe);
            let x = inputs(&graph, [5, 3], 2, false);
            assert_near(&agreed(&graph, &x), &float(&graph, &x), &format!("{cell:?} {mode:?}"));
        }
    }
}

/// `h' = W x` of two numbers, each a block: each has a grid of its own, and is code 255 (or 0 of zero point 255).
#[test]
fn blocks_by_hand() {
    let mut net = Net::new(1);
    let x = net.b.input("x", DType::F32, "1,1,2");
    net.b.graph().value_mut(x).dynamic = Some(Dynamic::Row);
    let mut weight = |name: &str, codes: Vec<i8>, scale: Vec<f32>| {
        let v = net.b.constant(name, Tensor::of::<i8>(&[1, 1, codes.len()], codes));
        let value = net.b.graph().value_mut(v);
        value.dtype = Some(DType::F32);
        let granularity = Granularity::Block { axis: 2, size: 1 };
        value.quant = Some(Arc::new(QParams { granularity, ..QParams::channel(QType::I8, 2, scale) }));
        Some(v)
    };
    let (w, r) = (weight("w", vec![2, 4], vec![0.5, 0.25]), weight("r", vec![3], vec![0.25]));
    let b = Some(net.b.constant("b", Tensor::of::<f32>(&[1, 2], vec![0.5, 0.25])));
    let functions = vec![Gate::Affine { alpha: 1.0, beta: 0.0 }];
    let y = net.b.ops(
        "layer",
        Op::Recurrent(RecurrentAttrs { functions, ..RecurrentAttrs::new(Cell::Rnn) }),
        &[Some(x), w, r, b],
        1,
    );
    let y = agreed(&net.finish(&y), &[Tensor::of::<f32>(&[1, 1, 2], vec![2.0, -0.55])]);
    let want = (510.0 * (2.0f32 / 255.0 * 0.5) + 0.75) + -1020.0 * (0.55f32 / 255.0 * 0.25);
    assert_eq!(y[0].as_slice::<f32>().unwrap(), [want]);
}

/// `h' = W x + R h + b` of one number, over `times` for `samples`.
fn affine(times: usize, samples: usize, of: Dynamic) -> Graph {
    let mut net = Net::new(1);
    let x = net.b.input("x", DType::F32, &format!("{times},{samples},1"));
    net.b.graph().value_mut(x).dynamic = Some(of);
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
    net.finish(&y)
}

#[test]
fn by_hand() {
    let y = agreed(&affine(2, 1, Dynamic::Tensor), &[Tensor::of::<f32>(&[2, 1, 1], vec![2.0, -0.55])]);
    // x: scale 0.01, zero point 55, codes 255 and 0. The first state is 0: nothing is added. The second is h = 2.75: scale h / 255, zero point 0,
    // code 255.
    let sx = (2.0f32 + 0.55) / 255.0;
    let first = 400.0 * (sx * 0.5) + 0.75;
    let second = 765.0 * (first / 255.0 * 0.25) + (-110.0 * (sx * 0.5) + 0.75);
    assert_eq!(y[0].as_slice::<f32>().unwrap(), [first, second]);
}

#[test]
fn by_hand_and_row() {
    // Two samples: each number of x and of h has a grid of its own, on which it is code 255 of 255 (or 0 of zero point 255, where it is negative).
    let y = agreed(&affine(2, 2, Dynamic::Row), &[Tensor::of::<f32>(&[2, 2, 1], vec![2.0, 1e-3, -0.55, 3e4])]);
    let w = |x: f32| 510.0 * x.signum() * (x.abs() / 255.0 * 0.5) + 0.75;
    let r = |h: f32| 765.0 * (h / 255.0 * 0.25);
    let first = [w(2.0), w(1e-3)];
    assert_eq!(y[0].as_slice::<f32>().unwrap(), [first[0], first[1], r(first[0]) + w(-0.55), r(first[1]) + w(3e4)]);
}

/// By row the result of a sample is what it is alone, bit for bit; with one grid for all it is not.
#[test]
fn samples_are_what_they_are_alone() {
    const BATCH: usize = 5;
    for cell in CELLS {
        for (direction, lengths) in [(Direction::Bidirectional, false), (Direction::Forward, true)] {
            let with = Extras { bias: true, states: true, batch_first: true, lengths, ..Extras::default() };
            let [alike, differs] = MODES.map(|mode| {
                let graph = layer(cell, direction, with, &recipe(mode));
                assert_eq!(graph.is_dynamic(), mode == ActivationMode::Dynamic);
                let mut x = inputs(&graph, [6, BATCH], direction.count(), true);
                // Samples of very different size.
                let mut of = x[0].to_f32s();
                for (b, sample) in of.chunks_mut(6 * INPUT).enumerate() {
                    sample.iter_mut().for_each(|x| *x *= 10f32.powi(b as i32 - 3));
                }
                x[0] = Tensor::of(x[0].shape(), of);
                let sample = |t: &Tensor, b: usize| {
                    let (shape, each) = ([&[1], &t.shape()[1..]].concat(), t.len() / BATCH);
                    if t.dtype() == DType::F32 {
                        Tensor::of(&shape, t.as_slice::<f32>().unwrap()[b * each..][..each].to_vec())
                    } else {
                        Tensor::of(&shape, t.as_slice::<i32>().unwrap()[b * each..][..each].to_vec())
                    }
                };
                let together = agreed(&graph, &x);
                (0..BATCH).all(|b| {
                    let one: Vec<Tensor> = x.iter().map(|t| sample(t, b)).collect();
                    let want: Vec<Tensor> = together.iter().map(|t| sample(t, b)).collect();
                    bits(&agreed(&graph, &one)) == bits(&want)
                })
            });
            assert!(!alike && differs, "{cell:?} {direction:?}");
        }
    }
}

/// One value that a product, a recurrent layer and a sum read: by row when all that quantize it do, and never when a convolution does.
#[test]
fn readers_of_all_kinds() {
    let net = |conv: bool| {
        let mut net = Net::new(17);
        let x = net.b.input("x", DType::F32, "N,8,6");
        let constant = |net: &mut Net, shape: &[usize]| {
            let numbers = net.n.reals(shape.iter().product());
            net.b.constant("w", Tensor::of(shape, numbers))
        };
        let (w, r, m) = (constant(&mut net, &[1, 20, 6]), constant(&mut net, &[1, 20, 5]), constant(&mut net, &[6, 6]));
        let lstm = RecurrentAttrs { batch_first: true, ..RecurrentAttrs::new(Cell::Lstm { input_forget: false }) };
        let h = net.b.op("lstm", Op::Recurrent(lstm), &[x, w, r]);
        let y = net.b.op("product", Op::MatMul, &[x, m]);
        let sum = net.b.op("sum", Op::Binary(Binary::Add), &[x, y]);
        let mut outputs = vec![h, sum];
        if conv {
            let w = constant(&mut net, &[3, 8, 1]);
            outputs.push(net.b.op("conv", Op::Conv(ConvAttrs { group: 1, ..Default::default() }), &[x, w]));
        }
        net.finish(&outputs)
    };
    let stats = Stats::new([0; 32], String::new());
    let run = |graph: &Graph, recipe: &Recipe| {
        let quantized = crate::quantize::annotate(&Arc::new(graph.clone()), &stats, recipe).unwrap();
        let x = quantized.graph.find("x").unwrap();
        let inputs = Tensor::of(&[3, 8, 6], Numbers(8).reals(144));
        agreed(&quantized.graph, &[inputs]);
        (quantized.graph.value(x).dynamic, quantized.messages)
    };
    let token = recipe(ActivationMode::Token);
    assert_eq!(run(&net(false), &token), (Some(Dynamic::Row), vec![]));
    let (of, messages) = run(&net(true), &token);
    assert!(of == Some(Dynamic::Tensor) && messages[0].contains("1 values have one grid"), "{messages:?}");
    let one =
        Recipe::from_toml("[activation]\nmode = \"token\"\n[[layer]]\nop = \"LSTM\"\nactivation.mode = \"dynamic\"")
            .unwrap();
    let (of, messages) = run(&net(false), &one);
    assert!(of == Some(Dynamic::Tensor) && messages[0].contains("1 values have one grid"), "{messages:?}");
}

#[test]
fn numbers_without_a_range_are_refused_by_name() {
    MODES.into_iter().for_each(refused);
}

fn refused(mode: ActivationMode) {
    let with = Extras { states: true, ..Extras::default() };
    let graph = layer(Cell::Rnn, Direction::Forward, with, &recipe(mode));
    let program = Arc::new(lower::lower(&graph, Profile::Dyadic).unwrap());
    let mut int = int::Session::new(program.clone(), &int::Options { threads: 2, ..Default::default() }).unwrap();
    let mut sim = sim::Session::new(program, 1).unwrap();
    for at in 0..2 {
        let mut x = inputs(&graph, [4, 2], 1, false);
        let mut broken = x[at].to_f32s();
        broken[1] = f32::NAN;
        x[at] = Tensor::of(x[at].shape(), broken);
        let e = int.run(x.clone()).unwrap_err().to_string();
        assert!(e.contains("node 'layer'") && e.contains(if at == 0 { "value 'x'" } else { "value 'layer" }), "{e}");
        assert_eq!(e, sim.run(x).unwrap_err().to_string());
    }
    // Nothing is left of it.
    assert!(int.run(inputs(&graph, [4, 2], 1, false)).is_ok());
}

/// The same layer on grids that are known: 8 bits and fewer, signed and not.
#[test]
fn grids_that_are_known() {
    for cell in CELLS {
        for (direction, qtype) in [
            (Direction::Forward, QType::U8),
            (Direction::Bidirectional, QType::I8),
            (Direction::Reverse, QType { bits: 5, signed: false, narrow: false }),
        ] {
            let with = Extras { bias: true, states: true, ..Extras::default() };
            let mut graph = layer(cell, direction, with, &recipe(ActivationMode::Dynamic));
            let states = graph.nodes().next().unwrap().1.output(0).unwrap();
            let levels = qtype.levels() as f32 - 1.0;
            let zero = qtype.min() + qtype.levels() as i32 / 2;
            for v in [graph.inputs[0], states] {
                let value = graph.value_mut(v);
                (value.dynamic, value.quant) = (None, Some(Arc::new(QParams::tensor(qtype, 2.0 / levels, zero))));
            }
            let d = direction.count();
            let got = agreed(&graph, &inputs(&graph, [5, 3], d, false));
            // One step: numbers that are off by 2 / levels / sqrt(12) on average, times 28 weights of 0.58 on average, are 1.8 / levels in a gate.
            let x = inputs(&graph, [1, 3], d, false);
            let (one, want) = (agreed(&graph, &x), float(&graph, &x));
            let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
            let sum: f64 = one[0].to_f32s().iter().zip(want[0].to_f32s().iter()).map(square).sum();
            let error = (sum / one[0].len() as f64).sqrt();
            assert!(error < 3.0 / f64::from(levels), "{cell:?} {qtype}: {error}");
            // What the layer shows are codes.
            for y in got[0].to_f32s().iter() {
                let code = y / (2.0 / levels);
                assert!((code - code.round()).abs() < 1e-3, "{y}");
            }
        }
    }
}
