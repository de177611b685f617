//! Whole networks against ONNX Runtime: the files that nnq writes, the files that ONNX Runtime's quantizer writes, and float.
//! Needs NNQ_PYTHON.

use crate::networks::{Job, Network, Record, bits, data, explicit, ort_values, program, python, run, scratch, tool};
use nnq::{
    ErrorKind,
    data::save_npy,
    engine,
    exec::{
        float, int,
        lower::{Profile, Program},
        sim,
    },
    formats::onnx::Pack,
    ir::{DType, Graph, Node, NodeId, Op, Tensor, ValueId, op::Binary},
    quantize::Format,
};
use nnq_kernels::Isa;
use std::{collections::HashMap, path::Path, process::Command, sync::Arc};

/// A product of codes in a file, with what belongs to it.
struct Case {
    /// The node that multiplies.
    node: NodeId,
    /// The codes it reads.
    x: ValueId,
    /// Scale and zero point of them.
    grid: (ValueId, Option<ValueId>),
    /// The codes it gives; or the real numbers at the end of Add, Cast and Mul.
    y: ValueId,
    /// Scale and zero point of codes.
    out: Option<(ValueId, ValueId)>,
}

/// Every product of codes of a file.
fn cases(g: &Graph) -> Vec<Case> {
    let (producers, consumers) = (g.producers(), g.consumers());
    let grid = |mut v: ValueId| loop {
        let node = g.node(producers[v.0 as usize].expect("codes come from a node"));
        match node.op {
            Op::QuantizeLinear { .. } => return (node.input(1).unwrap(), node.input(2)),
            Op::QLinearConv(_) | Op::QLinearMatMul => return (node.input(6).unwrap(), node.input(7)),
            // Moves and Clip.
            _ => v = node.input(0).unwrap(),
        }
    };
    g.nodes()
        .filter_map(|(id, node)| {
            let x = node.input(0)?;
            let (y, out) = match node.op {
                Op::QLinearConv(_) | Op::QLinearMatMul => {
                    (node.output(0)?, Some((node.input(6).unwrap(), node.input(7).unwrap())))
                }
                Op::ConvInteger(_) | Op::MatMulInteger => {
                    let mut y = node.output(0)?;
                    loop {
                        let (next, _) = consumers[y.0 as usize][0];
                        y = g.node(next).output(0)?;
                        if matches!(g.node(next).op, Op::Binary(Binary::Mul)) {
                            break (y, None);
                        }
                    }
                }
                _ => return None,
            };
            Some(Case { node: id, x, grid: grid(x), y, out })
        })
        .collect()
}

/// One product as a model of its own, from real numbers to real numbers.
fn alone(g: &Graph, case: &Case, shape: &[usize]) -> Graph {
    let mut out = Graph::new("alone");
    out.opset = g.opset;
    let input = out.add_value("input of the test", Some(DType::F32), Some(nnq::ir::Shape::fixed(shape))).unwrap();
    out.inputs.push(input);
    let dtype = g.value(case.x).dtype.unwrap();
    let mut known = HashMap::new();
    let codes = out.add_value(&g.value(case.x).name, Some(dtype), None).unwrap();
    let (scale, zero) = (copy(g, case.grid.0, &mut out, &mut known), case.grid.1);
    let zero = zero.map(|z| copy(g, z, &mut out, &mut known));
    let op = Op::QuantizeLinear { axis: 1, block: 0, saturate: true, out: dtype };
    out.add_node("quantize", op, vec![Some(input), Some(scale), zero], vec![Some(codes)]);
    known.insert(case.x, codes);
    let y = copy(g, case.y, &mut out, &mut known);
    let Some((scale, zero)) = case.out else {
        out.outputs.push(y);
        return out;
    };
    let (scale, zero) = (copy(g, scale, &mut out, &mut known), copy(g, zero, &mut out, &mut known));
    let real = out.add_value("output of the test", Some(DType::F32), None).unwrap();
    let op = Op::DequantizeLinear { axis: 1, block: 0 };
    out.add_node("dequantize", op, vec![Some(y), Some(scale), Some(zero)], vec![Some(real)]);
    out.outputs.push(real);
    out
}

