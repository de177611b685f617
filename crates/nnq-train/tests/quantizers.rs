//! Every way to round, in training and in the integer engine, on the demo's network.
use super::{output, pictures};
use burn::backend::{Flex, tensor::FloatTensor};
use nnq::{
    data::{self, Loader},
    demo::{self, Stream},
    engine::{Engine, Kind, Options},
    eval::Labelled,
    exec::lower::Profile,
    ir::{Graph, QParams, QType, Tensor},
    quant::recipe::{Edge, Recipe, SumOperands},
    quantize::{self, Samples},
};
use nnq_train::{
    augment::Augment,
    backend::{self, Device},
    batches::{Batches, Drawing},
    fake::{self, Grid},
    job::{self, Job, Settings, Source},
    low::Low,
    net::{Forward, Normalize},
    optimizer::{Method, Schedule, Steps},
    params::{Of, Parameters},
    precision::Precision,
    qat::{self, Activations, BitsSchedule, Plan, Quantizing, Rules, Weights},
};
use std::{path::Path, sync::Arc};

/// So many bits inside, 8 at the edges.
pub fn recipe(weight: u8, activation: u8) -> Recipe {
    let mut recipe = Recipe { samples: 32, first: Edge::EightBit, last: Edge::EightBit, ..Recipe::default() };
    recipe.sum_operands = SumOperands::EightBit;
    (recipe.weight.bits, recipe.activation.bits) = (weight, activation);
    recipe
}

fn rules(weights: Weights, activations: Activations, estimator: &str) -> Rules {
    Rules { estimator: estimator.parse().unwrap(), activations, weights, ..Rules::default() }
}

fn live(rules: Rules) -> Rules {
    Rules { normalization: "live:0.1".parse().unwrap(), ..rules }
}

