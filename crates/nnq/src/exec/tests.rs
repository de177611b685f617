//! The simulator and the integer engine give the same bits, on every instruction set, for every profile and thread count.
mod attention;
mod coded;
mod dynamic;
mod integers;
mod live;
mod recurrent;
mod resize;
mod rows;
mod wide;

use super::{int, lower, sim};
use crate::ir::{
    DType, Graph, GraphBuilder, Op, QParams, QType, Tensor, ValueId,
    op::{Binary, ConvAttrs, PadMode, PoolAttrs, Unary},
};
use lower::{Profile, StepKind};
use nnq_kernels::Isa;
use std::sync::Arc;

/// A small generator of test numbers.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn real(&mut self) -> f32 {
        (self.below(1 << 20) as f32 / (1 << 19) as f32) - 1.0
    }
    fn reals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.real()).collect()
    }
}

struct Net {
    b: GraphBuilder,
    n: Numbers,
}

impl Net {
    fn new(seed: u64) -> Self {
        Self { b: GraphBuilder::new("net"), n: Numbers(seed | 1) }
    }
    fn input(&mut self, shape: &str) -> ValueId {
        let x = self.b.input("x", DType::F32, shape);
        self.grid(x, QType::U8, 0.017, 120);
        x
    }
    fn grid(&mut self, v: ValueId, qtype: QType, scale: f32, zero: i32) -> ValueId {
        self.b.graph().value_mut(v).quant = Some(Arc::new(QParams::tensor(qtype, scale, zero)));
        v
    }
    /// A random activation grid.
    fn any_grid(&mut self, v: ValueId) -> ValueId {
        let signed = self.n.below(4) == 0;
        let bits = if self.n.below(5) == 0 { 4 + self.n.below(4) as u8 } else { 8 };
        let qtype = QType { bits, signed, narrow: false };
        let zero = qtype.min() + self.n.below(qtype.levels()) as i32;
        let scale = 0.004 + self.n.below(1000) as f32 * 3e-5 * 256.0 / qtype.levels() as f32;
        self.grid(v, qtype, scale, zero)
    }
    fn weight(&mut self, shape: &[usize], axis: usize) -> ValueId {
        let n: usize = shape.iter().product();
        let unsigned = self.n.below(6) == 0;
        let v = if unsigned {
            let codes: Vec<u8> = (0..n).map(|_| self.n.next() as u8).collect();
            self.b.constant("w", Tensor::of(shape, codes))
        } else {
            let codes: Vec<i8> = (0..n).map(|_| self.n.next() as i8).collect();
            self.b.constant("w", Tensor::of(shape, codes))
        };
        let channels = shape[axis];
        let scale = (0..channels).map(|_| 0.0005 + self.n.below(1000) as f32 * 3e-6).collect();
        let mut q = QParams::channel(if unsigned { QType::U8 } else { QType::I8 }, axis, scale);
        if unsigned {
            q.zero_point = (0..channels).map(|_| self.n.below(256) as i32).collect();
        }
        let value = self.b.graph().value_mut(v);
        value.dtype = Some(DType::F32);
        value.quant = Some(Arc::new(q));
        v
    }
    fn bias(&mut self, n: usize) -> ValueId {
        let b = self.n.reals(n);
        self.b.constant("b", Tensor::of(&[n], b))
    }
    fn conv(
        &mut self,
        x: ValueId,
        c_in: usize,
        c_out: usize,
        kernel: [usize; 2],
        group: usize,
        attrs: ConvAttrs,
    ) -> ValueId {
        let w = self.weight(&[c_out, c_in / group, kernel[0], kernel[1]], 0);
        let b = self.bias(c_out);
        self.b.op("conv", Op::Conv(ConvAttrs { group, ..attrs }), &[x, w, b])
    }
    fn finish(self, outputs: &[ValueId]) -> Graph {
        let mut b = self.b;
        for &v in outputs {
            b.output(v);
        }
        b.finish().unwrap()
    }
}

