//! Weights of 4 and 2 bits in the integer engine: the bits of the simulator, which knows nothing of how they lie, on every
//! instruction set, from memory and from a file.

use crate::networks::{bits, program, simulate};
use bytes::Bytes;
use nnq::{
    exec::{int, lower::Profile},
    ir::{DType, Graph, Op, QParams, QType, Shape, Tensor, ValueId, op::ConvAttrs},
};
use nnq_kernels::Isa;
use std::sync::Arc;

fn number(i: usize) -> usize {
    (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i << 7) >> 33
}

/// A graph in the making: each layer reads the one before.
struct Net {
    g: Graph,
    x: ValueId,
    weight: QType,
}

impl Net {
    /// Of two pictures of 9 x 7 pixels.
    fn new(channels: usize, weight: QType) -> Self {
        let mut g = Graph::new("narrow");
        let x = g.add_value("x", Some(DType::F32), Some(Shape::fixed(&[2, channels, 9, 7]))).unwrap();
        g.value_mut(x).quant = Some(Arc::new(QParams::tensor(QType::U8, 0.02, 99)));
        g.inputs.push(x);
        Self { g, x, weight }
    }
    /// Random codes, one scale for each output channel.
    fn weight(&mut self, shape: &[usize], axis: usize) -> ValueId {
        let (n, q) = (shape.iter().product(), self.weight);
        let code = |i: usize| q.min() + (number(i + n) % q.levels() as usize) as i32;
        let t = match q.signed {
            true => Tensor::of(shape, (0..n).map(|i| code(i) as i8).collect()),
            false => Tensor::of(shape, (0..n).map(|i| code(i) as u8).collect()),
        };
        let w = self.g.add_constant("w", Arc::new(t));
        // The same range of real numbers for every grid.
        let scale = |i: usize| (0.001 + i as f32 / 65536.0) * 256.0 / q.levels() as f32;
        let mut p = QParams::channel(q, axis, (0..shape[axis]).map(scale).collect());
        if !q.signed {
            p.zero_point = (0..shape[axis]).map(|i| (number(i) % q.levels() as usize) as i32).collect();
        }
        let v = self.g.value_mut(w);
        (v.dtype, v.quant) = (Some(DType::F32), Some(Arc::new(p)));
        w
    }
    fn layer(&mut self, op: Op, w: Option<ValueId>, scale: Option<f32>) {
        let name = format!("v{}", self.g.value_count());
        let y = self.g.add_value(&name, Some(DType::F32), None).unwrap();
        self.g.value_mut(y).quant = scale.map(|s| Arc::new(QParams::tensor(QType::U8, s, 120)));
        let inputs = std::iter::once(Some(self.x)).chain(w.map(Some)).collect();
        self.g.add_node(&format!("n{name}"), op, inputs, vec![Some(y)]);
        self.x = y;
    }
    fn conv(&mut self, shape: [usize; 4], group: usize) {
        let pad = (shape[2] / 2) as i64;
        let w = self.weight(&shape, 0);
        let attrs = ConvAttrs { kernel: shape[2..].to_vec(), pads: vec![pad; 4], group, ..ConvAttrs::default() };
        self.layer(Op::Conv(attrs), Some(w), Some(0.05));
    }
    /// Products of more than 64 KiB and fewer, of odd numbers of channels, in groups, for each channel, and of one row.
    fn of(weight: QType) -> Graph {
        let mut n = Self::new(96, weight);
        n.conv([101, 96, 3, 3], 1);
        n.conv([300, 101, 1, 1], 1);
        n.conv([300, 1, 3, 3], 300);
        n.conv([130, 150, 3, 3], 2);
        n.conv([17, 130, 1, 1], 1);
        n.conv([515, 17, 3, 3], 1);
        n.layer(Op::GlobalAveragePool, None, Some(0.02));
        n.layer(Op::Flatten { axis: 1 }, None, Some(0.02));
        let w = n.weight(&[515, 333], 1);
        n.layer(Op::MatMul, Some(w), None);
        n.g.outputs.push(n.x);
        n.g
    }
}

#[test]
fn every_instruction_set_and_file() {
    let grid = |bits: u8, signed: bool| QType { bits, signed, narrow: false };
    let x = Tensor::of(&[2, 96, 9, 7], (0..2 * 96 * 63).map(|i| (number(i) % 997) as f32 / 190.0 - 2.0).collect());
    let mut wide = None;
    for q in [grid(8, true), grid(4, true), grid(3, true), grid(2, true), grid(4, false), grid(2, false)] {
        let mut graph = Net::of(q);
        nnq::ir::infer::infer(&mut graph).unwrap();
        for profile in [Profile::Dyadic, Profile::Onnx] {
            let p = program(&graph, profile);
            assert_eq!(p.integer_share().1, 0, "{:?}", p.notes);
            let want = bits(&simulate(&p, &x));
            assert!(want.iter().collect::<std::collections::HashSet<_>>().len() > 100, "{q}: outputs that say nothing");
            for &isa in Isa::all() {
                if !isa.is_supported() {
                    println!("NOT TESTED: the instruction set {isa}");
                    continue;
                }
                for threads in [1, 2] {
                    let options = int::Options { threads, isa: Some(isa), separate: false };
                    let mut session = int::Session::new(p.clone(), &options).unwrap();
                    assert!(bits(&session.run(vec![x.clone()]).unwrap()[0]) == want, "{q} {profile} {isa} {threads}");
                    let shapes = vec![x.shape().to_vec()];
                    let file = Bytes::from(session.compile(vec![shapes.clone()]).unwrap());
                    let mut loaded = int::Session::from_compiled(&file, &options).unwrap();
                    let got = bits(&loaded.run(vec![x.clone()]).unwrap()[0]);
                    assert!(got == want, "{q} {profile} {isa} {threads}, from a file");
                    let weights = session.memory(&shapes).weights;
                    assert_eq!(loaded.memory(&shapes).weights, weights, "{q} {isa}");
                    println!("{q} {isa}: {weights} bytes of weights, a file of {}", file.len());
                    if isa == Isa::best() {
                        let (weights_8, file_8) = *wide.get_or_insert((weights, file.len()));
                        let share = |n: usize, of: usize| n as f64 / of as f64;
                        // What is no weight, and small products in memory, keep their bytes.
                        match q.bits {
                            8 => {}
                            3 | 4 => assert!(share(file.len(), file_8) < 0.6 && share(weights, weights_8) < 0.65),
                            _ => assert!(share(file.len(), file_8) < 0.35 && share(weights, weights_8) < 0.45),
                        }
                    }
                }
            }
        }
    }
}