/// Name, bits, rules, and the grids that weights and activations of few bits have in the end.
type Case = (&'static str, (u8, u8), Rules, QType, QType);

fn cases() -> Vec<Case> {
    let signed = |bits| QType { bits, signed: true, narrow: true };
    let unsigned = |bits| QType { bits, signed: false, narrow: false };
    vec![
        ("lsq", (4, 4), Rules::default(), QType { narrow: false, ..signed(4) }, unsigned(4)),
        ("lsq, normalised", (2, 4), live(Rules::default()), QType { narrow: false, ..signed(2) }, unsigned(4)),
        ("dorefa", (3, 4), rules(Weights::Dorefa, Activations::Dorefa, "clipped"), signed(4), unsigned(4)),
        ("dorefa weights", (7, 8), rules(Weights::Dorefa, Activations::Lsq, "ste"), signed(8), unsigned(8)),
        ("binary weights", (2, 8), rules(Weights::Binary, Activations::Lsq, "reste"), signed(2), unsigned(8)),
        ("binary", (2, 2), rules(Weights::Binary, Activations::Binary, "reste"), signed(2), unsigned(1)),
        (
            "binary, normalised",
            (2, 2),
            live(rules(Weights::Binary, Activations::Binary, "reste")),
            signed(2),
            unsigned(1),
        ),
        (
            "balanced, normalised",
            (2, 2),
            live(rules(Weights::Balanced, Activations::Binary, "clipped")),
            signed(2),
            unsigned(1),
        ),
        ("ternary weights", (2, 4), rules(Weights::Ternary, Activations::Fixed, "clipped"), signed(2), unsigned(4)),
        ("ternary", (2, 2), rules(Weights::Ternary, Activations::Ternary, "ewgs"), signed(2), signed(2)),
    ]
}

fn settings(epochs: u64, rules: Rules) -> Settings {
    let steps = Steps {
        method: Method::Sgd { momentum: 0.9 },
        rate: 0.002,
        decay: 1e-4,
        schedule: Schedule::Cosine,
        warm_up: 2,
        scale_rate: 1.0,
        weight_rate: 1.0,
        bounded: true,
        clip: Some(1.0),
    };
    Settings {
        epochs,
        batch: 16,
        parts: 1,
        steps,
        seed: 1,
        augment: Augment::default(),
        smoothing: 0.0,
        rules,
        bits: BitsSchedule::default(),
        low: Low::default(),
        precision: Precision::F32,
        distill: None,
        average: None,
    }
}

pub fn job(dir: &Path, out: &str, (weight, activation): (u8, u8), settings: Settings) -> Job {
    let model = dir.join("demo.onnx");
    std::fs::write(&model, demo::MODEL).unwrap();
    Job {
        source: Source::File(model),
        train: pictures(Stream::Train, 96),
        validation: None,
        recipe: Some(recipe(weight, activation)),
        begin: None,
        settings,
        eval_every: 0,
        checkpoint: None,
        log: None,
        output: output(dir.join(out)),
    }
}

/// The numbers that a product's weights stand for in an annotated graph.
fn written(graph: &Graph, node: &str) -> Vec<f32> {
    let (_, node) = graph.nodes().find(|(_, n)| n.name == node).unwrap();
    let w = node.input(1).unwrap();
    let (codes, params) = (graph.constant(w).unwrap(), graph.value(w).quant.clone().unwrap());
    let shape = codes.shape().to_vec();
    let codes = codes.to_i64s().unwrap();
    let real = |(i, &q): (usize, &i64)| {
        let k = params.index(&shape, i);
        nnq_kernels::round::dequantize_f32(q as i32, params.scale[k], params.zero_point[k])
    };
    codes.iter().enumerate().map(real).collect()
}

const IMAGES: usize = 16;

/// The first samples as one batch.
fn first(data: &Labelled, count: usize) -> Tensor {
    let settings = data::Settings { batch: count, threads: 1, skip_corrupt: false, cancel: None };
    let all = Loader::new(data.dataset.clone(), data.preprocess.clone(), (0..count).collect(), settings);
    all.unwrap().next().unwrap().unwrap().input
}

/// Each channel of normalised products is of a length from 2^-0.5 to 2^0.5, and on the codes that it had.
fn balanced(graph: &Graph, plan: &Plan, parameters: &Parameters<Flex>, factors: &qat::normal::Factors) {
    assert_eq!(factors.len(), plan.normal.len());
    for (id, factors) in factors {
        let constant = plan.normal[id].constants[0];
        let before = graph.constant(constant).unwrap().to_f32s();
        let after = parameters.numbers(Of::Constant(constant)).unwrap();
        let each = before.len() / factors.len();
        let grid = plan.products[id].weight;
        let scales = parameters.numbers(Of::Grid(grid)).unwrap();
        let alone = QParams::tensor(plan.grids[grid].params.qtype, 1.0, 0);
        for (c, k) in factors.iter().enumerate() {
            let row = c * each..(c + 1) * each;
            // Weights on levels stay on them.
            let levels = plan.grids[grid].levels;
            let of =
                |w: &[f32]| levels.map_or(w.to_vec(), |l| l.apply(w, &Grid::new(&alone, &[each], 1).unwrap()).values);
            let [b, a] = [&before, &after].map(|w| of(&w[row.clone()]));
            assert!(
                b.iter().zip(&a).all(|(b, a)| (b * k - a).abs() <= if levels.is_some() { 1e-6 } else { 0.0 } * a.abs())
            );
            assert_eq!(plan.grids[grid].params.scale[c] * k, scales[c]);
            let length = after[row].iter().map(|w| w * w).sum::<f32>().sqrt();
            assert!((0.499_99..=2.000_25).contains(&(length * length)), "channel {c}: {length}");
        }
    }
}

/// What training multiplies with is what the file holds, bit for bit; and what training computes is what the integer engine computes, but where a binary32
/// sum in another order falls on the other side of a tie.
#[test]
fn training_computes_what_the_engine_will() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("demo.onnx");
    std::fs::write(&model, demo::MODEL).unwrap();
    let (float, digest) = quantize::open(&model).unwrap();
    let data = pictures(Stream::Train, 64);
    let samples = Samples { dataset: data.dataset.clone(), preprocess: data.preprocess.clone() };
    let input = first(&data, IMAGES);
    let shape = input.shape().to_vec();
    let device = Device::<Flex>::default();
    let numbers = |x: FloatTensor<Flex>| backend::numbers::<Flex>(x).unwrap();
    for (name, (w, a), rules, weight_type, activation_type) in cases() {
        let recipe = recipe(w, a);
        let stats = quantize::calibrate(&float, digest, &samples, &recipe, 1, None, &mut |_, _, _| {}).unwrap();
        let quantizing = Quantizing::new(&float, &stats, &recipe, rules).unwrap();
        let (graph, plan) = (quantizing.graph().clone(), quantizing.plan.clone());
        let mut parameters = Parameters::<Flex>::new(&graph, &plan, &device).unwrap();
        if !plan.normal.is_empty() {
            // Gains and statistics that are not trivial.
            let how = Drawing { batch: 16, seed: 1, augment: Augment::default() };
            let batches = Batches::new(&data, how, 0, 0, 1, None).unwrap();
            let factors = qat::normal::balance::<Flex>(&plan, &mut parameters, &device).unwrap();
            balanced(&graph, &plan, &parameters, &factors);
            let begun = (&mut parameters, &factors);
            let start = qat::normal::Start::float(&graph, &plan, &device).unwrap();
            qat::normal::begin::<Flex>(&graph, &start, begun, batches, &device, &mut |_, _| {}).unwrap();
        }
        let leaves = parameters.leaves();
        let forward = Forward {
            graph: &graph,
            plan: &plan,
            parameters: &parameters,
            normalize: Normalize::Frozen,
            gradients: None,
            precision: Precision::F32,
            soft: None,
            device: &device,
        };
        let x = backend::tensor::<Flex>(input.to_f32s(), &shape, &device);
        let ours = numbers(forward.run(x, &leaves).unwrap().output.into_primitive());
        let mut multiplied = Vec::new();
        for (id, product) in &plan.products {
            let node = graph.node(*id);
            let leaf = leaves[parameters.of_value(node.input(1).unwrap()).unwrap()].clone();
            let planned = &plan.grids[product.weight];
            let grid = Grid::new(&planned.params, &backend::dims::<Flex>(&leaf), 1).unwrap();
            let rounded = match planned.levels {
                Some(levels) => fake::levelled::<Flex>(leaf, levels, &grid).unwrap().0,
                None => fake::fake::<Flex>(leaf, leaves[parameters.of_grid(product.weight).unwrap()].clone(), &grid),
            };
            // What normalised products multiply with is known up to the factor of each channel only.
            if !plan.normal.contains_key(id) {
                multiplied.push((node.name.clone(), numbers(rounded.into_primitive())));
            }
        }
        let quantized = Arc::new(quantizing.finish::<Flex>(&parameters).unwrap().graph);
        for (node, ours) in &multiplied {
            assert!(written(&quantized, node) == *ours, "{name}: weights of {node}");
        }
        let types = |constant: bool| -> Vec<QType> {
            let of = quantized.values().filter(|(_, v)| v.constant.is_some() == constant);
            of.filter_map(|(_, v)| v.quant.as_ref().map(|q| q.qtype)).collect()
        };
        assert!(types(true).contains(&weight_type), "{name}: {:?}", types(true));
        assert!(types(false).contains(&activation_type), "{name}: {:?}", types(false));
        let run = |kind| {
            let options = Options { kind, profile: Profile::Onnx, threads: 1 };
            Engine::open(quantized.clone(), options).unwrap().run(vec![input.clone()]).unwrap().remove(0).to_f32s()
        };
        let theirs = run(Kind::Int);
        assert_eq!(run(Kind::Sim), theirs, "{name}");
        let size = theirs.iter().fold(0f32, |m, x| m.max(x.abs()));
        let near = |(a, b): (&f32, &f32)| (*a - *b).abs() < 1e-4 * size;
        let classes = ours.len() / IMAGES;
        let equal = ours.chunks(classes).zip(theirs.chunks(classes)).filter(|(a, b)| a.iter().zip(*b).all(near));
        let equal = equal.count();
        // Of some hundred thousand values few images have one on a tie; a grid or a code that differed would show in all of them.
        assert!(equal >= IMAGES * 3 / 4, "{name}: {equal} of {IMAGES} images\n{ours:?}\n{theirs:?}");
    }
}

