//! `analyze` on models with one planted fault each: it names the fault and its place, and the option that it prints repairs it. Every fault is
//! planted into the embedded network so that the float network's function stays the same.
use nnq::{
    analyze::{self, Analysis, Finding, FindingKind, Job, Severity},
    data::{self, Dataset, Preprocess, save_npz},
    demo::{self, Stream},
    engine::{self, Engine, Kind},
    eval::{self, Labelled},
    exec::lower::Profile,
    formats::onnx::{self, WriteOptions},
    ir::{Graph, NodeId, Op, Tensor, ValueId, op::Binary},
    quant::recipe::Recipe,
    quantize::{self, Samples},
};
use std::{path::PathBuf, sync::Arc};

/// A model in a file, what it is calibrated on and how it is quantized.
struct Case {
    folder: tempfile::TempDir,
    samples: Samples,
    eval: Labelled,
    recipe: Recipe,
}

fn train(preprocess: Preprocess) -> Samples {
    Samples { dataset: Arc::new(demo::dataset(Stream::Train, 200).unwrap()), preprocess }
}

fn test_set(preprocess: Preprocess) -> Labelled {
    Labelled { dataset: Arc::new(demo::dataset(Stream::Test, 300).unwrap()), preprocess, classes: None }
}

fn recipe(text: &str) -> Recipe {
    Recipe::from_toml(&format!("samples = 128\n{text}")).unwrap()
}

/// The embedded network as it is in its file, normalisations not folded.
fn network() -> Graph {
    let mut graph = onnx::read_bytes(demo::MODEL.into(), None).unwrap();
    nnq::ir::infer::infer(&mut graph).unwrap();
    graph
}

impl Case {
    fn new(graph: &Graph, recipe: Recipe) -> Self {
        let folder = tempfile::tempdir().unwrap();
        onnx::write(graph, &folder.path().join("net.onnx"), &WriteOptions::default()).unwrap();
        Self { folder, samples: train(demo::preprocess()), eval: test_set(demo::preprocess()), recipe }
    }
    fn file(&self) -> PathBuf {
        self.folder.path().join("net.onnx")
    }
    fn job(&self) -> Job {
        Job {
            model: self.file(),
            samples: Some(self.samples.clone()),
            stats: None,
            recipe: self.recipe.clone(),
            eval: Some(self.eval.clone()),
            classes: None,
            measured: 128,
            sensitivity: false,
            trials: true,
            threads: 2,
            cancel: None,
        }
    }
    fn analyze(&self) -> Analysis {
        analyze::run(&self.job(), &mut |_, _, _| {}).unwrap()
    }
    /// Accuracy of the integer engine, by the way that `nnq quantize` goes.
    fn accuracy(&self) -> f64 {
        let graph = engine::load(&self.file()).unwrap();
        let balanced =
            if self.recipe.equalize { Arc::new(nnq::quant::balance::equalize(&graph).unwrap().graph) } else { graph };
        let stats =
            quantize::calibrate(&balanced, [0; 32], &self.samples, &self.recipe, 2, None, &mut |_, _, _| {}).unwrap();
        let q = quantize::annotate(&balanced, &stats, &self.recipe).unwrap();
        judge(&Arc::new(q.graph), Kind::Int, &self.eval)
    }
    /// With what the finding's option changes.
    fn repaired(self, finding: &Finding) -> Self {
        let recipe = finding.repair.recipe.clone().unwrap_or(self.recipe);
        let (mut samples, mut eval) = (self.samples, self.eval);
        if let Some(p) = &finding.repair.preprocess {
            (samples.preprocess, eval.preprocess) = (p.clone(), p.clone());
        }
        Self { recipe, samples, eval, ..self }
    }
}

fn judge(graph: &Arc<Graph>, kind: Kind, data: &Labelled) -> f64 {
    let options = engine::Options { kind, profile: Profile::default(), threads: 2 };
    let mut engine = Engine::open(graph.clone(), options).unwrap();
    eval::evaluate(&mut engine, data, &eval::Options { threads: 2, ..Default::default() }, &mut |_, _| {}).unwrap().top1
}

fn node(g: &Graph, name: &str) -> NodeId {
    g.nodes().find(|(_, n)| n.name.ends_with(name)).unwrap_or_else(|| panic!("no node {name}")).0
}

/// Changes a constant of a node; the function gets each element with its indices along the first two axes.
fn edit(g: &mut Graph, name: &str, input: usize, f: impl Fn(usize, usize, f32) -> f32) {
    let id = node(g, name);
    let v = g.node(id).input(input).unwrap();
    let t = g.constant(v).unwrap().clone();
    let shape = t.shape().to_vec();
    let second = shape.get(1).copied().unwrap_or(1);
    let inner: usize = shape.iter().skip(2).product();
    let new = t.to_f32s().iter().enumerate().map(|(i, &x)| f(i / inner / second, i / inner % second, x)).collect();
    g.value_mut(v).constant = Some(Arc::new(Tensor::of::<f32>(&shape, new)));
}

