//! Attention, normalisation, factors and sums of 16 bits in integers (numerics section 14).
use super::*;
use crate::exec::float;

const U16: QType = QType { bits: 16, signed: false, narrow: false };
const I16: QType = QType { bits: 16, signed: true, narrow: false };

/// A float graph, and the same with grids. What both compute lies close together where the second obeys the page.
struct Pair {
    net: Net,
    grids: Vec<(ValueId, QType, f32, i32)>,
}

impl Pair {
    fn new(seed: u64) -> Self {
        Self { net: Net::new(seed), grids: Vec::new() }
    }
    fn grid(&mut self, v: ValueId, qtype: QType, scale: f32, zero: i32) -> ValueId {
        self.grids.push((v, qtype, scale, zero));
        v
    }
    fn op(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> ValueId {
        self.net.b.op(name, op, inputs)
    }
    fn constant(&mut self, name: &str, shape: &[usize], numbers: Vec<f32>) -> ValueId {
        self.net.b.constant(name, Tensor::of(shape, numbers))
    }
    /// `(float, with grids)`.
    fn finish(self, outputs: &[ValueId]) -> (Graph, Graph) {
        let float = self.net.finish(outputs);
        let mut graph = float.clone();
        for (v, qtype, scale, zero) in self.grids {
            graph.value_mut(v).quant = Some(Arc::new(QParams::tensor(qtype, scale, zero)));
        }
        (float, graph)
    }
}

/// The largest difference between what the float graph and the integer program make of numbers that `agree` feeds.
fn apart(float: &Graph, got: &[Tensor], shape: &[usize], seed: u64, grid: (f32, i32)) -> f32 {
    let mut n = Numbers(seed | 1);
    // On the grid of the input.
    let reals = n.reals(shape.iter().product());
    let x = reals.iter().map(|v| {
        let q = ((v * 3.0 / grid.0).round_ties_even() as i32 + grid.1).clamp(0, 255);
        (q - grid.1) as f32 * grid.0
    });
    let x = Tensor::of(shape, x.collect::<Vec<f32>>());
    let mut plain = float.clone();
    for v in plain.inputs.clone() {
        plain.value_mut(v).quant = None;
    }
    let mut session = float::Session::new(Arc::new(plain), &float::Options { threads: 1 }).unwrap();
    let want = session.run(vec![x]).unwrap();
    let mut most = 0f32;
    for (w, g) in want.iter().zip(got) {
        for (w, g) in w.as_slice::<f32>().unwrap().iter().zip(g.as_slice::<f32>().unwrap()) {
            most = most.max((w - g).abs());
        }
    }
    most
}

fn no_floats(kinds: &[StepKind]) {
    assert!(!kinds.iter().any(|k| matches!(k, StepKind::Float(_))), "{kinds:?}");
}

/// What is added to scores.
#[derive(Clone, Copy, Debug)]
enum Hides<'a> {
    Nothing,
    /// Constants of this shape.
    Constant(&'a [usize]),
    /// `(1 - seen) * -10000`, where `seen` says for each token whether the sum of its numbers is above 0; with one factor, or one for each token.
    Tokens {
        one: bool,
    },
}

/// `heads` heads of self-attention over the channels of the input, with or without a mask, as exporters write it.
fn attention(heads: usize, mask: Hides, seed: u64) -> (Graph, Graph) {
    let (width, t) = (8 * heads, 6);
    let mut p = Pair::new(seed);
    let x = p.net.input(&format!("N, {t}, {width}"));
    let split = |p: &mut Pair, name: &str, perm: Vec<usize>| {
        let shape = p.net.b.constant(&format!("{name}.shape"), Tensor::of(&[4], vec![0i64, 0, heads as i64, 8]));
        let y = p.op(&format!("{name}.split"), Op::Reshape { allowzero: false }, &[x, shape]);
        p.grid(y, QType::U8, 0.017, 120);
        let y = p.op(&format!("{name}.turn"), Op::Transpose { perm }, &[y]);
        p.grid(y, QType::U8, 0.017, 120)
    };
    let q = split(&mut p, "q", vec![0, 2, 1, 3]);
    let k = split(&mut p, "k", vec![0, 2, 3, 1]);
    let v = split(&mut p, "v", vec![0, 2, 1, 3]);
    let scores = p.op("scores", Op::MatMul, &[q, k]);
    let root = p.constant("root", &[], vec![2.83]);
    let mut y = p.op("scaled", Op::Binary(Binary::Div), &[scores, root]);
    p.grid(y, QType::U8, 0.09, 125);
    let mask = match mask {
        Hides::Nothing => None,
        Hides::Constant(shape) => {
            let n = shape.iter().product();
            let numbers = (0..n).map(|i| if i % 5 == 2 { f32::NEG_INFINITY } else { 0.01 * i as f32 }).collect();
            Some(p.constant("mask", shape, numbers))
        }
        Hides::Tokens { one } => {
            let (last, inner) = (p.net.b.ints("last", &[-1]), p.net.b.ints("inner", &[1, 2]));
            let (zero, unit) = (p.constant("zero", &[], vec![0.0]), p.constant("unit", &[1], vec![1.0]));
            let far = if one { p.constant("far", &[], vec![-1e4]) } else { p.constant("far", &[t], vec![-1e4; t]) };
            let sum = Op::Reduce { kind: crate::ir::op::Reduction::Sum, keepdims: false, noop_with_empty_axes: false };
            let sums = p.op("sums", sum, &[x, last]);
            let seen = p.op("seen_at_all", Op::Binary(Binary::Greater), &[sums, zero]);
            let seen = p.op("cast", Op::Cast { to: DType::F32, saturate: true }, &[seen]);
            let hidden = p.op("hidden", Op::Binary(Binary::Sub), &[unit, seen]);
            let hidden = p.op("far_away", Op::Binary(Binary::Mul), &[hidden, far]);
            Some(p.op("wide", Op::Unsqueeze, &[hidden, inner]))
        }
    };
    if let Some(mask) = mask {
        y = p.op("masked", Op::Binary(Binary::Add), &[y, mask]);
    }
    let shares = p.op("shares", Op::Softmax { axis: -1, flat: false }, &[y]);
    p.grid(shares, QType::U8, 1.0 / 255.0, 0);
    let y = p.op("seen", Op::MatMul, &[shares, v]);
    p.grid(y, QType::I8, 0.02, -5);
    p.finish(&[y])
}

#[test]
fn attention_computes_in_integers() {
    let constant = [&[1, 1, 1, 6][..], &[6, 6], &[1, 1, 6, 6]].map(Hides::Constant);
    for (i, mask) in [Hides::Nothing].into_iter().chain(constant).enumerate() {
        for (heads, batch) in [(1, 1), (3, 2)] {
            let (float, graph) = attention(heads, mask, 3 + i as u64);
            let shape = [batch, 6, 8 * heads];
            let (got, kinds) = agree(&graph, &shape, 77);
            no_floats(&kinds);
            assert_eq!(kinds.iter().filter(|k| matches!(k, StepKind::Pair(_))).count(), 2, "{kinds:?}");
            assert!(kinds.iter().any(|k| matches!(k, StepKind::Softmax(_))));
            // Half a step of the scores tilts the mean of numbers within 2.17 of their middle, half a step of each of the six shares of numbers up to 2.3, and
            // half a step of the result.
            let most = apart(&float, &got, &shape, 77, (0.017, 120));
            assert!(most < 0.045 * 2.17 + 6.0 * 2.3 / 510.0 + 0.01, "{mask:?}: {most}");
            assert!(most > 1e-4, "codes are rounded: {most}");
        }
    }
}

/// A mask that comes of whole numbers is a table of them: nothing computes it in floating point, and its bits are those of the real mask.
#[test]
fn masks_of_numbers_are_tables() {
    for (heads, batch) in [(1, 1), (3, 4)] {
        let run = |one| {
            let (float, graph) = attention(heads, Hides::Tokens { one }, 5);
            let shape = [batch, 6, 8 * heads];
            let (got, kinds) = agree(&graph, &shape, 78);
            let most = apart(&float, &got, &shape, 78, (0.017, 120));
            // Whether a token is seen may hang on the last bit of a sum.
            assert!(most < 0.2, "{most}");
            (got, kinds)
        };
        let ((table, kinds), (real, real_kinds)) = (run(true), run(false));
        assert_eq!(table[0].as_slice::<f32>().unwrap(), real[0].as_slice::<f32>().unwrap());
        let floats = |kinds: &[StepKind]| kinds.iter().filter(|k| matches!(k, StepKind::Float(_))).count();
        // The sums, what is above 0 and its place among the axes; besides the cast, the difference and the product.
        assert_eq!((floats(&kinds), floats(&real_kinds)), (3, 6), "{kinds:?}");
        assert!(kinds.iter().any(|k| matches!(k, StepKind::Ids)));
        assert!(kinds.iter().any(|k| matches!(k, StepKind::Softmax(s) if s.mask.is_some())), "{kinds:?}");
    }
}

/// Numbers that a mask has no place for are an error everywhere.
#[test]
fn masks_beyond_their_table_are_refused() {
    let mut p = Pair::new(4);
    let x = p.net.input("N, 6");
    let ids = p.net.b.input("mask", DType::I64, "N, 6");
    let real = p.op("cast", Op::Cast { to: DType::F32, saturate: true }, &[ids]);
    let y = p.op("masked", Op::Binary(Binary::Add), &[x, real]);
    let y = p.op("shares", Op::Softmax { axis: -1, flat: false }, &[y]);
    p.grid(y, QType::U8, 1.0 / 255.0, 0);
    let (_, graph) = p.finish(&[y]);
    let program = Arc::new(lower::lower(&graph, Profile::Dyadic).unwrap());
    assert!(program.steps.iter().any(|s| matches!(s.kind, StepKind::Ids)));
    let run = |id: i64| {
        let x = vec![Tensor::of(&[1, 6], vec![0.5f32; 6]), Tensor::of(&[1, 6], vec![0, 1, id, 3, 255, 0])];
        let sim = sim::Session::new(program.clone(), 1).unwrap().run(x.clone());
        let int = int::Session::new(program.clone(), &int::Options::default()).unwrap().run(x);
        (sim, int)
    };
    let (sim, int) = run(7);
    assert_eq!(sim.unwrap()[0].as_slice::<f32>().unwrap(), int.unwrap()[0].as_slice::<f32>().unwrap());
    for id in [-1, 256] {
        let (sim, int) = run(id);
        for e in [sim.unwrap_err(), int.unwrap_err()] {
            assert!(e.to_string().contains(&format!("a mask of {id}; integers take 0 to 255")), "{e}");
        }
    }
}

/// A residual stream of words: a product with a bias, a sum, a normalisation, factors, and a curve on 12 bits.
fn stream(words: QType, seed: u64) -> (Graph, Graph) {
    let n = 24;
    let zero = (words.min() + words.max()) / 2 + 77;
    let mut p = Pair::new(seed);
    let x = p.net.input(&format!("N, 5, {n}"));
    let w = p.net.weight(&[n, n], 1);
    let y = p.op("product", Op::MatMul, &[x, w]);
    let bias = p.net.bias(n);
    let y = p.op("biased", Op::Binary(Binary::Add), &[y, bias]);
    p.grid(y, words, 0.0009, zero);
    // One for each place, repeated for every sample: a constant would be a bias of its own kind.
    let sum = p.op("sum", Op::Binary(Binary::Add), &[x, y]);
    p.grid(sum, words, 0.001, zero + 9);
    let gamma = (0..n).map(|i| 0.5 + 0.1 * i as f32 * if i % 3 == 0 { -1.0 } else { 1.0 }).collect();
    let beta = p.net.n.reals(n);
    let (gamma, beta) = (p.constant("gamma", &[n], gamma), p.constant("beta", &[n], beta));
    let normal = p.op("norm", Op::LayerNormalization { axis: -1, epsilon: 1e-5 }, &[sum, gamma, beta]);
    p.grid(normal, words, 0.0004, zero - 1000);
    let difference = p.op("difference", Op::Binary(Binary::Sub), &[normal, x]);
    p.grid(difference, words, 0.0008, zero);
    let factors = (0..n).map(|i| if i == 4 { -0.7 } else { 0.2 + 0.05 * i as f32 }).collect();
    let factors = p.constant("factors", &[n], factors);
    let scaled = p.op("factors.mul", Op::Binary(Binary::Mul), &[difference, factors]);
    p.grid(scaled, QType { bits: 12, signed: false, narrow: false }, 0.012, 2000);
    let curve = p.op("curve", Op::Unary(Unary::Gelu { tanh: false }), &[scaled]);
    p.grid(curve, words, 0.0004, words.min() + 800);
    let root = p.constant("root", &[], vec![1.7]);
    let last = p.op("last", Op::Binary(Binary::Div), &[curve, root]);
    p.grid(last, QType::U8, 0.03, 12);
    p.finish(&[normal, last])
}

#[test]
fn a_stream_of_words_computes_in_integers() {
    for (i, words) in [U16, I16].into_iter().enumerate() {
        let (float, graph) = stream(words, 50 + i as u64);
        for shape in [[1, 5, 24], [3, 5, 24]] {
            let (got, kinds) = agree(&graph, &shape, 5);
            no_floats(&kinds);
            let count = |f: fn(&StepKind) -> bool| kinds.iter().filter(|k| f(k)).count();
            assert_eq!(count(|k| matches!(k, StepKind::Norm(_))), 1);
            assert_eq!(count(|k| matches!(k, StepKind::Rescale(_))), 2);
            assert_eq!(count(|k| matches!(k, StepKind::Add { .. })), 2, "the bias is the product's: {kinds:?}");
            // Weights are codes in both graphs; the last grid clips at the top.
            let most = apart(&float, &got[..1], &shape, 5, (0.017, 120));
            assert!(most < 0.02, "{words}: {most}");
        }
    }
}

/// Rows without any deviation, and the longest that fits.
#[test]
fn normalisation_of_bytes_and_of_equal_numbers() {
    for (n, bits) in [(1, 8), (3, 8), (300, 8), (17, 16)] {
        let mut p = Pair::new(n as u64);
        let x = p.net.input(&format!("N, {n}"));
        let numbers = p.net.n.reals(n);
        let (gamma, beta) = (p.constant("gamma", &[n], numbers.clone()), p.constant("beta", &[n], numbers));
        let y = p.op("norm", Op::LayerNormalization { axis: 1, epsilon: 1e-6 }, &[x, gamma, beta]);
        let qtype = QType { bits, signed: false, narrow: false };
        p.grid(y, qtype, 6.0 / qtype.levels() as f32, qtype.max() / 2);
        let (float, graph) = p.finish(&[y]);
        let (got, kinds) = agree(&graph, &[4, n], 9);
        no_floats(&kinds);
        let most = apart(&float, &got, &[4, n], 9, (0.017, 120));
        assert!(most < if bits == 8 { 0.013 } else { 0.001 }, "{n}: {most}");
    }
}

#[test]
fn what_does_not_fit_is_said() {
    // Sums of 40,000 products of two codes.
    let mut p = Pair::new(1);
    let x = p.net.input("N, 2, 40000");
    let t = p.op("turned", Op::Transpose { perm: vec![0, 2, 1] }, &[x]);
    p.grid(t, QType::U8, 0.017, 120);
    let y = p.op("pair", Op::MatMul, &[x, t]);
    p.grid(y, QType::U8, 1.0, 120);
    let (_, graph) = p.finish(&[y]);
    let program = Arc::new(lower::lower(&graph, Profile::Dyadic).unwrap());
    let x = Tensor::of(&[1, 2, 40_000], vec![0f32; 80_000]);
    for error in [
        sim::Session::new(program.clone(), 1).unwrap().run(vec![x.clone()]).unwrap_err(),
        int::Session::new(program, &int::Options { threads: 1, isa: None, separate: false })
            .and_then(|mut s| s.run(vec![x]))
            .unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(text.contains("pair") && text.contains("40000") && text.contains("2^31"), "{text}");
    }
    // Scales that are too far apart for a normalisation.
    let mut p = Pair::new(1);
    let x = p.net.input("N, 4");
    let (gamma, beta) = (p.constant("gamma", &[4], vec![1e30; 4]), p.constant("beta", &[4], vec![0.0; 4]));
    let y = p.op("norm", Op::LayerNormalization { axis: 1, epsilon: 1e-6 }, &[x, gamma, beta]);
    p.grid(y, QType::U8, 1e-3, 120);
    let (_, graph) = p.finish(&[y]);
    let text = lower::lower(&graph, Profile::Dyadic).unwrap_err().to_string();
    assert!(text.contains("norm") && text.contains("no form in integers from scale"), "{text}");
}
