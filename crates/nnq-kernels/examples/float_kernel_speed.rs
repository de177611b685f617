//! Speed of the float kernels on typical layers, one thread. A development tool:
//! `cargo run --release -p nnq-kernels --example float_kernel_speed [filter]`.
#![allow(clippy::print_stdout)]
use nnq_kernels::float::{Epilogue, FloatIsa, PackedDepthwise, PackedProduct, Place, in_turn};
use std::time::Instant;

fn place(size: usize, channels: usize, out_channels: usize, kernel: usize, stride: usize) -> Place {
    Place {
        images: 1,
        input: [size; 2],
        channels,
        output: [size.div_ceil(stride); 2],
        out_channels,
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [1; 2],
        begin: [(kernel / 2) as i64; 2],
    }
}

/// The least seconds of some runs.
fn best(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::MAX;
    while start.elapsed().as_secs_f64() < 0.5 {
        let clock = Instant::now();
        run();
        best = best.min(clock.elapsed().as_secs_f64());
    }
    best
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let cold = std::env::args().nth(2).is_some_and(|a| a == "cold");
    let isa = FloatIsa::best();
    let peak = nnq_kernels::peak::f32_peak();
    println!("{isa:?}, peak {peak:.0} G/s");
    let cases = [
        ("1x1 64-256 56", place(56, 64, 256, 1, 1), false),
        ("1x1 256-64 56", place(56, 256, 64, 1, 1), false),
        ("3x3 64 56", place(56, 64, 64, 3, 1), false),
        ("3x3 128 28", place(28, 128, 128, 3, 1), false),
        ("1x1 512-128 28", place(28, 512, 128, 1, 1), false),
        ("3x3 256 14", place(14, 256, 256, 3, 1), false),
        ("1x1 1024-256 14", place(14, 1024, 256, 1, 1), false),
        ("3x3 512 7", place(7, 512, 512, 3, 1), false),
        ("1x1 512-2048 7", place(7, 512, 2048, 1, 1), false),
        ("1x1 512-1000 13", place(13, 512, 1000, 1, 1), false),
        ("3x3 16 32", place(32, 16, 16, 3, 1), false),
        ("1x1 24-144 56", place(56, 24, 144, 1, 1), false),
        ("1x1 144-24 56", place(56, 144, 24, 1, 1), false),
        ("depthwise 3x3 32 112", place(112, 32, 32, 3, 1), true),
        ("depthwise 3x3/2 96 112", place(112, 96, 96, 3, 2), true),
        ("depthwise 3x3 512 14", place(14, 512, 512, 3, 1), true),
        (
            "first 7x7/2 3-64",
            Place { input: [230; 2], output: [112; 2], begin: [0; 2], ..place(224, 3, 64, 7, 2) },
            false,
        ),
        (
            "first 3x3/2 3-32",
            Place { input: [225; 2], output: [112; 2], begin: [0; 2], ..place(224, 3, 32, 3, 2) },
            false,
        ),
    ];
    for (name, p, depthwise) in cases.into_iter().filter(|c| c.0.contains(&filter)) {
        let (x, mut out) = (vec![0.5f32; p.input_len()], vec![0f32; p.output_len()]);
        let e = Epilogue::default();
        let k = p.taps() * p.channels;
        let (seconds, k) = if depthwise {
            let packed = PackedDepthwise::pack(isa, &vec![0.25; k], p.channels, p.taps());
            (best(|| packed.run(&p, &x, &e, &mut out, 1, &in_turn)), p.taps())
        } else {
            let w = vec![0.25; k * p.out_channels];
            // Copies that no cache holds: in a network the weights of a layer come from memory.
            let copies = if cold { (128 << 20) / (4 * w.len()) + 1 } else { 1 };
            let pack = |_| PackedProduct::pack(isa, &w, [p.out_channels, p.taps(), p.channels], [k, 1, p.taps()]);
            let packed: Vec<_> = (0..copies).map(pack).collect();
            let mut next = packed.iter().cycle();
            (best(|| next.next().expect("a copy").run(&p, &x, &e, &mut out, 1, &in_turn)), k)
        };
        let rate = 2.0 * (p.output_len() * k) as f64 / seconds / 1e9;
        println!("{name:<24} {:>8.1} us {rate:>7.1} G/s {:>5.1} %", seconds * 1e6, 100.0 * rate / peak);
    }
}
