//! The official ONNX node tests, run in the float executor. `onnx_node.txt` holds one line per test: `name pass`, or
//! `name exclude: reason`. A test that is not listed, or whose flag is wrong either way, fails.
//!
//! `tools/node_tests.py` makes the tests from the PyPI package `onnx` 1.23; the environment variable `NNQ_ONNX_NODE_TESTS` names their
//! folder. With `NNQ_WRITE_NODE_LIST=1` the list is written anew: reasons that stand in it are
//! kept for tests that still fail.
use crate::networks::{multiplies_exactly, python, run as command, scratch, tool};
use nnq::{
    Error, Result,
    exec::float::{Options, Session},
    formats::onnx::{Pack, WriteOptions, read, read_bytes, read_tensor_file, to_bytes},
    ir::{DType, Data, Graph, Shape, Tensor, Value, ValueId, infer, verify},
};
use std::{
    collections::BTreeMap,
    fmt::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

/// The tolerances of ONNX's own test runner.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-7;

fn tensors(folder: &Path, prefix: &str) -> Result<Vec<Tensor>> {
    (0..)
        .map(|i| folder.join(format!("{prefix}_{i}.pb")))
        .take_while(|p| p.exists())
        .map(|p| read_tensor_file(&p))
        .collect()
}

fn numbers(t: &Tensor) -> Vec<f64> {
    match t.data() {
        Data::F64(b) => b.to_vec(),
        _ => t.to_f32s().into_iter().map(f64::from).collect(),
    }
}

/// The data files hold bfloat16 as uint16.
fn as_declared(t: Tensor, dtype: Option<DType>) -> Result<Tensor> {
    if (dtype, t.dtype()) != (Some(DType::BF16), DType::U16) {
        return Ok(t);
    }
    Tensor::new(t.shape().to_vec(), Data::from_bytes(DType::BF16, t.data().as_bytes().to_vec().into())?)
}

fn differs(y: &Tensor, want: &Tensor) -> Option<String> {
    if (y.dtype(), y.shape()) != (want.dtype(), want.shape()) {
        return Some(format!("expected {} {:?}, found {} {:?}", want.dtype(), want.shape(), y.dtype(), y.shape()));
    }
    if !want.dtype().is_float() {
        return (y.data().as_bytes() != want.data().as_bytes()).then(|| format!("expected {want:?}, found {y:?}"));
    }
    let close = |y: f64, want: f64| {
        y == want || (y.is_nan() && want.is_nan()) || (y - want).abs() <= ABSOLUTE + RELATIVE * want.abs()
    };
    let (y, want) = (numbers(y), numbers(want));
    let at = (0..y.len()).find(|&i| !close(y[i], want[i]))?;
    Some(format!("element {at}: expected {}, found {}", want[at], y[at]))
}

/// Read, inferred and run; then written, read and run once more.
fn attempt(test: &Path) -> Result<()> {
    let mut graph = read(&test.join("model.onnx"))?;
    run(test, &graph)?;
    infer(&mut graph).map_err(|e| e.at("inference"))?;
    verify(&graph).map_err(|e| e.at("verifier"))?;
    run(test, &graph).map_err(|e| e.at("inferred"))?;
    let options = WriteOptions { pack: Pack::Never, ..WriteOptions::default() };
    let again = to_bytes(&graph, &options).and_then(|b| read_bytes(b.into(), None)).map_err(|e| e.at("written"))?;
    run(test, &again).map_err(|e| e.at("written"))
}

/// What is known of a value agrees with a tensor.
fn agrees(value: &Value, t: &Tensor) -> Result<()> {
    let fits = |s: &Shape| {
        s.rank() == t.shape().len() && s.0.iter().zip(t.shape()).all(|(d, &n)| d.fixed().is_none_or(|d| d == n))
    };
    if value.dtype.is_none_or(|d| d == t.dtype()) && value.shape.as_ref().is_none_or(fits) {
        return Ok(());
    }
    Err(Error::shape(format!("inferred {:?} {:?}, found {} {:?}", value.dtype, value.shape, t.dtype(), t.shape())))
}

fn run(test: &Path, graph: &Graph) -> Result<()> {
    let graph = Arc::new(graph.clone());
    let mut session = Session::new(graph.clone(), &Options { threads: 1 })?;
    let sets: Vec<PathBuf> =
        (0..).map(|i| test.join(format!("test_data_set_{i}"))).take_while(|p| p.exists()).collect();
    if sets.is_empty() {
        return Err(Error::malformed("no data"));
    }
    for set in sets {
        let (inputs, want) = (tensors(&set, "input")?, tensors(&set, "output")?);
        let declared = |v: &ValueId| graph.value(*v).dtype;
        let inputs =
            graph.inputs.iter().zip(inputs).map(|(v, t)| as_declared(t, declared(v))).collect::<Result<_>>()?;
        let y = session.run(inputs)?;
        if y.len() != want.len() {
            return Err(Error::value(format!("{} outputs, expected {}", y.len(), want.len())));
        }
        let want = y.iter().zip(want).map(|(y, t)| as_declared(t, Some(y.dtype()))).collect::<Result<Vec<_>>>()?;
        if let Some(difference) = y.iter().zip(&want).find_map(|(y, want)| differs(y, want)) {
            return Err(Error::value(difference));
        }
        graph.outputs.iter().zip(&y).try_for_each(|(v, t)| agrees(graph.value(*v), t))?;
    }
    Ok(())
}

/// Why the test fails; `None`: it passes.
fn outcome(test: &Path) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| attempt(test))) {
        Ok(Ok(())) => None,
        Ok(Err(e)) => {
            let text = e.to_string();
            let place = text.split(':').next().filter(|p| ["inference", "verifier", "inferred", "written"].contains(p));
            let place = place.map_or_else(String::new, |p| format!("{p}: "));
            Some(format!("{place}{}", e.cause().replace('\n', " ")))
        }
        Err(_) => Some("PANIC".into()),
    }
}

