//! Speed of the float executor's products on typical layers. A development tool:
//! `cargo run --release -p nnq --example float_speed [threads] [filter]`, or whole models:
//! `... float_speed threads model.onnx batch`.
#![allow(clippy::print_stdout)]
use nnq::{
    exec::float::{Interest, Options, Session, Tap},
    ir::{
        DType, Graph, Op, Shape, Tensor, ValueId,
        op::{ConvAttrs, PoolAttrs},
    },
};
use std::{sync::Arc, time::Instant};

fn noise(shape: &[usize], seed: u32) -> Tensor {
    let mut state = seed | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    Tensor::of(shape, (0..shape.iter().product::<usize>()).map(next).collect())
}

/// Best and median seconds of one run of a node with constant weights.
fn time(op: Op, x: &[usize], constants: &[&[usize]], threads: usize) -> nnq::Result<(f64, f64)> {
    let mut g = Graph::new("speed");
    let input = g.add_value("x", Some(DType::F32), Some(Shape::fixed(x)))?;
    let mut inputs = vec![Some(input)];
    for (i, shape) in constants.iter().enumerate() {
        inputs.push(Some(g.add_constant(&format!("c{i}"), Arc::new(noise(shape, 7 + i as u32)))));
    }
    let y = g.add_value("y", None, None)?;
    g.add_node("node", op, inputs, vec![Some(y)]);
    g.inputs.push(input);
    g.outputs.push(y);
    let mut session = Session::new(Arc::new(g), &Options { threads })?;
    let x = noise(x, 3);
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 5 || (start.elapsed().as_secs_f64() < 0.25 && times.len() < 1000) {
        let input = x.clone();
        let t = Instant::now();
        session.run(vec![input])?;
        times.push(t.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok((times[0], times[times.len() / 2]))
}

struct Case {
    name: &'static str,
    op: Op,
    x: Vec<usize>,
    constants: Vec<Vec<usize>>,
    flop: f64,
}

/// Batch, input channels, output channels, size, kernel, stride, groups.
fn conv(name: &'static str, [n, ic, oc, size, k, s, group]: [usize; 7]) -> Case {
    let pad = (k / 2) as i64;
    let attrs = ConvAttrs { strides: vec![s; 2], pads: vec![pad; 4], group, ..ConvAttrs::default() };
    let out = (size + 2 * (k / 2) - k) / s + 1;
    Case {
        name,
        op: Op::Conv(attrs),
        x: vec![n, ic, size, size],
        constants: vec![vec![oc, ic / group, k, k], vec![oc]],
        flop: 2.0 * (n * oc * out * out * ic / group * k * k) as f64,
    }
}

fn gemm(name: &'static str, [m, k, n]: [usize; 3], trans_b: bool) -> Case {
    Case {
        name,
        op: Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b },
        x: vec![m, k],
        constants: vec![if trans_b { vec![n, k] } else { vec![k, n] }, vec![n]],
        flop: 2.0 * (m * k * n) as f64,
    }
}

fn pool(name: &'static str, x: [usize; 4], k: usize, s: usize) -> Case {
    let window =
        PoolAttrs { kernel: vec![k; 2], strides: vec![s; 2], pads: vec![(k / 2) as i64; 4], ..Default::default() };
    let flop = (x.iter().product::<usize>() * k * k / (s * s)) as f64;
    Case { name, op: Op::MaxPool { window, column_major: false }, x: x.to_vec(), constants: Vec::new(), flop }
}

/// Time between one value and the one before.
struct Clock(Instant, Vec<(ValueId, f64)>);

impl Tap for Clock {
    fn see(&mut self, value: ValueId, _: &Tensor) -> nnq::Result<()> {
        self.1.push((value, self.0.elapsed().as_secs_f64()));
        self.0 = Instant::now();
        Ok(())
    }
    fn interest(&self, _: ValueId) -> Interest {
        Interest::Elements
    }
}

/// Seconds that the threads of this process have computed so far; unlike the clock it does not count what other processes take.
fn busy() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let first = |text: String| text.split_whitespace().next().and_then(|n| n.parse::<f64>().ok());
    tasks.filter_map(|t| std::fs::read_to_string(t.path().join("schedstat")).ok().and_then(first)).sum::<f64>() / 1e9
}