/// A value and all that it is computed from, as far as it is not known yet.
fn copy(g: &Graph, v: ValueId, out: &mut Graph, known: &mut HashMap<ValueId, ValueId>) -> ValueId {
    if let Some(&new) = known.get(&v) {
        return new;
    }
    let value = g.value(v);
    let new = match &value.constant {
        Some(t) => out.add_constant(&value.name, t.clone()),
        None => {
            let Node { name, op, inputs, .. } = g.node(g.producers()[v.0 as usize].unwrap());
            let inputs = inputs.iter().map(|i| i.map(|i| copy(g, i, out, known))).collect();
            let new = out.add_value(&value.name, value.dtype, None).unwrap();
            out.add_node(name, op.clone(), inputs, vec![Some(new)]);
            new
        }
    };
    known.insert(v, new);
    new
}

/// `(q - z) * s`, one scale.
fn dequantize(codes: &Tensor, g: &Graph, scale: ValueId, zero: Option<ValueId>) -> Tensor {
    let s = g.constant(scale).unwrap().to_f32s()[0];
    let z = zero.map_or(0, |z| g.constant(z).unwrap().to_i64s().unwrap()[0]);
    let real = codes.to_i64s().unwrap().into_iter().map(|q| (q - z) as f32 * s).collect();
    Tensor::of(codes.shape(), real)
}

/// Elements that are equal, elements in all.
#[derive(Clone, Copy, Default)]
struct Share(usize, usize);

impl Share {
    fn of(a: &Tensor, b: &Tensor) -> Self {
        assert_eq!(a.shape(), b.shape());
        Self(bits(a).iter().zip(bits(b)).filter(|(a, b)| **a == *b).count(), a.len())
    }
    fn add(&mut self, other: Self) {
        *self = Self(self.0 + other.0, self.1 + other.1);
    }
    fn percent(self) -> f64 {
        100.0 * self.0 as f64 / self.1 as f64
    }
}

fn run_sim(p: &Arc<Program>, x: &Tensor) -> Tensor {
    crate::networks::simulate(p, x)
}

fn run_int(p: &Arc<Program>, x: &Tensor) -> Tensor {
    int_session(p).run(vec![x.clone()]).unwrap().remove(0)
}

fn int_session(p: &Arc<Program>) -> int::Session {
    int::Session::new(p.clone(), &int::Options { threads: 2, ..Default::default() }).unwrap()
}