/// Runs a graph everywhere and compares bits; answers the outputs under profile dyadic and the kinds of steps.
#[allow(clippy::print_stderr)]
fn agree(graph: &Graph, shape: &[usize], seed: u64) -> (Vec<Tensor>, Vec<StepKind>) {
    let mut n = Numbers(seed | 1);
    let mut first = None;
    let mut kinds = Vec::new();
    let x = Tensor::of(shape, n.reals(shape.iter().product()).iter().map(|v| v * 3.0).collect::<Vec<f32>>());
    for profile in [Profile::Onnx, Profile::Dyadic] {
        let program = Arc::new(lower::lower(graph, profile).unwrap());
        kinds = program.steps.iter().map(|s| s.kind.clone()).collect();
        let want = sim::Session::new(program.clone(), 1).unwrap().run(vec![x.clone()]).unwrap();
        for &isa in Isa::all() {
            if !isa.is_supported() {
                eprintln!("not on this machine: {isa}");
                continue;
            }
            for (threads, separate) in [(1, false), (2, true), (2, false)] {
                let options = int::Options { threads, isa: Some(isa), separate };
                let mut session = int::Session::new(program.clone(), &options).unwrap();
                for round in 0..2 {
                    let got = session.run(vec![x.clone()]).unwrap();
                    for (w, g) in want.iter().zip(&got) {
                        assert_eq!(w.shape(), g.shape());
                        let same = w.as_slice::<f32>().unwrap().iter().zip(g.as_slice::<f32>().unwrap());
                        let differ = same.filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                        assert_eq!(differ, 0, "{profile} {isa} {threads} threads round {round} of {}", w.len());
                    }
                }
            }
        }
        first = Some(want);
    }
    (first.unwrap(), kinds)
}

#[test]
fn convolutions() {
    let cases: &[(usize, usize, [usize; 2], usize, ConvAttrs)] = &[
        (3, 16, [3, 3], 1, ConvAttrs { pads: vec![1; 4], ..Default::default() }),
        (3, 7, [7, 7], 1, ConvAttrs { pads: vec![3; 4], strides: vec![2, 2], ..Default::default() }),
        (1, 5, [5, 3], 1, ConvAttrs { pads: vec![2, 1, 0, 1], ..Default::default() }),
        (17, 33, [1, 1], 1, ConvAttrs::default()),
        (16, 8, [1, 1], 1, ConvAttrs { strides: vec![2, 2], ..Default::default() }),
        (24, 24, [3, 3], 24, ConvAttrs { pads: vec![1; 4], ..Default::default() }),
        (40, 40, [5, 5], 40, ConvAttrs { pads: vec![2; 4], strides: vec![2, 2], ..Default::default() }),
        (12, 18, [3, 3], 3, ConvAttrs { pads: vec![1; 4], ..Default::default() }),
        (6, 12, [3, 3], 6, ConvAttrs { pads: vec![1; 4], ..Default::default() }),
        (8, 8, [3, 3], 1, ConvAttrs { pads: vec![2; 4], dilations: vec![2, 2], ..Default::default() }),
    ];
    for (i, (c_in, c_out, k, group, attrs)) in cases.iter().enumerate() {
        for activation in 0..3 {
            let mut net = Net::new(77 + i as u64 * 3 + activation);
            let x = net.input(&format!("N, {c_in}, 11, 9"));
            let y = net.conv(x, *c_in, *c_out, *k, *group, attrs.clone());
            let y = match activation {
                0 => net.any_grid(y),
                1 => {
                    let r = net.b.op("relu", Op::Unary(Unary::Relu), &[y]);
                    net.grid(r, QType::U8, 0.02, 0)
                }
                // Real output.
                _ => y,
            };
            let graph = net.finish(&[y]);
            let (out, kinds) = agree(&graph, &[2, *c_in, 11, 9], 5 + i as u64);
            assert!(kinds.iter().any(|k| matches!(k, StepKind::Product(_))), "case {i} runs in integers");
            assert!(!kinds.iter().any(|k| matches!(k, StepKind::Float(_))), "case {i} runs in integers only");
            let distinct: std::collections::BTreeSet<u32> =
                out[0].as_slice::<f32>().unwrap().iter().map(|v| v.to_bits()).collect();
            assert!(distinct.len() > 3, "case {i} says something: {distinct:?}");
        }
    }
}

#[test]
fn rows() {
    // One-dimensional convolution and pooling.
    let mut net = Net::new(3);
    let x = net.input("N, 6, 40");
    let w = net.weight(&[10, 6, 5], 0);
    let y = net.b.op(
        "conv",
        Op::Conv(ConvAttrs { group: 1, strides: vec![2], pads: vec![2, 1], ..Default::default() }),
        &[x, w],
    );
    let y = net.any_grid(y);
    let q = net.b.graph().value(y).quant.clone();
    let y = net.b.op(
        "pool",
        Op::MaxPool { window: PoolAttrs { kernel: vec![3], ..Default::default() }, column_major: false },
        &[y],
    );
    net.b.graph().value_mut(y).quant = q;
    let y = net.b.op(
        "mean",
        Op::AveragePool {
            window: PoolAttrs { kernel: vec![2], strides: vec![2], ..Default::default() },
            count_include_pad: false,
        },
        &[y],
    );
    let y = net.any_grid(y);
    let graph = net.finish(&[y]);
    agree(&graph, &[3, 6, 40], 9);
}

