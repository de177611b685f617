//! `nnq analyze` on what is missing, damaged or not what it takes.
use super::{
    commands::{nnq, quantized},
    files::{bmp, cifar, pictures, put, sound},
    onnx::{Model, net, net_with, node, tensor, weights},
    table::{Row, fails, works},
};

const ANALYZE: &str = "analyze m.onnx --data data";

#[rustfmt::skip]
pub fn rows() -> Vec<Row> {
    vec![
        Row { says: &["same best class", "n_c1", "n_c2", "n_y", "without: same"], ..works("analyzed", sound, "analyze m.onnx --data data --eval data", &[]) },
        Row { says: &["\"findings\": [", "\"advice\": {", "\"sensitivity\": {", "\"cause\": \"weights\""], ..works("analyzed as JSON", sound, "analyze m.onnx --data data --json", &[]) },
        Row { says: &["same best class"], ..works("analyzed at few bits with all methods", sound, "analyze m.onnx --data data --bits w4a4 --equalize --rounding descent --compensate --correct-bias", &[]) },
        Row { says: &["same best class"], ..works("analyzed with wide codes", sound, "analyze m.onnx --data data --bits w8a12 --measure 4", &[]) },
        works("analyzed with blocks of weights", sound, "analyze m.onnx --data data --granularity block:2 --no-sensitivity", &[]),
        works("analyzed without trials", sound, "analyze m.onnx --data data --bits w3a3 --no-sensitivity --no-trials", &[]),
        works("analyzed with statistics", |f| { sound(f); nnq(f, "calibrate m.onnx --data data -o s.qstats"); }, "analyze m.onnx --stats s.qstats --eval data", &[]),
        works("analyzed on one sample", |f| { sound(f); put(f, "one/test_batch.bin", cifar(1)); }, "analyze m.onnx --data data --eval one", &[]),
        works("analyzed without labels", |f| { sound(f); (0..3).for_each(|i| put(f, &format!("plain/{i}.bmp"), bmp(32, 32, i))); }, "analyze m.onnx --data plain", &[]),
        works("a layer stays float", |f| { sound(f); put(f, "r.toml", "[[layer]]\nmatch = \"n_c2\"\nkeep_float = true\n"); }, "analyze m.onnx --data data --recipe r.toml", &[]),
        works("answers of no classes", |f| { let mut m = net(); m.nodes.truncate(3); m.outputs = vec![super::onnx::value("c2", super::onnx::F32, "?")]; put(f, "m.onnx", m.build()); pictures(f); }, ANALYZE, &[]),
        #[cfg(feature = "train")]
        Row { says: &["Hessian of the float network's loss", "cross-entropy with the labels", "largest eigenvalue", "sensitivity", "3 draws"], ..works("curvature", sound, "analyze m.onnx --data data --bits w4a8 --measure 8 --no-sensitivity --no-trials --hessian=3", &[]) },
        #[cfg(feature = "train")]
        Row { says: &["\"hessian\": {", "\"trace_error\"", "\"eigenvalue\"", "\"classes\": \"labels\"", "\"findings\": ["], ..works("curvature as JSON", sound, "analyze m.onnx --data data --measure 8 --no-sensitivity --no-trials --hessian=2 --json", &[]) },
        #[cfg(feature = "train")]
        Row { says: &["the network's own best classes"], ..works("curvature without labels, one layer float", |f| { sound(f); put(f, "r.toml", "[[layer]]\nmatch = \"n_c2\"\nkeep_float = true\n"); (0..3).for_each(|i| put(f, &format!("plain/{i}.bmp"), bmp(32, 32, i))); }, "analyze m.onnx --data plain --recipe r.toml --no-sensitivity --no-trials --hessian=2", &[]) },
        #[cfg(feature = "train")]
        works("curvature with statistics", |f| { sound(f); nnq(f, "calibrate m.onnx --data data -o s.qstats"); }, "analyze m.onnx --stats s.qstats --eval data --measure 8 --no-sensitivity --no-trials --hessian=2", &[]),
        #[cfg(not(feature = "train"))]
        fails("curvature without training", sound, "analyze m.onnx --data data --hessian", 2, &["--hessian", "--features train"]),
        fails("curvature by one draw", sound, "analyze m.onnx --data data --hessian=1", 2, &["--hessian"]),
        fails("no data to analyze with", sound, "analyze m.onnx", 2, &["--data"]),
        fails("data to analyze with that is missing", sound, "analyze m.onnx --data nowhere", 1, &["nowhere", "No such file"]),
        fails("nothing to measure", sound, "analyze m.onnx --data data --measure 0", 2, &["--measure"]),
        fails("statistics and nothing to measure on", |f| { sound(f); nnq(f, "calibrate m.onnx --data data -o s.qstats"); }, "analyze m.onnx --stats s.qstats", 2, &["--eval"]),
        fails("balanced layers and statistics, analyzed", |f| { sound(f); nnq(f, "calibrate m.onnx --data data -o s.qstats"); }, "analyze m.onnx --stats s.qstats --eval data --equalize", 2, &["s.qstats", "give --data"]),
        fails("evaluation without labels, analyzed", |f| { sound(f); (0..3).for_each(|i| put(f, &format!("plain/{i}.bmp"), bmp(32, 32, i))); }, "analyze m.onnx --data data --eval plain", 2, &["m.onnx", "no labels"]),
        fails("a quantized model analyzed", quantized, "analyze q.onnx --data data", 2, &["q.onnx", "quantized already", "float model"]),
        fails("no model to analyze", pictures, ANALYZE, 1, &["m.onnx", "No such file"]),
        fails("NaN weights analyzed", |f| { put(f, "m.onnx", net_with(2, { let mut w = weights(288); w[40] = f32::NAN; tensor("w2", &[8, 4, 3, 3], &w) })); pictures(f); }, ANALYZE, 1, &["m.onnx", "n_c2", "'w2'", "NaN"]),
        fails("NaN from within, analyzed", |f| { let mut m = net(); m.nodes[4] = node("Log", &["p"], "l"); m.nodes.insert(5, node("Flatten", &["l"], "f")); put(f, "m.onnx", Model { ..m }.build()); pictures(f); }, ANALYZE, 1, &["m.onnx", "NaN"]),
        fails("a bad recipe analyzed", |f| { sound(f); put(f, "r.toml", "[weight]\nbits = 1\n"); }, "analyze m.onnx --data data --recipe r.toml", 2, &["r.toml", "2 to 16"]),
        Row { env: &[("NNQ_ISA", "sse9")], ..fails("unknown instruction set while analyzing", sound, ANALYZE, 2, &["NNQ_ISA", "'sse9'"]) },
    ]
}