/// Every product of the file by itself: with ONNX Runtime's input to it, nnq gives ONNX Runtime's output.
fn products(name: &str, g: &Graph, values: &HashMap<String, Tensor>) {
    let cases = cases(g);
    let products = g.nodes().filter(|(_, n)| n.op.name().contains("Conv") || n.op.name().contains("MatMul")).count();
    assert_eq!(cases.len(), products, "{name}: not every product is in integers");
    let (mut failures, mut share) = (Vec::new(), Share::default());
    for case in &cases {
        let node = &g.node(case.node).name;
        let x = dequantize(&values[&g.value(case.x).name], g, case.grid.0, case.grid.1);
        let y = &values[&g.value(case.y).name];
        let y = case.out.map_or_else(|| y.clone(), |(s, z)| dequantize(y, g, s, Some(z)));
        let mut one = nnq::formats::onnx::quantized::absorb(&alone(g, case, x.shape())).unwrap();
        nnq::ir::infer(&mut one).unwrap();
        let p = program(&one, Profile::Onnx);
        assert_eq!(p.integer_share().1, 0, "{name} {node}: {:?}", p.steps);
        for (engine, got) in [("sim", run_sim(&p, &x)), ("int", run_int(&p, &x))] {
            let part = Share::of(&got, &y);
            if part.0 < part.1 {
                failures.push(format!("{name} {node} {engine}: {} of {} equal", part.0, part.1));
            }
            share.add(part);
        }
    }
    println!("{name}: {} products one by one: {:.4} % of {} values equal", cases.len(), share.percent(), share.1);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The whole file from the same picture: every value that ONNX Runtime and nnq both show under one name.
///
/// In exact arithmetic both do the same. They differ where the standard averages in float and nnq sums codes (numerics
/// section 7): there the last bit before the rounding differs, which moves a code by one when it is near a tie.
fn whole(name: &str, g: &Graph, path: &Path, values: &HashMap<String, Tensor>, x: &Tensor) {
    let loaded = engine::load(path).unwrap();
    let p = program(&loaded, Profile::Onnx);
    let (mut sim_tap, mut int_tap) = (Record::default(), Record::default());
    sim::Session::new(p.clone(), 0).unwrap().run_tapped(vec![x.clone()], &mut sim_tap).unwrap();
    int_session(&p).run_tapped(vec![x.clone()], &mut int_tap).unwrap();
    let (sim_values, int_values) = (sim_tap.named(&p.graph), int_tap.named(&p.graph));
    let producers = g.producers();
    let after_mean = after_mean(g);
    let (mut before, mut after, mut failures, mut compared) = (Share::default(), Share::default(), Vec::new(), 0);
    for case in cases(g) {
        // A Clip or a Squeeze may stand between the product and the value that nnq has.
        let mut y = case.y;
        while !sim_values.contains_key(&g.value(y).name) {
            let next = g.consumers()[y.0 as usize].iter().map(|&(n, _)| g.node(n)).next();
            match next.filter(|n| matches!(n.op, Op::Clip | Op::Squeeze)).and_then(|n| n.output(0)) {
                Some(next) => y = next,
                None => break,
            }
        }
        let value = &g.value(y).name;
        let (Some(sim), Some(int)) = (sim_values.get(value), int_values.get(value)) else {
            println!("{name}: nothing to compare '{value}' with");
            continue;
        };
        compared += 1;
        let theirs = case.out.map_or_else(|| values[value].clone(), |(s, z)| dequantize(&values[value], g, s, Some(z)));
        for (engine, got) in [("sim", sim), ("int", int)] {
            let share = Share::of(got, &theirs);
            if after_mean[producers[case.y.0 as usize].unwrap().0 as usize] {
                after.add(share);
            } else {
                before.add(share);
                if share.0 < share.1 {
                    failures.push(format!("{name} '{value}' {engine}: {} of {} equal", share.0, share.1));
                }
            }
        }
    }
    println!(
        "{name}: whole network, {compared} products: before a mean {} of {} values equal, after it {} of {}",
        before.0, before.1, after.0, after.1
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(compared, cases(g).len(), "{name}: values without their name");
}

/// Whether an average pool is among what a node depends on.
fn after_mean(g: &Graph) -> Vec<bool> {
    let producers = g.producers();
    let mut after: Vec<bool> = Vec::new();
    for (_, n) in g.nodes() {
        let own = matches!(n.op, Op::GlobalAveragePool | Op::AveragePool { .. });
        let before = n.inputs.iter().flatten().filter_map(|v| producers[v.0 as usize]).any(|p| after[p.0 as usize]);
        after.push(own || before);
    }
    after
}

/// Rows of logits.
fn rows(t: &Tensor) -> Vec<&[f32]> {
    let all = t.as_slice::<f32>().unwrap();
    all.chunks(all.len() / t.shape()[0]).collect()
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

/// Logits of two implementations.
struct Agreement {
    equal: Share,
    argmax: Share,
    /// The largest difference, in 255ths of the range of the logits: what a step would be if they were quantized.
    steps: f64,
}

impl Agreement {
    fn of(a: &Tensor, b: &Tensor) -> Self {
        assert_eq!(a.shape(), b.shape());
        let pairs: Vec<_> = rows(a).into_iter().zip(rows(b)).collect();
        let all = b.as_slice::<f32>().unwrap();
        let range = all.iter().copied().fold(f32::MIN, f32::max) - all.iter().copied().fold(f32::MAX, f32::min);
        let far = pairs.iter().flat_map(|(a, b)| a.iter().zip(*b)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        Self {
            equal: Share::of(a, b),
            argmax: Share(pairs.iter().filter(|(a, b)| best(a) == best(b)).count(), pairs.len()),
            steps: f64::from(far) / f64::from(range) * 255.0,
        }
    }
    /// The best class of a row may only change where the two best are that close, so the bound on the difference is the claim.
    fn check(&self, what: &str, steps: f64) {
        println!(
            "{what}: {:.2} % of {} logits equal, best class the same in {} of {}, largest difference {:.3} steps",
            self.equal.percent(),
            self.equal.1,
            self.argmax.0,
            self.argmax.1,
            self.steps
        );
        assert!(self.steps <= steps, "{what}: {:.3} steps", self.steps);
    }
}

/// ONNX Runtime's fused additions and averages round in their own ways, which moves a code by one here and there; the layers
/// after it spread that. The worst measured in any network is 9 steps (MobileNetV2, ten additions in a row). A mistake, such as a
/// wrong scale or an activation that is not fused alike, makes a hundred.
const QDQ_STEPS: f64 = 32.0;

/// Without VNNI ONNX Runtime multiplies u8 by i8 with intermediates that saturate, so that its results are not those of the
/// standard.
fn exact() -> bool {
    let exact = [Isa::AvxVnni, Isa::Avx512Vnni].iter().any(|isa| isa.is_supported());
    if !exact {
        println!("skipped: on this machine ONNX Runtime's products saturate");
    }
    exact
}

fn written(network: Option<Network>, samples: usize) {
    let (Some(python), Some(network), true) = (python(), network, exact()) else { return };
    let name = network.name;
    let x = network.batch(samples);
    let quantized = network.quantize();
    let of = |format: Format| &*quantized.files.iter().find(|(f, _)| *f == format).unwrap().1;
    let (qdq, qoperator) = (of(Format::Qdq), of(Format::Qoperator));
    let jobs = [
        Job { model: qoperator, optimize: false },
        Job { model: qdq, optimize: true },
        Job { model: qoperator, optimize: true },
        Job { model: &network.file, optimize: true },
    ];
    let values = ort_values(&python, &jobs, &x);
    let g = explicit(qoperator);
    let p = program(&engine::load(qdq).unwrap(), Profile::Onnx);
    let ours = run_int(&p, &x);
    let logits = |i: usize| values[i].values().next().unwrap();
    Agreement::of(&ours, logits(1)).check(&format!("{name}: QDQ, optimised"), QDQ_STEPS);
    Agreement::of(&ours, logits(2)).check(&format!("{name}: QOperator, optimised"), QDQ_STEPS);
    same_float(name, &network.graph, &x, logits(3));
    products(name, &g, &values[0]);
    whole(name, &g, qoperator, &values[0], &x);
}

/// Both sum in binary32, in different orders.
fn same_float(name: &str, graph: &Arc<Graph>, x: &Tensor, theirs: &Tensor) {
    let mut session = float::Session::new(graph.clone(), &float::Options { threads: 2 }).unwrap();
    let ours = session.run(vec![x.clone()]).unwrap().remove(0);
    let agreement = Agreement::of(&ours, theirs);
    let relative = agreement.steps / 255.0;
    println!("{name}: float differs by {relative:.1e} of the outputs' range");
    assert!(relative <= 1e-4, "{name}: {relative:e}");
}

#[test]
fn demo() {
    written(Some(Network::demo()), 3);
}

macro_rules! networks {
    ($($name:ident $samples:literal),*) => { $(
        #[test]
        fn $name() {
            written(Network::real(stringify!($name)), $samples);
        }
    )* };
}
networks!(resnet8 3, resnet20 3, resnet32 2, resnet44 2, resnet56 2, mobilenetv1 1, mobilenetv2 1, squeezenet 1, kws 3);

/// Weights that share bytes: ONNX Runtime makes the same real numbers of them, and the same outputs.
///
/// Those of 2 bits without its optimizations only: it would put them into a QLinearConv, which takes none.
fn packed(network: Option<Network>, all: &[(u8, u8)]) {
    let (Some(python), Some(network), true) = (python(), network, exact()) else { return };
    let x = network.batch(3);
    for &(bits_of_weights, bits_in_file) in all {
        let name = format!("{}, weights of {bits_of_weights} bits", network.name);
        let pack = if bits_in_file == 2 { Pack::Int2 } else { Pack::Int4 };
        let quantized = network.quantize_weights(bits_of_weights, pack);
        let file = &quantized.files.iter().find(|(f, _)| *f == Format::Qdq).unwrap().1;
        let values = ort_values(&python, &[false, bits_in_file > 2].map(|optimize| Job { model: file, optimize }), &x);
        let g = explicit(file);
        let logits = &g.value(g.outputs[0]).name;
        let mut packed = 0;
        for (_, node) in g.nodes() {
            let (Op::DequantizeLinear { axis, block: 0 }, Some(codes)) = (&node.op, g.constant(node.input(0).unwrap()))
            else {
                continue;
            };
            if codes.dtype() != DType::I8 {
                continue;
            }
            assert_eq!(g.value(node.input(0).unwrap()).packed, Some(bits_in_file), "{name}: {}", node.name);
            packed += codes.len();
            let scale = g.constant(node.input(1).unwrap()).unwrap().to_f32s();
            let inner: usize = codes.shape()[*axis as usize + 1..].iter().product();
            let want = codes.to_i64s().unwrap().into_iter().enumerate();
            let want: Vec<f32> = want.map(|(i, c)| c as f32 * scale[i / inner % scale.len()]).collect();
            let theirs = &values[0][&g.value(node.output(0).unwrap()).name];
            assert_eq!(bits(&Tensor::of(codes.shape(), want)), bits(theirs), "{name}: {}", node.name);
        }
        println!("{name}: {packed} codes of {bits_in_file} bits are the same real numbers in ONNX Runtime");
        assert!(packed > 1000, "{name}: {packed} codes");
        let ours = run_int(&program(&engine::load(file).unwrap(), Profile::Onnx), &x);
        Agreement::of(&ours, &values[1][logits]).check(&name, QDQ_STEPS);
    }
}

#[test]
fn packed_demo() {
    packed(Some(Network::demo()), &[(4, 4), (3, 4), (2, 4), (2, 2)]);
}

#[test]
fn packed_resnet20() {
    packed(Network::real("resnet20"), &[(4, 4), (2, 2)]);
}

/// A recurrent network, on numbers like those it is made for: logarithms of power spectra.
#[test]
fn recurrent_float() {
    let (Some(python), Some(file)) = (python(), data("models/nsnet2_gru_fp32.onnx")) else { return };
    let graph = match engine::load(&file) {
        Ok(graph) => graph,
        Err(e) => {
            assert!(e.kind() == ErrorKind::Unsupported && e.to_string().contains("'gru0' (GRU)"), "{e}");
            return println!("skipped: {e}");
        }
    };
    let x = Tensor::of(&[1, 20, 161], (0..20 * 161).map(|i| (i * 7919 % 1000) as f32 / 125.0 - 8.0).collect());
    let values = ort_values(&python, &[Job { model: &file, optimize: true }], &x);
    let theirs = values[0].values().next().unwrap();
    same_float("nsnet2", &graph, &x, theirs);
}

/// What ONNX Runtime's quantizer writes, nnq reads and runs in integers.
fn foreign(network: Option<Network>) {
    let (Some(python), Some(network), true) = (python(), network, exact()) else { return };
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let calibration = dir.path().join("calibration.npy");
    save_npy(&calibration, &network.calibration_batch()).unwrap();
    run(Command::new(&python).arg(tool("ort_quantize.py")).arg(&network.file).arg(&calibration).arg(dir.path()));
    let x = network.batch(3);
    let names = ["u8-tensor", "u8-channel", "s8-tensor", "s8-channel"];
    let files = names.map(|n| dir.path().join(format!("{n}.onnx")));
    let jobs: Vec<_> = files.iter().map(|model| Job { model, optimize: true }).collect();
    let values = ort_values(&python, &jobs, &x);
    for ((kind, file), values) in names.iter().zip(&files).zip(&values) {
        let p = program(&engine::load(file).unwrap(), Profile::Onnx);
        let (integer, float) = p.integer_share();
        let what =
            format!("{} quantized by ONNX Runtime, {kind}, {integer} integer steps, {float} float", network.name);
        assert!(integer > 10 * float, "{what}: {:?}", p.notes);
        let ours = run_int(&p, &x);
        assert_eq!(bits(&ours), bits(&run_sim(&p, &x)), "{what}");
        Agreement::of(&ours, values.values().next().unwrap()).check(&what, QDQ_STEPS);
    }
}

#[test]
fn foreign_demo() {
    foreign(Some(Network::demo()));
}

#[test]
fn foreign_resnet20() {
    foreign(Network::real("resnet20"));
}
