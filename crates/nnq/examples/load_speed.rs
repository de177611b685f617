//! How long each step takes from an ONNX file to a session of the integer engine: the fastest of many loads.
//!
//! usage: load_speed MODEL [LOADS] [THREADS]
#![allow(clippy::print_stdout)]
use nnq::{
    engine,
    exec::{
        int,
        lower::{self, Profile},
    },
    formats::onnx,
    ir::infer,
};
use std::{error::Error, path::Path, sync::Arc, time::Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let path = Path::new(args.first().ok_or("usage: load_speed MODEL [LOADS] [THREADS]")?);
    let loads: usize = args.get(1).map_or(Ok(50), |a| a.parse())?;
    let threads: usize = args.get(2).map_or(Ok(2), |a| a.parse())?;
    let names = ["pool", "read", "infer", "absorb", "simplify", "lower", "pack", "drop", "all"];
    let mut best = [f64::INFINITY; 9];
    for _ in 0..loads {
        let start = Instant::now();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let laps = pool.install(|| load(path, threads, start))?;
        best.iter_mut().zip(laps).for_each(|(b, l)| *b = b.min(l));
    }
    for (name, ms) in names.iter().zip(best) {
        println!("{name:>9} {ms:7.2} ms");
    }
    Ok(())
}

/// The milliseconds of each step, and of all from `start` on.
fn load(path: &Path, threads: usize, start: Instant) -> nnq::Result<Vec<f64>> {
    let mut laps = Vec::new();
    let mut clock = start;
    let mut lap = |laps: &mut Vec<f64>| {
        laps.push(clock.elapsed().as_secs_f64() * 1e3);
        clock = Instant::now();
    };
    lap(&mut laps);
    let mut graph = onnx::read(path)?;
    lap(&mut laps);
    infer(&mut graph)?;
    lap(&mut laps);
    let absorbed = onnx::quantized::absorb(&graph)?;
    lap(&mut laps);
    let simple = engine::simplify(absorbed)?;
    lap(&mut laps);
    let program = Arc::new(lower::lower(&simple, Profile::Dyadic)?);
    lap(&mut laps);
    let session = int::Session::new(program, &int::Options { threads, ..Default::default() })?;
    lap(&mut laps);
    drop((graph, simple));
    lap(&mut laps);
    laps.push(start.elapsed().as_secs_f64() * 1e3);
    drop(session);
    Ok(laps)
}
