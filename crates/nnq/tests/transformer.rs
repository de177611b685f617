//! Texts as calibration data: a small transformer, generated here, from texts to codes.
use nnq::{
    ErrorKind,
    data::{Preprocess, mix},
    engine::{self, Engine, Kind, Options},
    exec::lower::Profile,
    formats::onnx,
    ir::{
        DType, GraphBuilder, Op, Tensor, ValueId,
        op::{Binary, Reduction, Unary},
    },
    quant::{recipe::Recipe, stats::Stats},
    quantize::{self, Format, Job, Outcome, Samples},
    text::{self, Inputs, Tokenizer},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

const TOKENIZER: &str = r#"{"version": "1.0", "truncation": {"direction": "Right", "max_length": 6, "strategy": "LongestFirst", "stride": 0},
"padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 5, "[UNK]": 6}, "unk_token": "[UNK]"}}"#;

const WIDTH: usize = 8;

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    (0..n as u64).map(|i| (mix(seed, i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

fn product(b: &mut GraphBuilder, name: &str, x: ValueId, (k, n): (usize, usize)) -> ValueId {
    let w = b.constant(&format!("{name}.w"), Tensor::of(&[k, n], numbers(k * n, (k * n) as u64)));
    let c = b.constant(&format!("{name}.b"), Tensor::of(&[n], numbers(n, 7)));
    let y = b.op(name, Op::MatMul, &[x, w]);
    b.op(&format!("{name}.plus"), Op::Binary(Binary::Add), &[y, c])
}

fn norm(b: &mut GraphBuilder, name: &str, x: ValueId) -> ValueId {
    // One channel is far larger than the others.
    let mut scale = vec![1.0f32; WIDTH];
    scale[3] = 20.0;
    let scale = b.constant(&format!("{name}.scale"), Tensor::of(&[WIDTH], scale));
    let shift = b.constant(&format!("{name}.shift"), Tensor::of(&[WIDTH], numbers(WIDTH, 3)));
    b.op(name, Op::LayerNormalization { axis: -1, epsilon: 1e-5 }, &[x, scale, shift])
}

/// Embedding, one block of attention (one head) and of feed-forward with sums behind which it normalises, mean over tokens.
fn model(folder: &Path, rows: usize) -> PathBuf {
    written(folder, rows, false)
}

/// The same; as an encoder it takes a mask, and answers a row for each token.
fn written(folder: &Path, rows: usize, encoder: bool) -> PathBuf {
    let mut b = GraphBuilder::new("transformer");
    let ids = b.input("ids", DType::I64, "N, T");
    let mask = encoder.then(|| b.input("mask", DType::I64, "N, T"));
    let table = b.constant("table", Tensor::of(&[rows, WIDTH], numbers(rows * WIDTH, 1)));
    let x = b.op("embedding", Op::Gather { axis: 0 }, &[table, ids]);
    let x = norm(&mut b, "norm0", x);
    let [q, k, v] = ["q", "k", "v"].map(|name| product(&mut b, name, x, (WIDTH, WIDTH)));
    let k = b.op("turned", Op::Transpose { perm: vec![0, 2, 1] }, &[k]);
    let mut scores = b.op("scores", Op::MatMul, &[q, k]);
    if let Some(mask) = mask {
        let (one, far) = (b.constant("one", Tensor::scalar(1f32)), b.constant("far", Tensor::scalar(-1e4f32)));
        let axes = b.ints("rows", &[1]);
        let seen = b.op("mask.real", Op::Cast { to: DType::F32, saturate: true }, &[mask]);
        let hidden = b.op("mask.hidden", Op::Binary(Binary::Sub), &[one, seen]);
        let hidden = b.op("mask.far", Op::Binary(Binary::Mul), &[hidden, far]);
        let hidden = b.op("mask.rows", Op::Unsqueeze, &[hidden, axes]);
        scores = b.op("scores.masked", Op::Binary(Binary::Add), &[scores, hidden]);
    }
    let shares = b.op("shares", Op::Softmax { axis: -1, flat: false }, &[scores]);
    let seen = b.op("seen", Op::MatMul, &[shares, v]);
    let out = product(&mut b, "out", seen, (WIDTH, WIDTH));
    let sum = b.op("sum1", Op::Binary(Binary::Add), &[out, x]);
    let x = norm(&mut b, "norm1", sum);
    let up = product(&mut b, "up", x, (WIDTH, 2 * WIDTH));
    let gelu = b.op("gelu", Op::Unary(Unary::Gelu { tanh: false }), &[up]);
    let down = product(&mut b, "down", gelu, (2 * WIDTH, WIDTH));
    let sum = b.op("sum2", Op::Binary(Binary::Add), &[down, x]);
    let x = norm(&mut b, "norm2", sum);
    let axes = b.ints("axes", &[1]);
    let mean = Op::Reduce { kind: Reduction::Mean, keepdims: false, noop_with_empty_axes: false };
    let y = if encoder { x } else { b.op("mean", mean, &[x, axes]) };
    b.output(y);
    let path = folder.join("model.onnx");
    onnx::write(&b.finish().unwrap(), &path, &onnx::WriteOptions::default()).unwrap();
    path
}

fn tokenizer(folder: &Path) -> Tokenizer {
    let path = folder.join("tokenizer.json");
    fs::write(&path, TOKENIZER).unwrap();
    Tokenizer::open(&path).unwrap()
}

/// Texts of one to six words.
fn texts() -> Vec<String> {
    let word = |i: u64| ["a", "b", "c", "d", "e", "f"][(mix(5, i) % 6) as usize];
    (0..40u64).map(|t| (0..=t % 6).map(|i| word(100 * t + i)).collect::<Vec<_>>().join(" ")).collect()
}

fn samples(folder: &Path, texts: &[String]) -> Samples {
    let path = folder.join("texts.txt");
    fs::write(&path, texts.join("\n")).unwrap();
    let dataset = Arc::new(text::open(&path, &tokenizer(folder)).unwrap());
    Samples { dataset, preprocess: Preprocess::raw() }
}

fn quantized(folder: &Path, recipe: &str) -> Outcome {
    quantized_of(folder, model(folder, 7), recipe)
}

fn quantized_of(folder: &Path, model: PathBuf, recipe: &str) -> Outcome {
    let job = Job {
        model,
        samples: Some(samples(folder, &texts())),
        stats: None,
        recipe: Recipe::from_toml(recipe).unwrap(),
        eval: None,
        target: None,
        format: Format::Qdq,
        pack: onnx::Pack::default(),
        out: folder.join("out.onnx"),
        threads: 2,
        cancel: None,
    };
    quantize::run(&job, &mut |_, _, _| {}).unwrap()
}

/// The embeddings of all texts, one by one.
fn embeddings(path: &Path, folder: &Path, kind: Kind) -> Vec<f32> {
    let graph = engine::load(path).unwrap();
    let inputs = Inputs::new(&graph).unwrap();
    let mut engine = Engine::open(graph, Options { kind, profile: Profile::default(), threads: 2 }).unwrap();
    let tokenizer = tokenizer(folder);
    let one = |text: &String| engine.run(inputs.batch(&[&tokenizer.encode(text).unwrap()]).unwrap()).unwrap();
    texts().iter().map(one).flat_map(|y| y[0].to_f32s()).collect()
}

fn noise(a: &[f32], b: &[f32]) -> f64 {
    let squares = |of: &mut dyn Iterator<Item = f64>| of.map(|d| d * d).sum::<f64>();
    let signal = squares(&mut a.iter().map(|&x| f64::from(x)));
    squares(&mut a.iter().zip(b).map(|(&x, &y)| f64::from(x) - f64::from(y))) / signal
}

/// Six products compute in integers, attention, GELU, normalisations and sums do not; simulator and engine agree to the bit, and what smoothing and looking at
/// samples do brings the embeddings nearer to those of the float network.
#[test]
fn a_transformer_becomes_integers_on_texts() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut all = Vec::new();
    for recipe in ["", "smooth = 0.8\n", "smooth = 0.8\ncompensate = true\nweight = { rounding = \"gptq\" }\n"] {
        let outcome = quantized(folder, recipe);
        assert_eq!(outcome.weights.iter().map(|w| w.tensors).sum::<usize>(), 6, "{recipe}");
        assert_eq!(outcome.calibration_samples, 40);
        let (sim, int) = (
            embeddings(&folder.join("out.onnx"), folder, Kind::Sim),
            embeddings(&folder.join("out.onnx"), folder, Kind::Int),
        );
        assert_eq!(sim, int, "{recipe}");
        let float = embeddings(&folder.join("model.onnx"), folder, Kind::Float);
        assert_ne!(float, int);
        all.push(noise(&float, &int));
    }
    assert!(all[0] < 1e-2, "{all:?}");
    assert!(all[1] < all[0] && all[2] < all[0], "{all:?}");
}

/// From the embedding to the last normalisation everything computes in integers, and the embeddings are about as near to the float network's as with products
/// in integers alone.
#[test]
fn a_transformer_computes_in_integers_between_products_too() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut all = Vec::new();
    for recipe in ["", "[activation]\nmode = \"integer\"\n", "smooth = 0.8\n[activation]\nmode = \"integer\"\n"] {
        quantized(folder, recipe);
        let path = folder.join("out.onnx");
        let [sim, int] = [Kind::Sim, Kind::Int].map(|kind| embeddings(&path, folder, kind));
        assert_eq!(sim, int, "{recipe}");
        all.push(noise(&embeddings(&folder.join("model.onnx"), folder, Kind::Float), &int));
        let graph = engine::load(&path).unwrap();
        assert_eq!(Kind::for_graph(&graph), Kind::Int);
        let program = nnq::exec::lower::lower(&graph, Profile::Dyadic).unwrap();
        let floats: Vec<String> = program
            .steps
            .iter()
            .filter(|s| matches!(s.kind, nnq::exec::lower::StepKind::Float(_)))
            .map(|s| program.step_name(s))
            .collect();
        use nnq::exec::lower::StepKind::{Lookup, Quantize};
        let codes = program.steps.iter().any(|s| matches!(&s.kind, Lookup(l) if l.to.is_some()));
        // From ids to the last normalisation nothing computes in floating point but the mean over all tokens.
        if recipe.is_empty() {
            assert!(floats.len() > 10 && !codes, "{floats:?}");
        } else {
            assert!(floats == ["mean"] && codes, "{floats:?}");
            assert!(!program.steps.iter().any(|s| matches!(s.kind, Quantize)));
        }
    }
    assert!(all[1] < 2.0 * all[0] && all[2] < 2.0 * all[0], "{all:?}");
    // A plan is for one length.
    let error =
        engine::compile(&folder.join("out.onnx"), &folder.join("plan"), &[1], Profile::Dyadic, None).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("[N, T]") && text.contains("fixed sizes") && !text.contains("--size"), "{text}");
}

/// An encoder from ids and mask to a row for each token: no operation reads or makes real numbers but the one that answers them. What the mask hides has no
/// part in what the others get.
#[test]
fn an_encoder_runs_in_integers_from_ids_to_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = written(folder, 7, true);
    quantized_of(folder, model.clone(), "smooth = 0.8\n[activation]\nmode = \"integer\"\n");
    let graph = engine::load(&folder.join("out.onnx")).unwrap();
    let program = nnq::exec::lower::lower(&graph, Profile::Dyadic).unwrap();
    assert_eq!(program.integer_share().1, 0, "{:?}", program.notes);
    use nnq::exec::lower::StepKind::{Dequantize, Quantize};
    assert!(!program.steps.iter().any(|s| matches!(s.kind, Quantize)));
    let (last, before) = program.steps.split_last().unwrap();
    assert!(matches!(last.kind, Dequantize) && !before.iter().any(|s| matches!(s.kind, Dequantize)));

    let run = |graph: &Arc<nnq::ir::Graph>, kind: Kind, ids: Vec<i64>, mask: Vec<i64>| {
        let n = ids.len();
        let x = [ids, mask].map(|v| Tensor::of(&[1, n], v));
        let options = Options { kind, profile: Profile::default(), threads: 2 };
        Engine::open(graph.clone(), options).unwrap().run(x.to_vec()).unwrap()[0].to_f32s()
    };
    let all = |kind| run(&graph, kind, vec![0, 3, 5, 2, 1, 4], vec![1, 1, 0, 1, 0, 1]);
    assert_eq!(all(Kind::Sim), all(Kind::Int));
    let float = run(&engine::load(&model).unwrap(), Kind::Float, vec![0, 3, 5, 2, 1, 4], vec![1, 1, 0, 1, 0, 1]);
    assert!(noise(&float, &all(Kind::Int)) < 2e-2);
    // Other tokens where the mask hides them: the rows of those that count stay, bit for bit.
    let other = run(&graph, Kind::Int, vec![0, 3, 1, 2, 6, 4], vec![1, 1, 0, 1, 0, 1]);
    for (token, (a, b)) in all(Kind::Int).chunks(WIDTH).zip(other.chunks(WIDTH)).enumerate() {
        assert_eq!(a == b, token != 2 && token != 4, "token {token}");
    }
}