fn model(path: &str, threads: usize, batch: usize) -> nnq::Result<()> {
    let graph = nnq::engine::load(path.as_ref())?;
    let mut session = Session::new(graph.clone(), &Options { threads })?;
    let inputs = || -> Vec<Tensor> {
        let shape = |v: &ValueId| {
            graph.value(*v).shape.as_ref().map_or(vec![], |s| s.0.iter().map(|d| d.fixed().unwrap_or(batch)).collect())
        };
        graph.inputs.iter().map(|v| noise(&shape(v), 3)).collect()
    };
    let (mut best, mut least) = (f64::MAX, f64::MAX);
    for _ in 0..15 {
        let x = inputs();
        let (t, cpu) = (Instant::now(), busy());
        session.run(x)?;
        best = best.min(t.elapsed().as_secs_f64());
        least = least.min(busy() - cpu);
    }
    let mut clock = Clock(Instant::now(), Vec::new());
    session.run_tapped(inputs(), &mut clock)?;
    clock.1.remove(0);
    clock.1.sort_by(|a, b| b.1.total_cmp(&a.1));
    let producers = graph.producers();
    for (v, t) in clock.1.iter().take(12) {
        let node = producers[v.0 as usize].map(|n| format!("{:?}", graph.node(n).op));
        println!("{:>9.1} us  {:.100}", t * 1e6, node.unwrap_or_default());
    }
    let peak = session.peak_bytes() as f64 / 1e6;
    println!("{path}: {:.3} ms a run of {batch} ({:.3} ms computing), peak {peak:.1} MB", best * 1e3, least * 1e3);
    Ok(())
}

fn main() -> nnq::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let threads = args.first().and_then(|s| s.parse().ok()).unwrap_or(1);
    let filter = args.get(1).map_or("", |s| s);
    if filter.ends_with(".onnx") {
        return model(filter, threads, args.get(2).and_then(|s| s.parse().ok()).unwrap_or(1));
    }
    let cases = [
        conv("resnet50 7x7/2", [1, 3, 64, 224, 7, 2, 1]),
        conv("resnet50 3x3 64", [1, 64, 64, 56, 3, 1, 1]),
        conv("resnet50 3x3 128", [1, 128, 128, 28, 3, 1, 1]),
        conv("resnet50 3x3 256", [1, 256, 256, 14, 3, 1, 1]),
        conv("resnet50 3x3 512", [1, 512, 512, 7, 3, 1, 1]),
        conv("resnet50 3x3 512 n8", [8, 512, 512, 7, 3, 1, 1]),
        conv("resnet50 3x3/2 128", [1, 128, 128, 56, 3, 2, 1]),
        conv("resnet50 1x1 64-256", [1, 64, 256, 56, 1, 1, 1]),
        conv("resnet50 1x1 512-2048", [1, 512, 2048, 7, 1, 1, 1]),
        conv("resnet50 1x1/2 256-512", [1, 256, 512, 56, 1, 2, 1]),
        conv("resnet20 3x3 16 n32", [32, 16, 16, 32, 3, 1, 1]),
        conv("resnet20 3x3 64 n32", [32, 64, 64, 8, 3, 1, 1]),
        conv("resnext 3x3 g32", [1, 128, 128, 56, 3, 1, 32]),
        conv("mobilenet 3x3/2 3-32", [1, 3, 32, 224, 3, 2, 1]),
        conv("mobilenet 1x1 32-64", [1, 32, 64, 112, 1, 1, 1]),
        conv("mobilenet 1x1 96-24", [1, 96, 24, 56, 1, 1, 1]),
        conv("mobilenet 1x1 160-960", [1, 160, 960, 7, 1, 1, 1]),
        conv("depthwise 3x3 32", [1, 32, 32, 112, 3, 1, 32]),
        conv("depthwise 3x3/2 96", [1, 96, 96, 112, 3, 2, 96]),
        conv("depthwise 3x3 960", [1, 960, 960, 7, 3, 1, 960]),
        conv("depthwise 5x5 240", [1, 240, 240, 28, 5, 1, 240]),
        gemm("fc 512-1000 n1", [1, 512, 1000], true),
        gemm("fc 512-1000 n32", [32, 512, 1000], true),
        gemm("bert 128x768x3072", [128, 768, 3072], false),
        gemm("square 1024", [1024, 1024, 1024], false),
        pool("maxpool 3x3/2", [1, 64, 112, 112], 3, 2),
    ];
    println!("{threads} thread(s); G/s is 1e9 multiplications and additions per second (comparisons for pools)");
    for c in cases.into_iter().filter(|c| c.name.contains(filter)) {
        let constants: Vec<&[usize]> = c.constants.iter().map(Vec::as_slice).collect();
        let moved = 4.0 * c.x.iter().product::<usize>() as f64;
        let (best, median) = time(c.op, &c.x, &constants, threads)?;
        println!(
            "{:<24} best {:>9.1} us  median {:>9.1} us  {:>7.1} G/s  input {:>6.1} GB/s",
            c.name,
            best * 1e6,
            median * 1e6,
            c.flop / best / 1e9,
            moved / best / 1e9
        );
    }
    Ok(())
}