/// From file to file: the network learns, simulator and engine agree on what was written, and weights lie on the levels that were asked for.
#[test]
fn every_quantizer_trains_and_exports() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bits, rules, weight_type, _) in cases() {
        let mut job = job(dir.path(), &format!("{}.onnx", name.replace(' ', "-")), bits, settings(3, rules));
        job.train = pictures(Stream::Train, 160);
        let outcome = job::run(&job, &mut |_| {}).unwrap();
        let losses: Vec<f64> = outcome.epochs.iter().map(|e| e.loss).collect();
        assert!(losses[2] < losses[0], "{name}: {losses:?}");
        let graph = nnq::engine::load(&job.output.file).unwrap();
        let codes: Vec<Vec<i64>> = graph
            .values()
            .filter(|(_, v)| v.quant.as_ref().is_some_and(|q| q.qtype == weight_type))
            .filter_map(|(_, v)| v.constant.as_ref().map(|t| t.to_i64s().unwrap()))
            .collect();
        assert!(!codes.is_empty(), "{name}");
        let all = |fits: fn(i64) -> bool| codes.iter().flatten().all(|&c| fits(c));
        match rules.weights {
            Weights::Binary | Weights::Balanced => assert!(all(|c| c.abs() == 1), "{name}"),
            Weights::Ternary => assert!(all(|c| c.abs() <= 1) && !all(|c| c != 0), "{name}"),
            // Nothing else of the file has 8 bits there: the edges' weights do.
            Weights::Dorefa if bits.0 < 7 => assert!(all(|c| c % 2 != 0), "{name}"),
            _ => {}
        }
        let x = first(&pictures(Stream::Test, 4), 4);
        let [sim, int] = [Kind::Sim, Kind::Int].map(|kind| {
            let options = Options { kind, profile: Profile::default(), threads: 1 };
            Engine::open(graph.clone(), options).unwrap().run(vec![x.clone()]).unwrap().remove(0).to_f32s()
        });
        assert_eq!(sim, int, "{name}");
    }
}