/// Statistics are the same whatever ran together, and nothing that was padded is in them.
#[test]
fn statistics_of_texts_are_exact() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (graph, digest) = quantize::open(&model(folder, 7)).unwrap();
    let stats = |samples: &Samples, threads: usize| -> Stats {
        quantize::calibrate(&graph, digest, samples, &Recipe::default(), threads, None, &mut |_, _, _| {}).unwrap()
    };
    let all = samples(folder, &texts());
    let (one, two) = (stats(&all, 1), stats(&all, 2));
    assert_eq!(one, two);
    // By hand: what the first product reads reaches as far in the statistics as in the float network.
    let name = graph.nodes().find(|(_, n)| n.name == "norm0").and_then(|(_, n)| n.output(0)).unwrap();
    let [low, high] = one.get(&graph.value(name).name).unwrap().tensor().unwrap().extremes().unwrap();
    let (mut least, mut most) = (f32::INFINITY, f32::NEG_INFINITY);
    let mut scale = [1.0f32; WIDTH];
    scale[3] = 20.0;
    let (table, shift) = (numbers(7 * WIDTH, 1), numbers(WIDTH, 3));
    for row in table.chunks(WIDTH).take(6) {
        let mean = row.iter().sum::<f32>() / WIDTH as f32;
        let deviation = (row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / WIDTH as f32 + 1e-5).sqrt();
        for c in 0..WIDTH {
            let y = (row[c] - mean) / deviation * scale[c] + shift[c];
            (least, most) = (least.min(y), most.max(y));
        }
    }
    // The network computes in another order.
    assert!((low - least).abs() < 1e-4 * least.abs() && (high - most).abs() < 1e-4 * most.abs());
}

