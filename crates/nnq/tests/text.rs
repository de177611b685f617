//! Text through whole networks: a table of embeddings of four words and their mean, and the data folder's language model.
use crate::networks::{data, python, run, scratch, tool};
use nnq::{
    analyze,
    data::Preprocess,
    engine::{Engine, Kind, Options},
    eval::{self, Labelled},
    exec::lower::Profile,
    formats::onnx::{self, Pack},
    ir::{DType, Graph, GraphBuilder, Op, Tensor, ValueId, op::Reduction},
    quant::{recipe::Recipe, stats::Stats},
    quantize::{self, Format, Samples},
    search::Target,
    text::{self, Storage, Tokenizer, generate, language, read_documents, read_pairs, similarity},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

/// Words of a vocabulary, split at spaces; texts end in `[SEP]` and are cut to five tokens.
const TOKENIZER: &str = r#"{"version": "1.0", "truncation": {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
"padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
"added_tokens": [{"id": 1, "content": "[SEP]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
"normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
"pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"[SEP]": {"id": "[SEP]", "ids": [1], "tokens": ["[SEP]"]}}},
"decoder": null, "model": {"type": "WordLevel", "vocab": {"[PAD]": 0, "[SEP]": 1, "cat": 2, "dog": 3, "stone": 4, "[UNK]": 5}, "unk_token": "[UNK]"}}"#;

fn tokenizer(folder: &Path) -> Tokenizer {
    let path = folder.join("tokenizer.json");
    fs::write(&path, TOKENIZER).unwrap();
    Tokenizer::open(&path).unwrap()
}

/// The mean of the embeddings of a text's tokens: `[SEP]` has none, a cat is near a dog, and a stone near neither.
fn mean(b: &mut GraphBuilder, rows: usize) -> ValueId {
    let x = embedded(b, rows);
    mean_of(b, x)
}

fn embedded(b: &mut GraphBuilder, rows: usize) -> ValueId {
    let all = [[0.0f32, 0.0], [0.0, 0.0], [1.0, 0.1], [0.9, 0.3], [-0.2, 1.0], [0.5, 0.5]];
    let ids = b.input("input_ids", DType::I64, "N, T");
    b.input("attention_mask", DType::I64, "N, T");
    let table = b.constant("table", Tensor::of(&[rows, 2], all[..rows].concat()));
    b.op("embedding", Op::Gather { axis: 0 }, &[table, ids])
}

fn mean_of(b: &mut GraphBuilder, x: ValueId) -> ValueId {
    let axes = b.ints("axes", &[1]);
    let mean = Op::Reduce { kind: Reduction::Mean, keepdims: false, noop_with_empty_axes: false };
    b.op("mean", mean, &[x, axes])
}

fn network(rows: usize) -> Arc<Graph> {
    let mut b = GraphBuilder::new("mean");
    let y = mean(&mut b, rows);
    b.output(y);
    Arc::new(b.finish().unwrap())
}

fn engine(graph: Arc<Graph>) -> Engine {
    Engine::open(graph, Options { kind: Kind::Float, profile: Profile::default(), threads: 1 }).unwrap()
}

#[test]
fn texts_become_tokens_and_are_cut_before_the_special_ones() {
    let folder = tempfile::tempdir().unwrap();
    let t = tokenizer(folder.path());
    assert_eq!(t.vocabulary(), 6);
    let short = t.encode("Cat bird dog").unwrap();
    assert_eq!((&short.ids[..], short.cut), (&[2, 5, 3, 1][..], false));
    let long = t.encode("cat cat cat dog dog dog").unwrap();
    assert_eq!((&long.ids[..], long.cut), (&[2, 2, 2, 3, 1][..], true));
    // Of two texts the longer one is cut.
    let pair = t.encode_pair(["cat dog", "stone"]).unwrap();
    assert_eq!((&pair.ids[..], &pair.types[..], pair.cut), (&[2, 3, 4][..], &[0, 0, 1][..], false));
    let long = t.encode_pair(["cat cat cat dog", "stone dog"]).unwrap();
    assert_eq!((&long.ids[..], &long.types[..], long.cut), (&[2, 2, 2, 4, 3][..], &[0, 0, 0, 1, 1][..], true));
    let e = t.limited(Some(1)).encode_pair(["cat", "dog"]).unwrap_err().to_string();
    assert!(e.contains("two texts in 1 tokens") && e.contains("--length"), "{e}");
}

#[test]
fn similarity_of_pairs() {
    let folder = tempfile::tempdir().unwrap();
    let t = tokenizer(folder.path());
    let csv = folder.path().join("pairs.csv");
    fs::write(&csv, "cat,cat,5\ncat,dog,4\n\"cat stone\",dog,2\ncat,stone,0\nstone,stone,5\n").unwrap();
    let pairs = read_pairs(&csv).unwrap();
    let run = |batch: Option<usize>, reference: Option<&mut Engine>| {
        let options = similarity::Options { batch, ..Default::default() };
        similarity::measure(&mut engine(network(6)), reference, &pairs, &t, &options, &mut |_, _| {}).unwrap()
    };
    let report = run(None, Some(&mut engine(network(6))));
    // The order of cosines is the order of scores, ties included.
    assert!((report.spearman - 1.0).abs() < 1e-9, "{}", report.spearman);
    let reference = report.reference.unwrap();
    assert!((reference.mean_cosine - 1.0).abs() < 1e-6 && (reference.spearman - 1.0).abs() < 1e-9);
    assert_eq!((report.pairs, report.tokens, report.width, report.cut), (5, 21, 2, 0));
    assert!((run(Some(1), None).pearson - report.pearson).abs() < 1e-9);
}

/// Texts with their classes, of different lengths: by hand a cat and a dog are of class 0 and a stone of class 1; two lines say otherwise.
const CLASSES: &str = "text\tlabel\ncat\t0\nstone stone\t1\ncat dog\t1\ndog\t0\nstone\t0\nstone stone stone\t1\n";

#[test]
fn classes_of_texts() {
    let folder = tempfile::tempdir().unwrap();
    let t = tokenizer(folder.path());
    let tsv = folder.path().join("classes.tsv");
    fs::write(&tsv, CLASSES).unwrap();
    let dataset = Arc::new(text::open(&tsv, &t).unwrap());
    let data = Labelled { dataset, preprocess: Preprocess::raw(), classes: None };
    let run = |batch: usize| {
        let options = eval::Options { batch: Some(batch), ..Default::default() };
        eval::evaluate(&mut engine(network(6)), &data, &options, &mut |_, _| {}).unwrap()
    };
    let report = run(32);
    // In the order of the file, although texts run by their length.
    assert_eq!(report.correct, [true, true, false, true, false, true]);
    // Of class 1: 2 of 3 answers are right, 2 of 3 are found.
    assert!((report.f1.unwrap() - 2.0 / 3.0).abs() < 1e-12 && (report.macro_f1 - 2.0 / 3.0).abs() < 1e-12);
    assert_eq!((report.samples, report.logits_sha256), (6, run(1).logits_sha256));
    let short = Tokenizer::open(&folder.path().join("tokenizer.json")).unwrap().limited(Some(3));
    assert_eq!(short.encode("cat cat cat").unwrap().ids, [2, 2, 1]);
    let pairs = folder.path().join("pairs.csv");
    // Two texts with one class: a cat and a dog are of class 0, with two stones behind them of class 1.
    fs::write(&pairs, "sentence1,sentence2,label\ncat,dog,0\ncat,stone stone,1\ncat,stone stone,0\n").unwrap();
    let dataset = Arc::new(text::open(&pairs, &t).unwrap());
    assert_eq!((dataset.len(), dataset.tokens(1).map(|t| &t.ids[..])), (3, Some(&[2, 4, 4][..])));
    let data = Labelled { dataset, preprocess: Preprocess::raw(), classes: None };
    let report = eval::evaluate(&mut engine(network(6)), &data, &eval::Options::default(), &mut |_, _| {}).unwrap();
    assert_eq!(report.correct, [true, true, false]);
    fs::write(&pairs, "cat,cat,5\ncat,dog,4\n").unwrap();
    let dataset = Arc::new(text::open(&pairs, &t).unwrap());
    let data = Labelled { dataset, preprocess: Preprocess::raw(), classes: None };
    let e = eval::check(&network(6), &data).unwrap_err().to_string();
    assert!(e.contains("no labels") && e.contains("text,label"), "{e}");
}

/// A network that is wrong about two texts of six, in a file, and 24 texts with their classes.
fn classes(folder: &Path) -> (PathBuf, Samples, Labelled) {
    let t = tokenizer(folder);
    let (tsv, model) = (folder.join("classes.tsv"), folder.join("m.onnx"));
    fs::write(&tsv, CLASSES.repeat(4).replace("\ntext\tlabel", "")).unwrap();
    let mut b = GraphBuilder::new("classes");
    let x = embedded(&mut b, 6);
    // Of each token: as many as the text has.
    let w = b.constant("w", Tensor::of(&[2, 2], vec![1.0f32, -0.3, 0.2, 0.9]));
    let y = b.op("product", Op::MatMul, &[x, w]);
    let y = mean_of(&mut b, y);
    b.output(y);
    onnx::write(&b.finish().unwrap(), &model, &Default::default()).unwrap();
    let samples = Samples { dataset: Arc::new(text::open(&tsv, &t).unwrap()), preprocess: Preprocess::raw() };
    let eval = Labelled { dataset: samples.dataset.clone(), preprocess: Preprocess::raw(), classes: None };
    (model, samples, eval)
}

/// Texts are what an analysis measures layers on: each alone, by length, and the whole network.
#[test]
fn analysis_of_classes_of_texts() {
    let folder = tempfile::tempdir().unwrap();
    let (model, samples, eval) = classes(folder.path());
    let job = analyze::Job {
        model,
        samples: Some(samples),
        stats: None,
        // The weights' rows are 0.2 and 0.9, of which one bit more than a sign leaves little.
        recipe: Recipe::from_toml("[weight]\nbits = 2\ngranularity = \"tensor\"\n").unwrap(),
        eval: Some(eval),
        classes: None,
        measured: 100,
        sensitivity: true,
        trials: true,
        threads: 1,
        cancel: None,
    };
    let analysis = analyze::run(&job, &mut |_, _, _| {}).unwrap();
    assert_eq!((analysis.measured, analysis.looked), (24, 24));
    assert!((analysis.float.top1.unwrap() - 4.0 / 6.0).abs() < 1e-12);
    let layer = analysis.layers.iter().find(|l| l.node == "product").unwrap();
    let sensitivity = layer.sensitivity.as_ref().unwrap();
    assert!(sensitivity.only.close.divergence > 1e-4, "{:?}", sensitivity.only);
    assert!(analysis.quantized.close.divergence > 1e-4, "{:?}", analysis.quantized);
    assert!(analysis.quantized.close.sqnr_db < 20.0 && analysis.quantized.top1.is_some(), "{:?}", analysis.quantized);
}

/// Classes of texts are what a search for a recipe counts, and what accuracy before and after is measured on.
#[test]
fn recipes_for_classes_of_texts() {
    let folder = tempfile::tempdir().unwrap();
    let (model, samples, eval) = classes(folder.path());
    let job = quantize::Job {
        model,
        samples: Some(samples),
        stats: None,
        recipe: Recipe::default(),
        eval: Some(eval),
        target: Some(Target { drop: 0.0, budget: None, classes: None }),
        format: Format::Qdq,
        pack: Pack::Never,
        out: folder.path().join("q.onnx"),
        threads: 1,
        cancel: None,
    };
    let outcome = quantize::run(&job, &mut |_, _, _| {}).unwrap();
    let found = outcome.search.unwrap();
    // Half of the 24 texts calibrate.
    assert!(found.reached && found.samples == 12, "{} {}", found.reached, found.samples);
    let [float, sim, int] = [outcome.float.unwrap(), outcome.sim.unwrap().eval, outcome.int.unwrap().eval];
    assert_eq!((float.samples, sim.logits_sha256), (24, int.logits_sha256));
    assert!((float.top1 - 4.0 / 6.0).abs() < 1e-12 && int.top1 >= float.top1);
}

#[test]
fn what_does_not_fit_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let t = tokenizer(folder.path());
    let csv = folder.path().join("pairs.csv");
    fs::write(&csv, "cat,stone,5\ncat,dog,4\n").unwrap();
    let pairs = read_pairs(&csv).unwrap();
    let fails = |graph: Arc<Graph>| {
        let options = similarity::Options::default();
        similarity::measure(&mut engine(graph), None, &pairs, &t, &options, &mut |_, _| {}).unwrap_err().to_string()
    };
    let e = fails(network(4));
    assert!(e.contains("token 4, and the embedding is of 4 tokens") && e.contains("node 'embedding'"), "{e}");
    let mut b = GraphBuilder::new("picture");
    let x = b.input("x", DType::F32, "N, 2");
    let y = b.op("same", Op::Identity, &[x]);
    b.output(y);
    let e = fails(Arc::new(b.finish().unwrap()));
    assert!(e.contains("input 'x'") && e.contains("token ids"), "{e}");
    fs::write(folder.path().join("no.json"), "{}").unwrap();
    let e = Tokenizer::open(&folder.path().join("no.json")).err().unwrap().to_string();
    assert!(e.contains("no.json") && e.contains("tokenizer"), "{e}");
    assert!(Tokenizer::open(&folder.path().join("none.json")).err().unwrap().to_string().contains("none.json"));
}

/// Networks and tokenizer of the data folder's language model.
fn stories() -> Option<PathBuf> {
    let (python, models) = (python()?, data("models")?);
    let dir = scratch().join("stories");
    // The script writes this file last.
    if !dir.join("stories260K.tokenizer.json").exists() {
        run(Command::new(python).arg(tool("text_models.py")).arg("--stories").arg(models).arg(&dir));
    }
    Some(dir)
}

fn weight_only(path: &Path, recipe: &str) -> Arc<Graph> {
    let recipe = Recipe::from_toml(recipe).unwrap();
    let float = quantize::open(path).unwrap().0;
    Arc::new(quantize::annotate(&float, &Stats::new([0; 32], String::new()), &recipe).unwrap().graph)
}

#[derive(serde::Deserialize)]
struct Story {
    prompt: String,
    tokens: Vec<u32>,
    text: String,
    margin: f64,
}

#[test]
fn the_likeliest_story() {
    let Some(dir) = stories() else { return };
    let t = Tokenizer::open(&dir.join("stories260K.tokenizer.json")).unwrap();
    let golden: Vec<Story> = serde_json::from_str(include_str!("golden/stories.json")).unwrap();
    for name in ["stories260K", "stories260K_17", "stories260K_cache"] {
        let path = dir.join(format!("{name}.onnx"));
        let mut float = Engine::open_file(&path, None, Profile::default(), 2).unwrap();
        for story in &golden {
            // Binary32 is far more exact than the two likeliest tokens are near.
            assert!(story.margin > 1e-3);
            let mut heard = String::new();
            let options = generate::Options {
                tokens: story.tokens.len(),
                temperature: 0.0,
                seed: 0,
                cache: Storage::F32,
                cancel: None,
            };
            let mut hear = |piece: &str| heard.push_str(piece);
            let report = generate::generate(&mut float, &t, &story.prompt, &options, &mut hear).unwrap();
            assert_eq!((&report.tokens, &report.text), (&story.tokens, &story.text), "{name}");
            assert_eq!(heard, story.text);
            assert_eq!(report.cache_bytes.is_some(), name.ends_with("cache"));
        }
    }
}

/// Codes of 8 bits cost next to nothing, simulated and on the kernels alike; a cache of other types neither.
#[test]
fn stories_with_weights_in_codes() {
    let (Some(dir), Some(text)) = (stories(), data("text/tinystories_2M.txt")) else { return };
    let t = Tokenizer::open(&dir.join("stories260K.tokenizer.json")).unwrap();
    let texts = read_documents(&text).unwrap();
    let options = language::Options { limit: Some(12), length: Some(512), cancel: None };
    let measure = |graph: Arc<Graph>, kind| {
        let mut engine = Engine::open(graph, Options { kind, profile: Profile::default(), threads: 2 }).unwrap();
        language::measure(&mut engine, &texts, &t, &options, &mut |_, _| {}).unwrap()
    };
    let path = dir.join("stories260K.onnx");
    let float = measure(quantize::open(&path).unwrap().0, Kind::Float);
    let eight = "[activation]\nmode = \"float\"\n";
    let four = "last = \"8bit\"\n[activation]\nmode = \"float\"\n[weight]\nbits = 4\nsymmetric = false\nrange = \"mse\"\ngranularity = \"block:16\"\n";
    for (recipe, most) in [(eight, 0.003), (four, 0.06)] {
        let graph = weight_only(&path, recipe);
        let [sim, int] = [Kind::Sim, Kind::Int].map(|kind| measure(graph.clone(), kind));
        assert_eq!(sim.nats_per_token.to_bits(), int.nats_per_token.to_bits());
        let change = int.nats_per_token - float.nats_per_token;
        assert!(change.abs() < most, "{change}");
    }
    let graph = weight_only(&dir.join("stories260K_cache.onnx"), eight);
    let mut engine = Engine::open(graph, Options { kind: Kind::Int, profile: Profile::default(), threads: 1 }).unwrap();
    let bytes: Vec<usize> = [Storage::F32, Storage::F16, Storage::Int8]
        .into_iter()
        .map(|cache| {
            let options = generate::Options { tokens: 40, temperature: 0.0, seed: 0, cache, cancel: None };
            let report = generate::generate(&mut engine, &t, "Once upon a time", &options, &mut |_| {}).unwrap();
            assert!(report.text.starts_with("Once upon a time, there was a"), "{cache}: {}", report.text);
            report.cache_bytes.unwrap()
        })
        .collect();
    // Five layers, keys and values, four heads of eight numbers, 44 tokens.
    assert_eq!(bytes, [2 * 5 * 4 * 8 * 44 * 4, 2 * 5 * 4 * 8 * 44 * 2, 2 * 5 * 4 * (8 + 4) * 44]);
}