#[test]
fn official_node_tests() {
    let Some(folder) = std::env::var_os("NNQ_ONNX_NODE_TESTS").map(PathBuf::from) else {
        eprintln!("skipped: NNQ_ONNX_NODE_TESTS does not name the folder of the ONNX node tests");
        return;
    };
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx_node.txt");
    let text = std::fs::read_to_string(&list).unwrap_or_default();
    let mut flags: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for line in text.lines() {
        match line.split_once(' ') {
            Some((name, "pass")) => flags.insert(name, None),
            Some((name, rest)) if rest.starts_with("exclude: ") => flags.insert(name, Some(&rest[9..])),
            _ => panic!("{}: a line that is neither 'name pass' nor 'name exclude: reason': {line}", list.display()),
        };
    }
    let mut names: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut faults = Vec::new();
    let mut new = String::new();
    for name in &names {
        let result = outcome(&folder.join(name));
        match (&result, flags.remove(&**name)) {
            (None, Some(None)) | (Some(_), Some(Some(_))) => {}
            (None, None) => faults.push(format!("{name}: passes and is not listed")),
            (Some(e), None) => faults.push(format!("{name}: fails and is not listed: {e}")),
            (Some(e), Some(None)) => faults.push(format!("{name}: fails: {e}")),
            (None, Some(Some(_))) => faults.push(format!("{name}: is excluded and passes")),
        }
        let reason = text.lines().find_map(|l| l.strip_prefix(&format!("{name} exclude: ")));
        match &result {
            None => writeln!(new, "{name} pass").unwrap(),
            Some(e) => writeln!(new, "{name} exclude: {}", reason.unwrap_or(e)).unwrap(),
        }
        if result.as_deref() == Some("PANIC") {
            faults.push(format!("{name}: panics"));
        }
    }
    faults.extend(flags.keys().map(|name| format!("{name}: is listed and not there")));
    if std::env::var_os("NNQ_WRITE_NODE_LIST").is_some() {
        std::fs::write(&list, new).unwrap();
    } else {
        assert!(faults.is_empty(), "{} of {} tests:\n{}", faults.len(), names.len(), faults.join("\n"));
    }
}

/// Nodes that the official tests have little of, against ONNX Runtime.
#[test]
fn nodes_of_onnx_runtime() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    command(Command::new(&python).arg(tool("ort_nodes.py")).arg(dir.path()));
    let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert!(names.len() > 90, "{} nodes", names.len());
    if !multiplies_exactly(&python, "nodes on bytes") {
        names.retain(|n| !n.to_string_lossy().starts_with("quantized_"));
    }
    let faults = names.iter().filter_map(|n| outcome(&dir.path().join(n)).map(|e| format!("{}: {e}", n.display())));
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "{} of {} nodes:\n{}", faults.len(), names.len(), faults.join("\n"));
}