#[test]
fn what_does_not_fit_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let t = tokenizer(folder);
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        text::open(&path, &t).map(|d| d.len()).map_err(|e| (e.kind(), e.to_string()))
    };
    assert_eq!(file("pairs.csv", "a,b,1\nc d,e,2\n"), Ok(4));
    assert_eq!(file("lines.txt", "a b\n\n c\n"), Ok(2));
    for (name, text, says) in [
        ("empty.txt", "\n\n", "empty.txt: the file holds no texts"),
        ("empty.csv", "", "empty.csv"),
        ("short.csv", "a,b,1\nc,d\n", "line 2"),
        ("data.bin", "a", "data.bin: no file of texts"),
        ("white.csv", "a,b,1\nc,\" \",2\n", "white.csv: line 2"),
    ] {
        let (_, e) = file(name, text).unwrap_err();
        assert!(e.contains(says), "{says}: {e}");
    }
    // The tokenizer is another network's.
    let (graph, digest) = quantize::open(&model(folder, 4)).unwrap();
    let run = |samples: &Samples| {
        quantize::calibrate(&graph, digest, samples, &Recipe::default(), 1, None, &mut |_, _, _| {}).unwrap_err()
    };
    let e = run(&samples(folder, &["a f".to_owned()])).to_string();
    assert!(e.contains("node 'embedding'") && e.contains("token 5") && e.contains("tokenizer"), "{e}");
    // Pictures for a network of text.
    let image = nnq::data::Image::new(1, 1, 3, vec![1, 2, 3]).unwrap();
    let dataset = Arc::new(nnq::data::Dataset::in_memory(vec![image], None, Vec::new()).unwrap());
    run(&Samples { dataset, preprocess: Preprocess::raw() });
    // Texts where pictures are read.
    let texts = samples(folder, &["a".to_owned()]);
    let e = texts.dataset.sample(0).unwrap_err();
    assert!(e.kind() == ErrorKind::Unsupported && e.to_string().contains("texts.txt, line 1"), "{e}");
}
