//! Arguments, settings, places to write to, and files that other commands wrote.
use super::{
    files::{self, pictures, put, sound},
    onnx::{net, net_with, node, tensor},
    table::{Row, fails, finish, start, works},
};
use std::path::Path;

/// What the shell allows a process to write, in blocks; too much is an error and no signal.
pub(super) const FULL: Option<&str> = Some("trap '' XFSZ; ulimit -f 0; exec \"$@\"");
const QUANTIZE: &str = "quantize m.onnx --data data -o q.onnx";

/// Runs a command that must work.
pub(super) fn nnq(f: &Path, args: &str) {
    let args: Vec<&str> = args.split(' ').collect();
    let o = finish(start(f, &args, &[], None));
    assert_eq!(o.code, Some(0), "nnq {args:?}: {}", o.stderr);
}

/// `q.onnx` beside the sound files.
pub(super) fn quantized(f: &Path) {
    sound(f);
    nnq(f, QUANTIZE);
}

/// `s.qstats` beside the sound files.
fn calibrated(f: &Path) {
    sound(f);
    nnq(f, "calibrate m.onnx --data data -o s.qstats");
}

/// The sound files, the network with a batch normalisation behind each convolution.
fn normalised(f: &Path) {
    sound(f);
    let mut m = net();
    for (i, (name, from, n)) in [("n1", "c1", 4), ("n2", "c2", 8)].into_iter().enumerate() {
        let parts = ["gamma", "beta", "mean", "variance"].map(|part| format!("{name}.{part}"));
        let inputs: Vec<&str> = std::iter::once(from).chain(parts.iter().map(String::as_str)).collect();
        m.nodes.insert(2 * i + 1 + i, node("BatchNormalization", &inputs, name));
        m.constants.extend(parts.iter().map(|part| tensor(part, &[n], &vec![0.5; n as usize])));
    }
    // What read the convolutions reads the normalisations.
    m.nodes[2] = node("Relu", &["n1"], "r1");
    m.nodes[5] = node("GlobalAveragePool", &["n2"], "p");
    put(f, "m.onnx", m.build());
}

fn recipe(f: &Path, text: &str) {
    sound(f);
    put(f, "r.toml", text);
}

/// An earlier result that a failure must not touch.
fn with_earlier(f: &Path) {
    sound(f);
    put(f, "q.onnx", "earlier");
}

fn earlier_is_kept(f: &Path) -> Result<(), String> {
    let text = std::fs::read(f.join("q.onnx")).map_err(|e| e.to_string())?;
    if text == b"earlier" { Ok(()) } else { Err("the earlier q.onnx was overwritten".into()) }
}