#[test]
fn residual_network() {
    for seed in 0..12 {
        let mut net = Net::new(1000 + seed);
        let x = net.input("N, 3, 12, 12");
        let pad = |s: usize| ConvAttrs { pads: vec![1; 4], strides: vec![s, s], ..Default::default() };
        let a = net.conv(x, 3, 8, [3, 3], 1, pad(1));
        let a = net.b.op("r", Op::Unary(Unary::Relu), &[a]);
        let a = net.any_grid(a);
        let b = net.conv(a, 8, 16, [3, 3], 1, pad(2));
        let b = net.any_grid(b);
        // Shortcut by striding and padding channels.
        let (starts, ends) = (net.b.ints("s", &[0, 0]), net.b.ints("e", &[1 << 40, 1 << 40]));
        let (axes, steps) = (net.b.ints("a", &[2, 3]), net.b.ints("t", &[2, 2]));
        let s = net.b.op("slice", Op::Slice, &[a, starts, ends, axes, steps]);
        let pads = net.b.ints("p", &[0, 4, 0, 0, 0, 4, 0, 0]);
        let s = net.b.op("pad", Op::Pad { mode: PadMode::Constant }, &[s, pads]);
        let y = net.b.op("add", Op::Binary(Binary::Add), &[b, s]);
        let y = net.b.op("r2", Op::Unary(Unary::Relu), &[y]);
        let y = net.any_grid(y);
        // A gate: mean over the image, sigmoid, product.
        let g = net.b.op("gap", Op::GlobalAveragePool, &[y]);
        let g = net.any_grid(g);
        let g = net.b.op("sigmoid", Op::Unary(Unary::Sigmoid), &[g]);
        let g = net.grid(g, QType::U8, 1.0 / 256.0, 0);
        let m = net.b.op("gate", Op::Binary(Binary::Mul), &[y, g]);
        let m = net.any_grid(m);
        let h = net.b.op("swish", Op::Unary(Unary::HardSwish), &[m]);
        let h = net.any_grid(h);
        let d = net.b.op("sub", Op::Binary(Binary::Sub), &[h, y]);
        let d = net.any_grid(d);
        let window = PoolAttrs {
            kernel: vec![3, 3],
            strides: vec![2, 2],
            pads: vec![1; 4],
            ceil_mode: seed % 2 == 0,
            ..Default::default()
        };
        let p = net.b.op("max", Op::MaxPool { window: window.clone(), column_major: false }, &[d]);
        let p = net.any_grid(p);
        let q = net.b.op("mean", Op::AveragePool { window, count_include_pad: seed % 3 == 0 }, &[d]);
        let q = net.any_grid(q);
        let c = net.b.op("concat", Op::Concat { axis: 1 }, &[p, q]);
        let c = net.any_grid(c);
        let f = net.b.op("flatten", Op::Flatten { axis: 1 }, &[c]);
        let side = if seed % 2 == 0 { 4 } else { 3 };
        let w = net.weight(&[32 * side * side, 10], 1);
        let bias = net.bias(10);
        let y = net.b.op("fc", Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: false }, &[f, w, bias]);
        let graph = net.finish(&[y, c]);
        let (_, kinds) = agree(&graph, &[if seed % 2 == 0 { 2 } else { 4 }, 3, 12, 12], seed);
        assert!(!kinds.iter().any(|k| matches!(k, StepKind::Float(_))), "everything runs in integers");
    }
}