/// Multiplies what a normalisation gives.
fn scale_bn(g: &mut Graph, name: &str, by: impl Fn(usize) -> f32) {
    edit(g, name, 1, |c, _, x| x * by(c));
    edit(g, name, 2, |c, _, x| x * by(c));
}

/// The finding of a kind that costs accuracy; nothing else does.
fn only(a: &Analysis, kind: FindingKind) -> &Finding {
    let bad: Vec<&Finding> = a.findings.iter().filter(|f| f.severity > Severity::Note).collect();
    let list: Vec<String> =
        a.findings.iter().map(|f| format!("{} {} at {}: {}", f.severity, f.kind, f.place, f.cause)).collect();
    assert!(bad.len() == 1 && bad[0].kind == kind, "expected {kind} alone, found:\n{}", list.join("\n"));
    bad[0]
}

/// The fault is there, and what the finding prints takes it away: accuracy within two points of the sound network's.
fn repairs(case: Case, finding: &Finding, sound: f64, cost: f64) {
    let before = case.accuracy();
    assert!(before < sound - cost, "the fault costs nothing: {before}, sound {sound}");
    let after = case.repaired(finding).accuracy();
    assert!(after > sound - 0.02, "before {before}, after {after}, sound {sound}: {}", finding.repair.option);
}

fn sound(recipe: Recipe) -> f64 {
    Case::new(&network(), recipe).accuracy()
}

#[test]
fn the_sound_network_has_no_findings() {
    for text in ["", "[weight]\ngranularity = \"tensor\"\n", "[activation]\nrange = \"minmax\"\n"] {
        let a = Case::new(&network(), recipe(text)).analyze();
        let bad: Vec<_> = a.findings.iter().filter(|f| f.severity > Severity::Note).collect();
        assert!(bad.is_empty(), "{text}: {bad:#?}");
        assert!(a.quantized.close.agreement > 0.95, "{text}: {:?}", a.quantized);
    }
}

#[test]
fn outlier_channel_of_weights() {
    let mut g = network();
    // Channel 5 of the depthwise convolution, whose input channel is made as much smaller: it stays below the clip at 6.
    scale_bn(&mut g, "expand.bn", |c| if c == 5 { 1.0 / 300.0 } else { 1.0 });
    edit(&mut g, "depthwise.conv", 1, |c, _, w| if c == 5 { w * 300.0 } else { w });
    let recipe = recipe("[weight]\ngranularity = \"tensor\"\n");
    let case = Case::new(&g, recipe.clone());
    let a = case.analyze();
    let f = only(&a, FindingKind::OutlierWeights);
    assert!(f.place.ends_with("depthwise.conv") && f.figures["channel"] == 5.0, "{f:#?}");
    assert_eq!(f.repair.option, "--granularity channel");
    repairs(case, f, sound(recipe), 0.05);
}

#[test]
fn outlier_channel_of_a_value() {
    let mut g = network();
    scale_bn(&mut g, "residual1.first.bn", |c| if c == 7 { 500.0 } else { 1.0 });
    edit(&mut g, "residual1.second.conv", 1, |_, c, w| if c == 7 { w / 500.0 } else { w });
    let case = Case::new(&g, recipe(""));
    let a = case.analyze();
    let f = only(&a, FindingKind::OutlierChannel);
    assert!(f.place.ends_with("residual1.first.conv") && f.figures["channel"] == 7.0, "{f:#?}");
    assert_eq!(f.repair.option, "--equalize");
    repairs(case, f, sound(recipe("")), 0.05);
}

#[test]
fn dead_range() {
    let recipe = recipe("[activation]\nrange = \"minmax\"\n");
    let mut case = Case::new(&network(), recipe.clone());
    // One sample in two hundred is a hundred times as large as it should be.
    let mut x = Vec::new();
    let mut y = Vec::new();
    for i in 0..200 {
        let p = demo::picture(Stream::Train, i);
        let by = if i == 17 { 100.0 } else { 1.0 };
        x.extend(p.pixels.iter().map(|&b| (f32::from(b) / 127.5 - 1.0) * by));
        y.push(i64::from(p.label));
    }
    let path = case.folder.path().join("samples.npz");
    let (x, y) = (Tensor::of(&[200, 3, 32, 32], x), Tensor::of(&[200], y));
    save_npz(&path, &[("x", &x), ("y", &y)]).unwrap();
    case.samples = Samples {
        dataset: Arc::new(Dataset::open(&path, &data::Options::calibration()).unwrap()),
        preprocess: Preprocess::raw(),
    };
    case.recipe.samples = 200;
    let a = case.analyze();
    let f = only(&a, FindingKind::DeadRange);
    assert!(f.figures["stretching_samples"] == 1.0 && !f.also.is_empty(), "{f:#?}");
    assert!(f.repair.option.starts_with("--range "), "{}", f.repair.option);
    repairs(case, f, sound(recipe), 0.05);
}