#[rustfmt::skip]
pub fn rows() -> Vec<Row> {
    const RECIPE: &str = "quantize m.onnx --data data --recipe r.toml -o q.onnx";
    const PREPROCESS: &str = "quantize m.onnx --data data --preprocess p.toml -o q.onnx";
    const STATS: &str = "quantize m.onnx --stats s.qstats -o q.onnx";
    let mut rows = vec![
        works("all is well", sound, "quantize m.onnx --data data --eval data -o q.onnx", &["q.onnx"]),
        works("over an earlier file", |f| { sound(f); put(f, "q.onnx", "earlier"); }, QUANTIZE, &["q.onnx"]),
        // Places to write to.
        fails("output below a file", sound, "quantize m.onnx --data data -o m.onnx/q.onnx", 1, &["m.onnx/q.onnx"]),
        fails("output in a missing folder", sound, "quantize m.onnx --data data -o no/such/q.onnx", 1, &["no/such/q.onnx", "No such file"]),
        fails("output in a system folder", sound, "quantize m.onnx --data data -o /proc/q.onnx", 1, &["/proc/q.onnx"]),
        fails("output is a folder", sound, "quantize m.onnx --data data -o data", 2, &["data", "folder"]),
        fails("output without a name", sound, "quantize m.onnx --data data -o ..", 2, &["..", "name"]),
        fails("statistics below a file", sound, "calibrate m.onnx --data data -o m.onnx/s.qstats", 1, &["m.onnx/s.qstats"]),
        fails("array below a file", |f| { sound(f); put(f, "x.npy", files::floats("(3, 32, 32)", &[0.5; 3072])); }, "run m.onnx --input x.npy -o m.onnx/y.npy", 1, &["m.onnx/y.npy"]),
        fails("missing table of classes", sound, "eval m.onnx --data data --classes c.tsv", 1, &["c.tsv", "No such file"]),
        // Recipes and preprocessing.
        fails("missing recipe", sound, RECIPE, 1, &["r.toml", "No such file"]),
        fails("recipe with an unknown key", |f| recipe(f, "[weight]\nbitz = 4\n"), RECIPE, 2, &["r.toml", "bitz", "line 2", "`bits`"]),
        fails("recipe of 1 bit", |f| recipe(f, "[weight]\nbits = 1\n"), RECIPE, 2, &["r.toml", "weight", "1", "2 to 16"]),
        fails("recipe of 99 bits", |f| recipe(f, "[activation]\nbits = 99\n"), RECIPE, 2, &["r.toml", "activation", "99", "2 to 16"]),
        fails("recipe of 300 bits", |f| recipe(f, "[weight]\nbits = 300\n"), RECIPE, 2, &["r.toml", "300", "line 2"]),
        fails("recipe of no samples", |f| recipe(f, "samples = 0\n"), RECIPE, 2, &["r.toml", "samples"]),
        fails("recipe that is no TOML", |f| recipe(f, "weight: {bits: 4}\n"), RECIPE, 2, &["r.toml", "line 1"]),
        fails("recipe in binary", |f| { sound(f); put(f, "r.toml", [0xff, 0xfe, 0]); }, RECIPE, 1, &["r.toml", "UTF-8"]),
        fails("recipe with a foolish range", |f| recipe(f, "[activation]\nrange = \"percentile:200\"\n"), RECIPE, 2, &["r.toml", "percentile:200", "up to 100"]),
        fails("recipe with a broken pattern", |f| recipe(f, "[[layer]]\nmatch = \"a[\"\nkeep_float = true\n"), RECIPE, 2, &["r.toml", "a["]),
        Row { says: &["nothing*"], ..works("recipe for a layer that is not there", |f| recipe(f, "[[layer]]\nmatch = \"nothing*\"\nkeep_float = true\n"), RECIPE, &["q.onnx"]) },
        fails("recipe that keeps all layers", |f| recipe(f, "[[layer]]\nmatch = \"*\"\nkeep_float = true\n"), RECIPE, 2, &["m.onnx", "no layer", "recipe"]),
        Row { says: &["'n_c1' runs in floating point"], ..works("blocks of weights", |f| recipe(f, "[weight]\nbits = 4\ngranularity = \"block:2\"\n"), RECIPE, &["q.onnx"]) },
        fails("unknown preset", sound, "quantize m.onnx --data data --preprocess imagenette -o q.onnx", 2, &["\"imagenette\"", "imagenet, cifar10", "TOML"]),
        fails("preprocessing with an unknown key", |f| { sound(f); put(f, "p.toml", "divide = 255.0\nmeans = [0.5]\n"); }, PREPROCESS, 2, &["p.toml", "means", "`mean`"]),
        fails("preprocessing that divides by 0", |f| { sound(f); put(f, "p.toml", "divide = 0.0\n"); }, PREPROCESS, 2, &["p.toml", "divide", "above 0"]),
        fails("preprocessing to an absurd size", |f| { sound(f); put(f, "p.toml", "resize = { height = 4000000000, width = 4000000000 }\n"); }, PREPROCESS, 1, &["m.onnx", "data/data_batch_1.bin", "4000000000", "limit"]),
        // Statistics.
        fails("statistics of another model", |f| { calibrated(f); put(f, "m.onnx", net_with(0, tensor("w1", &[4, 3, 3, 3], &[0.25; 108]))); }, STATS, 2, &["s.qstats", "another model", "calibrate this model"]),
        fails("truncated statistics", |f| { calibrated(f); let s = std::fs::read(f.join("s.qstats")).unwrap(); put(f, "s.qstats", &s[..s.len() - 1]); }, STATS, 1, &["s.qstats", "bytes, not", "calibrate again"]),
        fails("statistics cut in the header", |f| { calibrated(f); let s = std::fs::read(f.join("s.qstats")).unwrap(); put(f, "s.qstats", &s[..17]); }, STATS, 1, &["s.qstats", "cut off", "calibrate again"]),
        fails("damaged statistics", |f| { calibrated(f); let mut s = std::fs::read(f.join("s.qstats")).unwrap(); let n = s.len(); s[n - 9] ^= 16; put(f, "s.qstats", s); }, STATS, 1, &["s.qstats", "damaged", "calibrate again"]),
        fails("a model for statistics", sound, "quantize m.onnx --stats m.onnx -o q.onnx", 1, &["m.onnx", "not a statistics file", "nnq calibrate"]),
        fails("layer by layer without samples", calibrated, "quantize m.onnx --stats s.qstats --rounding gptq -o q.onnx", 2, &["layer by layer", "give --data"]),
        fails("balanced layers and statistics", calibrated, "quantize m.onnx --stats s.qstats --equalize -o q.onnx", 2, &["s.qstats", "balances layers", "give --data"]),
        works("grids found at run time", sound, "quantize m.onnx --dynamic -o q.onnx", &["q.onnx"]),
        fails("grids found at run time and a range", sound, "quantize m.onnx --dynamic --range mse -o q.onnx", 2, &["--dynamic", "--range"]),
        fails("grids found at run time and statistics", calibrated, "quantize m.onnx --dynamic --stats s.qstats -o q.onnx", 2, &["--dynamic", "--stats"]),
        fails("grids found at run time of few bits", sound, "quantize m.onnx --dynamic --bits w8a4 -o q.onnx", 2, &["dynamic", "8 bits"]),
        fails("grids found at run time, layer by layer", sound, "quantize m.onnx --dynamic --rounding gptq -o q.onnx", 2, &["dynamic", "layer by layer"]),
        fails("neither data nor statistics", |f| recipe(f, "seed = 1\n"), "quantize m.onnx --recipe r.toml -o q.onnx", 2, &["--data or --stats", "--dynamic"]),
        works("layer by layer", sound, "quantize m.onnx --data data --bits w4a4 --weight-range mse --rounding descent --compensate --correct-bias -o q.onnx", &["q.onnx"]),
        works("every method at once", sound, "quantize m.onnx --data data --bits w3a8 --granularity tensor --rounding adaround --equalize --compensate --correct-bias -o q.onnx", &["q.onnx"]),
        works("balanced without looking at rounding", sound, "quantize m.onnx --data data --bits w4a8 --granularity group:3 --equalize --absorb --correct-bias=analytic -o q.onnx", &["q.onnx"]),
        works("smoothed and re-estimated", sound, "quantize m.onnx --data data --bits w3a8 --smooth=0.7 --reestimate --correct-bias=empirical -o q.onnx", &["q.onnx"]),
        works("smoothed by a reach", sound, "quantize m.onnx --data data --bits w8a4 --smooth=1:6 -o q.onnx", &["q.onnx"]),
        works("in another basis", sound, "quantize m.onnx --data data --bits w4a4 --basis --smooth=1:6 -o q.onnx", &["q.onnx"]),
        works("smoothed by grids of channels", sound, "quantize m.onnx --data data --bits w8a4 --smooth=1:4bit -o q.onnx", &["q.onnx"]),
        works("half-quadratic blocks", sound, "quantize m.onnx --data data --bits w4a8 --granularity block:2 --weight-range hqq --smooth -o q.onnx", &["q.onnx"]),
        works("analytic correction from statistics and batch normalisation", |f| { normalised(f); nnq(f, "calibrate m.onnx --data data -o s.qstats"); }, "quantize m.onnx --stats s.qstats --correct-bias=analytic -o q.onnx", &["q.onnx"]),
        fails("analytic correction from nothing", calibrated, "quantize m.onnx --stats s.qstats --correct-bias=analytic -o q.onnx", 2, &["m.onnx", "analytic", "give --data", "batch normalisation"]),
        fails("smoothed and equalized", sound, "quantize m.onnx --data data --smooth --equalize -o q.onnx", 2, &["--smooth", "--equalize"]),
        fails("smoothed and statistics", calibrated, "quantize m.onnx --stats s.qstats --smooth -o q.onnx", 2, &["s.qstats", "balances layers", "smooth"]),
        fails("smoothed too much", sound, "quantize m.onnx --data data --smooth=1.5 -o q.onnx", 2, &["smooth = 1.5", "0.5"]),
        fails("smoothed too short", sound, "quantize m.onnx --data data --smooth=1:0.5 -o q.onnx", 2, &["smooth = 1:0.5", "1:6"]),
        fails("smoothed by no bits", sound, "quantize m.onnx --data data --smooth=1:1bit -o q.onnx", 2, &["smooth = 1:1bit", "1:4bit"]),
        fails("a reach that is none", |f| recipe(f, "smooth = \"1:far\"\n"), RECIPE, 2, &["r.toml", "line 1", "far", "1:6"]),
        fails("both in a recipe", |f| recipe(f, "equalize = true\nsmooth = 0.5\n"), RECIPE, 2, &["r.toml", "equalize and smooth", "scale of each channel"]),
        fails("one scale, re-estimated", sound, "quantize m.onnx --data data --granularity tensor --reestimate -o q.onnx", 2, &["reestimate", "tensor", "granularity channel"]),
        fails("compensated and re-estimated", sound, "quantize m.onnx --data data --compensate --reestimate -o q.onnx", 2, &["reestimate and compensate", "leave out reestimate"]),
        fails("re-estimated without samples", calibrated, "quantize m.onnx --stats s.qstats --reestimate -o q.onnx", 2, &["layer by layer", "give --data"]),
        fails("two corrections of biases", sound, "quantize m.onnx --data data --correct-bias=analytic --reestimate -o q.onnx", 2, &["reestimate corrects biases", "analytic"]),
        fails("an unknown correction of biases", sound, "quantize m.onnx --data data --correct-bias=guess -o q.onnx", 2, &["'guess'", "empirical, analytic"]),
        fails("zero points on a symmetric grid", |f| recipe(f, "[weight]\nrange = \"hqq\"\n"), RECIPE, 2, &["r.toml", "hqq", "weight.symmetric = false"]),
        fails("groups of no channels", sound, "quantize m.onnx --data data --granularity group:0 -o q.onnx", 2, &["group:0", "group:CHANNELS"]),
        Row { env: &[("TMPDIR", "/no/such")], ..fails("nowhere to keep samples", sound, "quantize m.onnx --data data --rounding gptq -o q.onnx", 1, &["/no/such"]) },
        fails("an accuracy drop of everything", sound, "quantize m.onnx --data data --accuracy-drop 101 -o q.onnx", 2, &["--accuracy-drop", "between 0 and 100"]),
        fails("an accuracy drop that is no number", sound, "quantize m.onnx --data data --accuracy-drop nan -o q.onnx", 2, &["--accuracy-drop"]),
        fails("a time without unit", sound, "quantize m.onnx --data data --accuracy-drop 1 --time-budget 10 -o q.onnx", 2, &["--time-budget", "10m"]),
        fails("a time below zero", sound, "quantize m.onnx --data data --accuracy-drop 1 --time-budget=-5m -o q.onnx", 2, &["--time-budget"]),
        fails("a time for nothing", sound, "quantize m.onnx --data data --time-budget 5m -o q.onnx", 2, &["--accuracy-drop"]),
        fails("a search with statistics", calibrated, "quantize m.onnx --stats s.qstats --accuracy-drop 1 -o q.onnx", 2, &["--stats"]),
        works("a search for all eternity", sound, "quantize m.onnx --data data --samples 2 --accuracy-drop 100 --time-budget 99999999h -o q.onnx", &["q.onnx"]),
        fails("the same statistics twice", calibrated, "calibrate --merge s.qstats s.qstats -o t.qstats", 2, &["s.qstats", "in both statistics"]),
        works("statistics", calibrated, STATS, &["q.onnx"]),
        // What was quantized already.
        fails("quantized twice", quantized, "quantize q.onnx --data data -o r.onnx", 2, &["q.onnx", "quantized already", "float model"]),
        works("quantized evaluated", quantized, "eval q.onnx --data data", &[]),
        // Settings.
        Row { env: &[("NNQ_ISA", "sse9")], ..fails("unknown instruction set", quantized, "eval q.onnx --data data --engine int", 2, &["NNQ_ISA", "'sse9'", "scalar"]) },
        Row { env: &[("NNQ_ISA", "sse9")], ..fails("unknown instruction set while quantizing", sound, QUANTIZE, 2, &["NNQ_ISA", "'sse9'", "scalar"]) },
        fails("absurdly many threads", sound, "quantize m.onnx --data data --threads 1000000 -o q.onnx", 2, &["--threads", "1000000"]),
        fails("more threads than numbers", sound, "eval m.onnx --data data --threads 99999999999999999999999", 2, &["--threads"]),
        fails("negative threads", sound, "eval m.onnx --data data --threads=-1", 2, &["--threads"]),
        works("more threads than cores", sound, "quantize m.onnx --data data --threads 64 -o q.onnx", &["q.onnx"]),
        works("a batch larger than the data", sound, "eval m.onnx --data data --batch 4000000000", &[]),
        fails("a batch of gigabytes", sound, "bench m.onnx --batch 4000000000", 1, &["m.onnx", "4000000000"]),
        fails("no samples", sound, "quantize m.onnx --data data --samples 0 -o q.onnx", 2, &["--samples"]),
        fails("unknown range", sound, "quantize m.onnx --data data --range guess -o q.onnx", 2, &["guess", "minmax"]),
        fails("no number to explain", |_| {}, "explain abc", 2, &["abc"]),
        fails("no range to explain", |_| {}, "explain 1 --range a:b", 2, &["a:b", "LOW:HIGH"]),
        fails("a range upside down", |_| {}, "explain 1 --range 2:1", 2, &["2", "1"]),
        fails("demo data below a file", sound, "demo --write-data m.onnx/d", 1, &["m.onnx/d"]),
        fails("speed of the simulator", quantized, "bench q.onnx --engine sim", 2, &["sim", "float, int"]),
    ];
    rows.extend([
        Row { shell: FULL, ..fails("full disk for a model", sound, QUANTIZE, 1, &["q.onnx", "File too large"]) },
        Row { shell: FULL, check: earlier_is_kept, ..fails("full disk over an earlier model", with_earlier, QUANTIZE, 1, &["q.onnx", "File too large"]) },
        Row { shell: FULL, ..fails("full disk for statistics", sound, "calibrate m.onnx --data data -o s.qstats", 1, &["s.qstats", "File too large"]) },
        Row { shell: FULL, ..fails("full disk for an array", |f| { sound(f); put(f, "x.npy", files::floats("(3, 32, 32)", &[0.5; 3072])); }, "run m.onnx --input x.npy -o y.npy", 1, &["y.npy", "File too large"]) },
        Row { check: earlier_is_kept, ..fails("a late failure over an earlier model", |f| { with_earlier(f); (0..10).for_each(|i| put(f, &format!("e/{i}/a.bmp"), files::bmp(32, 32, i))); put(f, "e/7/a.bmp", "BM"); }, "quantize m.onnx --data data --eval e -o q.onnx", 1, &["m.onnx", "e/7/a.bmp", "truncated or corrupt"]) },
        Row { check: earlier_is_kept, ..fails("broken weights over an earlier model", |f| { put(f, "m.onnx", net_with(0, tensor("w1", &[4, 3, 3, 3], &[f32::NAN; 108]))); pictures(f); put(f, "q.onnx", "earlier"); }, QUANTIZE, 1, &["'w1'"]) },
    ]);
    rows
}
