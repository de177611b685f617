//! Speed of the convolutions on shapes of well-known networks, as a share of what the instruction set can do
//! at most. One thread. `conv_speed [isa] [part of a name]`
#![allow(clippy::print_stdout)]
use nnq_kernels::{
    Isa, SLACK,
    conv::{ConvGeom, Epilogue, Out, PackedConv, Requant, Scratch},
    depthwise::PackedDepthwise,
    peak,
};
use std::time::{Duration, Instant};

/// name, input size, channels in, channels out, kernel, stride, groups
const SHAPES: &[(&str, usize, usize, usize, usize, usize, usize)] = &[
    ("resnet stem 7x7", 224, 3, 64, 7, 2, 1),
    ("mobilenet stem 3x3", 224, 3, 32, 3, 2, 1),
    ("resnet 3x3 64", 56, 64, 64, 3, 1, 1),
    ("resnet 3x3 128", 28, 128, 128, 3, 1, 1),
    ("resnet 3x3 128 /2", 56, 64, 128, 3, 2, 1),
    ("resnet 3x3 256", 14, 256, 256, 3, 1, 1),
    ("resnet 3x3 512", 7, 512, 512, 3, 1, 1),
    ("resnet 1x1 64-256", 56, 64, 256, 1, 1, 1),
    ("resnet 1x1 256-64", 56, 256, 64, 1, 1, 1),
    ("resnet 1x1 1024-512 /2", 14, 1024, 512, 1, 2, 1),
    ("resnet 1x1 2048-512", 7, 2048, 512, 1, 1, 1),
    ("mobilenet 1x1 32-16", 112, 32, 16, 1, 1, 1),
    ("mobilenet 1x1 24-144", 56, 24, 144, 1, 1, 1),
    ("mobilenet 1x1 576-96", 14, 576, 96, 1, 1, 1),
    ("resnext 3x3 g32", 56, 128, 128, 3, 1, 32),
    ("depthwise 3x3 32", 112, 32, 32, 3, 1, 32),
    ("depthwise 3x3 96 /2", 112, 96, 96, 3, 2, 96),
    ("depthwise 3x3 144", 56, 144, 144, 3, 1, 144),
    ("depthwise 3x3 384", 14, 384, 384, 3, 1, 384),
    ("depthwise 3x3 960", 7, 960, 960, 3, 1, 960),
    ("depthwise 5x5 240", 28, 240, 240, 5, 1, 240),
    ("linear 2048-1000", 1, 2048, 1000, 1, 1, 1),
];

fn main() {
    let mut wanted: Vec<Isa> = Isa::all().iter().copied().filter(|i| i.is_supported()).collect();
    let mut part = String::new();
    for word in std::env::args().skip(1) {
        match word.parse() {
            Ok(isa) => wanted = vec![isa],
            Err(_) => part = word,
        }
    }
    println!("f32 peak {:8.1} Gop/s", peak::f32_peak());
    for isa in wanted {
        println!("{isa}: int8 peak {:8.1} Gop/s", peak::int8_peak(isa));
        for &(name, size, c_in, c_out, k, stride, groups) in SHAPES {
            if !name.contains(&part) {
                continue;
            }
            let pad = k / 2;
            let out = (size + 2 * pad - k) / stride + 1;
            let geom = ConvGeom {
                in_h: size,
                in_w: size,
                out_h: out,
                out_w: out,
                k_h: k,
                k_w: k,
                stride_h: stride,
                stride_w: stride,
                pad_top: pad,
                pad_left: pad,
                groups,
                ..ConvGeom::matrix(1, c_in, c_out)
            };
            let ops = 2.0 * (geom.pixels() * c_out * geom.depth()) as f64;
            let (rate, ceiling) = measure(isa, &geom, ops);
            println!("  {name:24} {rate:8.1} Gop/s {:5.1} %", 100.0 * rate / ceiling);
        }
    }
}

/// The best rate of some tries and the peak measured beside it, in Gop/s.
fn measure(isa: Isa, geom: &ConvGeom, ops: f64) -> (f64, f64) {
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 24) as u8
    };
    let x: Vec<u8> = (0..geom.batch * geom.in_h * geom.in_w * geom.c_in + SLACK).map(|_| random()).collect();
    let w: Vec<i8> = (0..geom.c_out * geom.depth()).map(|_| random() as i8).collect();
    let packed = PackedConv::pack(isa, geom, &w);
    let depthwise = (geom.groups == geom.c_out && geom.groups > 1).then(|| PackedDepthwise::pack(isa, geom, &w));
    let bias = vec![7; geom.c_out];
    let (mult, shift) = (vec![1 << 30; geom.c_out], vec![41; geom.c_out]);
    let epi = Epilogue {
        bias: &bias,
        w_zero: None,
        requant: Requant::Dyadic { mult: &mult, shift: &shift },
        zero: 128,
        lo: 0,
        hi: 255,
    };
    let depthwise = depthwise.map(|packed| packed.bind(geom, 128, &epi));
    let mut out = vec![0u8; geom.pixels() * geom.c_out];
    let mut scratch = Scratch::new();
    let mut best = f64::MAX;
    let start = Instant::now();
    let mut tries = 0;
    while tries < 3 || start.elapsed() < Duration::from_millis(150) {
        let now = Instant::now();
        let to = Out::U8 { data: &mut out, pitch: geom.c_out };
        let rows = 0..geom.pixels();
        match &depthwise {
            Some(depthwise) => depthwise.run(&x, rows, to, &mut scratch),
            None => packed.run(geom, &x, 128, rows, &epi, to, &mut scratch),
        }
        best = best.min(now.elapsed().as_secs_f64());
        tries += 1;
    }
    (ops / best / 1e9, peak::int8_peak(isa))
}