#[test]
fn clipped_logits() {
    let recipe = recipe("logits = \"int8\"\n[[layer]]\nmatch = \"*fc\"\nactivation.bits = 2\n");
    let case = Case::new(&network(), recipe);
    let a = case.analyze();
    let f = only(&a, FindingKind::ClippedLogits);
    assert!(f.place.ends_with("fc"), "{f:#?}");
    assert_eq!(f.repair.option, "--recipe FILE with the line\nlogits = \"real\"");
    repairs(case, f, sound(self::recipe("")), 0.05);
}

#[test]
fn bias_overflow() {
    // A channel that is switched off by its bias, a little and far too much.
    let off = |bias: f32| {
        let mut g = network();
        edit(&mut g, "residual1.first.bn", 2, |c, _, b| if c == 3 { bias } else { b });
        g
    };
    let recipe = recipe("[weight]\ngranularity = \"tensor\"\n");
    let sound = Case::new(&off(-30.0), recipe.clone());
    assert!(sound.analyze().findings.iter().all(|f| f.severity == Severity::Note));
    let case = Case::new(&off(-3e7), recipe);
    let a = case.analyze();
    let f = only(&a, FindingKind::BiasOverflow);
    assert!(f.place.ends_with("residual1.first.conv") && f.figures["factor"] > 4.0, "{f:#?}");
    assert_eq!(f.repair.option, "--granularity channel");
    repairs(case, f, sound.accuracy(), 0.05);
}

/// The first convolution and its normalisation cut in two, their channels joined again.
fn split(small: f32) -> Graph {
    let mut g = network();
    let (conv, bn) = (node(&g, "stem.conv"), node(&g, "stem.bn"));
    let relu = node(&g, "stem.relu");
    let joined = g.node(relu).output(0).unwrap();
    let (conv, bn, relu) = (g.node(conv).clone(), g.node(bn).clone(), g.node(relu).clone());
    let mut parts = Vec::new();
    let (dtype, shape) = (g.value(joined).dtype, None);
    for (i, range) in [0..8usize, 8..16].into_iter().enumerate() {
        let by = if i == 1 { small } else { 1.0 };
        let mut part = |v: ValueId, by: f32| {
            let t = g.constant(v).unwrap().clone();
            let each = t.len() / 16;
            let some = t.to_f32s()[range.start * each..range.end * each].iter().map(|x| x * by).collect();
            let shape = [&[8], &t.shape()[1..]].concat();
            Some(g.add_constant("part", Arc::new(Tensor::of::<f32>(&shape, some))))
        };
        let w = part(conv.input(1).unwrap(), 1.0);
        let [gamma, beta, mean, var] =
            [(1, by), (2, by), (3, 1.0), (4, 1.0)].map(|(k, by)| part(bn.input(k).unwrap(), by));
        let names: Vec<_> =
            (0..3).map(|k| g.add_value(&format!("part{i}.{k}"), dtype, shape.clone()).unwrap()).collect();
        let mut patch = nnq::ir::Patch::new();
        let new = |like: &nnq::ir::Node, inputs, out: ValueId, name: &str| nnq::ir::Node {
            name: format!("part{i}/{name}"),
            op: like.op.clone(),
            inputs,
            outputs: vec![Some(out)],
        };
        patch.add(new(&conv, vec![conv.input(0), w], names[0], "Conv"));
        patch.add(new(&bn, vec![Some(names[0]), gamma, beta, mean, var], names[1], "BatchNormalization"));
        patch.add(new(&relu, vec![Some(names[1])], names[2], "Relu"));
        g.apply(patch).unwrap();
        parts.push(Some(names[2]));
    }
    let mut patch = nnq::ir::Patch::new();
    let whole = g.add_value("joined", dtype, None).unwrap();
    patch.replace(joined, whole);
    patch.add(nnq::ir::Node {
        name: "join/Concat".into(),
        op: Op::Concat { axis: 1 },
        inputs: parts,
        outputs: vec![Some(whole)],
    });
    g.apply(patch).unwrap();
    g.compact();
    edit(&mut g, "expand.conv", 1, |_, c, w| if c >= 8 { w / small } else { w });
    nnq::ir::infer::infer(&mut g).unwrap();
    g
}