#[test]
fn what_a_quantizer_cannot_do_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let of = |bits, weights, activations| {
        job(dir.path(), "never.onnx", bits, settings(1, rules(weights, activations, "clipped")))
    };
    let mut stages = of((4, 4), Weights::Lsq, Activations::Lsq);
    stages.settings.bits = "w8a8,w2a2".parse().unwrap();
    let mut low = of((4, 4), Weights::Lsq, Activations::Lsq);
    low.settings.low.gradients = Some(1);
    for (job, cause, cure) in [
        (of((8, 8), Weights::Dorefa, Activations::Lsq), "more than 7 bits", "--weight-quantizer lsq"),
        (of((4, 4), Weights::Binary, Activations::Lsq), "no layer with weights of 2 bits", "w2a8"),
        (of((2, 4), Weights::Lsq, Activations::Ternary), "no activation of 2 bits", "w2a2"),
        (stages, "end with w2a2", "--bits"),
        (low, "1 bits for gradients", "2 to 16"),
    ] {
        let e = job::run(&job, &mut |_| {}).unwrap_err().to_string();
        assert!(e.contains(cause) && e.contains(cure), "{cause}: {e}");
        assert!(!job.output.file.exists());
    }
}

/// Stages end on the bits of the recipe, whatever they began with; and with a rate of nothing they end where training without stages does.
#[test]
fn stages_end_with_the_bits_of_the_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let still = |out: &str, schedule: &str| {
        let mut job = job(dir.path(), out, (4, 4), settings(2, Rules::default()));
        (job.settings.steps.rate, job.settings.steps.decay) = (1e-30, 0.0);
        job.settings.bits = schedule.parse().unwrap();
        job::run(&job, &mut |_| {}).unwrap();
        let graph = nnq::engine::load(&job.output.file).unwrap();
        let scales: Vec<f32> =
            graph.values().filter_map(|(_, v)| v.quant.clone()).flat_map(|q| q.scale.clone()).collect();
        let bits: Vec<u8> = graph.values().filter_map(|(_, v)| v.quant.as_ref().map(|q| q.qtype.bits)).collect();
        (scales, bits)
    };
    let (once, bits) = still("once.onnx", "");
    let (staged, staged_bits) = still("staged.onnx", "w8a8,w6a5,w4a4");
    assert_eq!(bits, staged_bits);
    assert!(bits.contains(&4));
    // Scales went there and back in binary32.
    assert!(once.iter().zip(&staged).all(|(a, b)| (a - b).abs() <= 4e-7 * a), "{once:?} {staged:?}");
}
