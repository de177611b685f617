//! Speed of the convolutions of well-known networks, as a share of what the instruction set can do at most.
//! One thread. `conv_speed [isa] [batch] [part of a network's or layer's name]`
#![allow(clippy::print_stdout)]
mod networks;

use networks::{Layer, NETWORKS};
use nnq_kernels::{
    Isa, SLACK,
    conv::{ConvGeom, Epilogue, Out, PackedConv, Requant, Scratch},
    depthwise::PackedDepthwise,
    peak,
};
use std::time::{Duration, Instant};

fn main() {
    let mut wanted: Vec<Isa> = Isa::all().iter().copied().filter(|i| i.is_supported()).collect();
    let (mut part, mut batch) = (String::new(), 1);
    for word in std::env::args().skip(1) {
        match (word.parse(), word.parse()) {
            (Ok(isa), _) => wanted = vec![isa],
            (_, Ok(number)) => batch = number,
            _ => part = word,
        }
    }
    println!("f32 peak {:8.1} Gop/s", peak::f32_peak());
    for isa in wanted {
        let ceiling = peak::int8_peak(isa);
        println!("{isa}: int8 peak {ceiling:8.1} Gop/s, batch {batch}");
        for &(network, layers) in NETWORKS {
            let (mut all_ops, mut all_seconds) = (0.0, 0.0);
            for layer in layers {
                let name = format!("{network} {}", name(layer));
                if !name.contains(&part) {
                    continue;
                }
                let geom = geometry(layer, batch);
                let ops = 2.0 * (geom.pixels() * geom.c_out * geom.depth()) as f64;
                let seconds = measure(isa, &geom);
                all_ops += ops * layer.count as f64;
                all_seconds += seconds * layer.count as f64;
                line(&name, layer.count, seconds, ops, ceiling);
            }
            if all_ops > 0.0 {
                line(&format!("{network} all"), 1, all_seconds, all_ops, ceiling);
            }
        }
    }
}

fn line(name: &str, count: usize, seconds: f64, ops: f64, ceiling: f64) {
    let (us, rate) = (seconds * 1e6, ops / seconds / 1e9);
    println!("  {count} x {name:38} {us:9.1} us {rate:8.1} Gop/s {:5.1} %", 100.0 * rate / ceiling);
}

fn name(layer: &Layer) -> String {
    let Layer { size, c_in, c_out, kernel, stride, groups, .. } = *layer;
    let mut name = format!("{kernel}x{kernel} {size}x{size} {c_in}-{c_out}");
    if stride > 1 {
        name += &format!(" /{stride}");
    }
    if groups > 1 {
        name += &format!(" g{groups}");
    }
    name
}

fn geometry(layer: &Layer, batch: usize) -> ConvGeom {
    let Layer { size, c_in, c_out, kernel, stride, groups, .. } = *layer;
    let pad = kernel / 2;
    let out = (size + 2 * pad - kernel) / stride + 1;
    ConvGeom {
        in_h: size,
        in_w: size,
        out_h: out,
        out_w: out,
        k_h: kernel,
        k_w: kernel,
        stride_h: stride,
        stride_w: stride,
        pad_top: pad,
        pad_left: pad,
        groups,
        ..ConvGeom::matrix(batch, c_in, c_out)
    }
}

/// The seconds of the fastest of some tries.
fn measure(isa: Isa, geom: &ConvGeom) -> f64 {
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 24) as u8
    };
    let bytes = geom.batch * geom.in_h * geom.in_w * geom.c_in + SLACK;
    let (mut x, at) = aligned(bytes);
    x[at..].fill_with(&mut random);
    let x = &x[at..at + bytes];
    let w: Vec<i8> = (0..geom.c_out * geom.depth()).map(|_| random() as i8).collect();
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
    let bound = PackedConv::pack(isa, geom, &w).bind(geom, 128, &epi);
    let depthwise = depthwise.map(|packed| packed.bind(geom, 128, &epi));
    let bytes = geom.pixels() * geom.c_out;
    let (mut out, at) = aligned(bytes);
    let out = &mut out[at..at + bytes];
    let mut scratch = Scratch::new();
    let mut best = f64::MAX;
    let start = Instant::now();
    let mut tries = 0;
    while tries < 3 || start.elapsed() < Duration::from_millis(150) {
        let now = Instant::now();
        let to = Out::U8 { data: out, pitch: geom.c_out };
        let rows = 0..geom.pixels();
        match &depthwise {
            Some(depthwise) => depthwise.run(x, rows, to, &mut scratch),
            None => bound.run(x, rows, to, &mut scratch),
        }
        best = best.min(now.elapsed().as_secs_f64());
        tries += 1;
    }
    best
}

/// Memory, and where a line of the cache begins in it: executors keep values at such places.
fn aligned(bytes: usize) -> (Vec<u8>, usize) {
    let memory = vec![0; bytes + 64];
    let at = memory.as_ptr().align_offset(64);
    (memory, at)
}