#[test]
fn shared_scale() {
    let sound = Case::new(&split(1.0), recipe(""));
    assert!(sound.analyze().findings.iter().all(|f| f.severity == Severity::Note));
    let case = Case::new(&split(1.0 / 500.0), recipe(""));
    let a = case.analyze();
    let f = only(&a, FindingKind::SharedScale);
    assert!(f.place.ends_with("join/Concat") && f.figures["ratio"] > 100.0, "{f:#?}");
    assert!(f.repair.option.contains("expand.conv\"\nkeep_float = true"), "{}", f.repair.option);
    repairs(case, f, sound.accuracy(), 0.05);
}

/// The input of a normalisation is read by a second convolution, whose result hardly counts; its channels differ by `spread` orders of magnitude.
fn read_twice(spread: f32) -> Graph {
    let mut g = network();
    let by = |c: usize| 10f32.powf(spread * (c as f32 / 23.0 - 0.5));
    edit(&mut g, "residual1.first.conv", 1, |c, _, w| w * by(c));
    edit(&mut g, "residual1.first.bn", 3, |c, _, m| m * by(c));
    edit(&mut g, "residual1.first.bn", 4, |c, _, v| v * by(c) * by(c));
    let (conv, add) = (node(&g, "residual1.first.conv"), node(&g, "residual1.add"));
    let y = g.node(conv).output(0).unwrap();
    let dtype = g.value(y).dtype;
    let Op::Conv(mut attrs) = g.node(conv).op.clone() else { panic!("a convolution") };
    (attrs.kernel, attrs.pads) = (vec![1, 1], vec![0; 4]);
    let w = (0..24 * 24).map(|i| 1e-4 / by(i % 24) * ((i * 7 % 11) as f32 - 5.0)).collect();
    let w = g.add_constant("probe.w", Arc::new(Tensor::of::<f32>(&[24, 24, 1, 1], w)));
    let [p, s] = ["probe", "probed"].map(|n| g.add_value(n, dtype, None).unwrap());
    let old = g.node(add).output(0).unwrap();
    let mut patch = nnq::ir::Patch::new();
    patch.replace(old, s);
    let one = |name: &str, op, inputs: &[ValueId], out| nnq::ir::Node {
        name: name.into(),
        op,
        inputs: inputs.iter().map(|&v| Some(v)).collect(),
        outputs: vec![Some(out)],
    };
    patch.add(one("probe/Conv", Op::Conv(attrs), &[y, w], p));
    patch.add(one("probe/Add", Op::Binary(Binary::Add), &[old, p], s));
    g.apply(patch).unwrap();
    nnq::ir::infer::infer(&mut g).unwrap();
    g
}

#[test]
fn unfolded_normalisation() {
    let case = Case::new(&read_twice(4.0), recipe(""));
    let a = case.analyze();
    let f = only(&a, FindingKind::UnfoldedNormalization);
    assert!(f.place.ends_with("residual1.first.bn"), "{f:#?}");
    assert_eq!(f.repair.option, "--recipe FILE with the lines\n[[layer]]\nmatch = \"probe/Conv\"\nkeep_float = true");
    repairs(case, f, sound(recipe("")), 0.05);
}

#[test]
fn wrong_preprocessing() {
    let mut case = Case::new(&network(), recipe(""));
    (case.samples.preprocess, case.eval.preprocess) = (Preprocess::raw(), Preprocess::raw());
    let a = case.analyze();
    let f = only(&a, FindingKind::WrongPreprocessing);
    assert!(f.place.ends_with("stem.bn"), "{f:#?}");
    assert_eq!(f.repair.option, "--preprocess FILE.toml with the lines\ndivide = 127.5\nmean = [1.0]");
    repairs(case, f, sound(recipe("")), 0.3);
}

/// Where the model has no statistics any more, labels tell.
#[test]
fn wrong_preprocessing_of_a_folded_network() {
    let folded = engine::simplify(network()).unwrap();
    let mut case = Case::new(&folded, recipe(""));
    (case.samples.preprocess, case.eval.preprocess) = (Preprocess::raw(), Preprocess::raw());
    let a = case.analyze();
    let f = only(&a, FindingKind::WrongPreprocessing);
    assert_eq!(f.repair.option, "--preprocess FILE.toml with the lines\ndivide = 127.5\nmean = [1.0]", "{f:#?}");
    repairs(case, f, sound(recipe("")), 0.3);
}

#[test]
fn saturated() {
    let recipe = recipe("[activation]\nrange = \"percentile:85\"\n");
    let case = Case::new(&network(), recipe);
    let a = case.analyze();
    let f = only(&a, FindingKind::Saturated);
    assert!(f.figures["outside"] > 0.02 && !f.also.is_empty(), "{f:#?}");
    assert!(["--range minmax", "--range norm"].contains(&f.repair.option.as_str()), "{}", f.repair.option);
    repairs(case, f, sound(self::recipe("")), 0.05);
}