#[test]
fn means_of_real_numbers() {
    for (i, activation) in ["none", "relu", "clip"].into_iter().enumerate() {
        for (batch, side, c_out) in [(1, 7, 70), (4, 13, 33), (5, 1, 4), (8, 40, 16)] {
            let mut net = Net::new(50 + i as u64);
            let x = net.input(&format!("N, 9, {side}, {side}"));
            let y = net.conv(x, 9, c_out, [1, 1], 1, ConvAttrs::default());
            let y = match activation {
                "relu" => net.b.op("relu", Op::Unary(Unary::Relu), &[y]),
                "clip" => {
                    let bound = |net: &mut Net, v: f32| net.b.constant("bound", Tensor::scalar(v));
                    let (lo, hi) = (bound(&mut net, -0.25), bound(&mut net, 0.5));
                    net.b.op("clip", Op::Clip, &[y, lo, hi])
                }
                _ => y,
            };
            let y = net.b.op("mean", Op::GlobalAveragePool, &[y]);
            let y = net.b.op("flatten", Op::Flatten { axis: 1 }, &[y]);
            let y = net.b.op("softmax", Op::Softmax { axis: 1, flat: false }, &[y]);
            let graph = net.finish(&[y]);
            agree(&graph, &[batch, 9, side, side], 3);
            let program = Arc::new(lower::lower(&graph, Profile::Onnx).unwrap());
            let mut session = int::Session::new(program, &int::Options { threads: 1, ..Default::default() }).unwrap();
            let shape = [batch, 9, side, side];
            let x = Tensor::of(&shape, vec![0.5f32; shape.iter().product()]);
            let (_, times) = session.run_timed(vec![x]).unwrap();
            let kinds: Vec<&str> = times.iter().map(|t| t.kind.as_str()).collect();
            assert!(kinds.contains(&"conv 1x1 + mean") && !kinds.contains(&"float GlobalAveragePool"), "{kinds:?}");
        }
    }
}

#[test]
fn large_batches_go_in_parts() {
    let mut net = Net::new(8);
    let x = net.input("N, 8, 96, 96");
    let pad = ConvAttrs { pads: vec![1; 4], ..Default::default() };
    let y = net.conv(x, 8, 32, [3, 3], 1, pad.clone());
    let y = net.any_grid(y);
    let z = net.conv(y, 32, 8, [3, 3], 1, pad);
    let z = net.any_grid(z);
    let graph = net.finish(&[z]);
    let program = Arc::new(lower::lower(&graph, Profile::Dyadic).unwrap());
    let shape = [12, 8, 96, 96];
    let x = Tensor::of(&shape, net_numbers(shape.iter().product()));
    let run = |separate: bool, threads: usize| {
        let options = int::Options { threads, separate, ..Default::default() };
        let mut session = int::Session::new(program.clone(), &options).unwrap();
        let y = session.run(vec![x.clone()]).unwrap().remove(0);
        (y.as_slice::<f32>().unwrap().to_vec(), session.memory(&[shape.to_vec()]))
    };
    let (expected, whole) = run(true, 1);
    for threads in 1..=3 {
        let (got, memory) = run(false, threads);
        assert!(got == expected, "{threads} threads");
        // Each part has the room behind its values that kernels may read.
        let slack = 4 * nnq_kernels::SLACK;
        assert!(memory.arena <= (whole.arena / 3 + slack) * threads, "{memory:?} of {whole:?}");
        // Inputs and outputs are there from the first part to the last.
        let real = 2 * size_of::<f32>() * x.len();
        assert!(memory.live > real && memory.live <= real + memory.arena, "{memory:?} of {whole:?}");
    }
}

fn net_numbers(n: usize) -> Vec<f32> {
    Numbers(5).reals(n)
}

#[test]
fn too_large_a_bias_is_refused() {
    let mut net = Net::new(5);
    let x = net.input("N, 4");
    let w = net.weight(&[2, 4], 0);
    let b = net.b.constant("b", Tensor::of(&[2], vec![1e9f32, 0.0]));
    let y = net.b.op("fc", Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true }, &[x, w, b]);
    let graph = net.finish(&[y]);
    let e = lower::lower(&graph, Profile::Dyadic).unwrap_err().to_string();
    assert!(e.contains("node 'fc'") && e.contains("bias") && e.contains("channel 0"), "{e}");
}

#[test]
fn an_overflowing_accumulator_is_refused() {
    let mut net = Net::new(5);
    let k = 70_000;
    let x = net.input(&format!("N, {k}"));
    let w = net.b.constant("w", Tensor::of(&[1, k], vec![127i8; k]));
    let value = net.b.graph().value_mut(w);
    value.dtype = Some(DType::F32);
    value.quant = Some(Arc::new(QParams::channel(QType::I8, 0, vec![0.01])));
    let y = net.b.op("fc", Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true }, &[x, w]);
    let graph = net.finish(&[y]);
    // 70,000 * 127 * 135 (zero point 120: codes reach 135 above it) = 1,200,150,000 fits; with zero point 0 it would not.
    assert!(lower::lower(&graph, Profile::Dyadic).is_ok());
    let mut worse = graph.clone();
    let x = worse.inputs[0];
    worse.value_mut(x).quant = Some(Arc::new(QParams::tensor(QType::U8, 0.01, 0)));
    let e = lower::lower(&worse, Profile::Dyadic).unwrap_err().to_string();
    assert!(e.contains("2266950000") && e.contains("weight 'w'"), "{e}");
}
