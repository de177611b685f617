//! nnq itself as one of the engines that [`super::peers`] compares: a process that runs a model as often as it is told.
use super::{Sizes, made_up};
use crate::{
    engine::Engine,
    error::{Error, ErrorKind, Result},
};
use serde::Serialize;
use std::{
    io::{BufRead, Write},
    time::Instant,
};

/// What is written once the model is ready.
#[derive(Serialize)]
struct Ready {
    version: &'static str,
    isa: Option<&'static str>,
    load_ms: f64,
}

/// The seconds of each run.
#[derive(Serialize)]
struct Turn {
    seconds: Vec<f64>,
}

/// Opens an engine and serves it by the protocol of `tools/peers.py`: one JSON object `{"version", "isa", "load_ms"}` when the model is
/// loaded and has run once; then each line of `input` holds a number of runs and is answered by `{"seconds": [...]}`. Ends with
/// its input.
///
/// # Errors
/// What opening and running answer, and lines that are no number.
pub fn serve(
    open: impl FnOnce() -> Result<Engine>,
    sizes: &Sizes,
    input: impl BufRead,
    mut output: impl Write,
) -> Result<()> {
    let clock = Instant::now();
    let mut engine = open()?;
    let load_ms = clock.elapsed().as_secs_f64() * 1e3;
    let fixed = engine.batch(sizes.batch);
    if fixed != sizes.batch {
        return Err(Error::usage(format!("the model fixes the batch at {fixed}")));
    }
    let (_, inputs) = made_up(engine.graph(), sizes)?;
    engine.run(inputs.clone())?;
    answer(&mut output, &Ready { version: env!("CARGO_PKG_VERSION"), isa: engine.isa(), load_ms })?;
    for line in input.lines() {
        let line = line.map_err(stream)?;
        let runs: usize = line.trim().parse().map_err(|_| Error::usage(format!("'{line}' is no number of runs")))?;
        let mut seconds = Vec::new();
        for _ in 0..runs {
            let inputs = inputs.clone();
            let clock = Instant::now();
            engine.run(inputs)?;
            seconds.push(clock.elapsed().as_secs_f64());
        }
        answer(&mut output, &Turn { seconds })?;
    }
    Ok(())
}

fn answer(output: &mut impl Write, fields: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(fields).map_err(|e| Error::internal(e.to_string()))?;
    writeln!(output, "{text}").and_then(|()| output.flush()).map_err(stream)
}

fn stream(e: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, e.to_string()).at("the stream to the benchmark")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{demo, engine, exec::lower::Profile, formats::onnx};

    fn demo_engine() -> Result<Engine> {
        let graph = engine::simplify(onnx::read_bytes(demo::MODEL.into(), None)?)?;
        Engine::open(graph, engine::Options { kind: engine::Kind::Float, profile: Profile::default(), threads: 1 })
    }

    #[test]
    fn answers_each_line_and_ends_with_its_input() {
        let mut out = Vec::new();
        serve(demo_engine, &2.into(), &b"3\n0\n1\n"[..], &mut out).unwrap();
        let lines: Vec<serde_json::Value> =
            out.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0]["load_ms"].as_f64().unwrap() > 0.0 && lines[0]["version"].is_string());
        let runs: Vec<usize> = lines[1..].iter().map(|l| l["seconds"].as_array().unwrap().len()).collect();
        assert_eq!(runs, [3, 0, 1]);
        assert!(serve(demo_engine, &1.into(), &b"many\n"[..], Vec::new()).is_err());
    }
}
