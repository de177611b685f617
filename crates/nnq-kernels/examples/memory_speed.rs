//! Speed of the kernels that are bound by memory, in billions of elements a second, on data that fits the
//! second-level cache. One thread. `memory_speed [isa]`
#![allow(clippy::print_stdout)]
use nnq_kernels::{
    Isa, SLACK,
    eltwise::{self, AddMode, AddSpec, MulMode, MulSpec},
    layout,
    pool::{self, AvgSpec, BoundAvg, PoolGeom},
    round::{AddDyadic, Dyadic, ScalarRequant},
};
use std::time::{Duration, Instant};

const COUNT: usize = 56 * 56 * 64;

fn main() {
    let supported = || Isa::all().iter().copied().filter(|isa| isa.is_supported());
    let wanted: Vec<Isa> = match std::env::args().nth(1) {
        Some(name) => vec![name.parse().expect("the name of an instruction set")],
        None => supported().collect(),
    };
    for isa in wanted {
        println!("{isa}");
        measure_all(isa);
    }
}

fn measure_all(isa: Isa) {
    let a: Vec<u8> = (0..COUNT + SLACK).map(|i| (i * 7 % 251) as u8).collect();
    let b: Vec<u8> = (0..COUNT).map(|i| (i * 11 % 241) as u8).collect();
    let a_exact = &a[..COUNT];
    let mut out = vec![0u8; COUNT];
    let mut real = vec![0f32; COUNT];
    let (sa, sb, sy) = (0.1, 0.2, 0.3);
    let add_dyadic = AddDyadic::from_real(0.33, 0.66).expect("in range");
    let by = Dyadic::from_real(0.011).expect("in range");
    let onnx = AddMode::Onnx { sa, sb, sy };
    for (name, mode) in [("add dyadic", AddMode::Dyadic(add_dyadic)), ("add onnx", onnx)] {
        let spec = AddSpec { za: 100, zb: 120, zero: 90, lo: 0, hi: 255, subtract: false, mode };
        report(name, || eltwise::add(isa, a_exact, &b, &mut out, &spec));
    }
    let onnx = MulMode::Onnx { sa, sb, sy };
    for (name, mode) in [("mul dyadic", MulMode::Dyadic(by)), ("mul onnx", onnx)] {
        let spec = MulSpec { za: 100, zb: 120, zero: 90, lo: 0, hi: 255, mode };
        report(name, || eltwise::mul(isa, a_exact, &b, &mut out, &spec));
    }
    let table: [u8; 256] = std::array::from_fn(|i| (255 - i) as u8);
    report("table", || eltwise::lut(isa, a_exact, &table, &mut out));
    report("dequantize", || eltwise::dequantize(isa, a_exact, 0.1, 100, &mut real));
    report("quantize", || eltwise::quantize(isa, &real, 0.1, 100, 0, 255, &mut out));
    report("quantize, change layout", || {
        layout::quantize_nchw_to_nhwc(isa, &real, 64, 56 * 56, 0.1, 100, 0, 255, &mut out);
    });
    // As many elements, in three planes.
    let third = COUNT / 3;
    report("quantize 3 channels", || {
        let out = &mut out[..3 * third];
        layout::quantize_nchw_to_nhwc(isa, &real[..3 * third], 3, third, 0.1, 100, 0, 255, out);
    });
    report("dequantize, change layout", || {
        layout::dequantize_nhwc_to_nchw(isa, a_exact, 64, 56 * 56, 0.1, 100, &mut real);
    });
    let geom = PoolGeom {
        batch: 1,
        in_h: 56,
        in_w: 56,
        c: 64,
        out_h: 28,
        out_w: 28,
        k_h: 3,
        k_w: 3,
        stride_h: 2,
        stride_w: 2,
        dil_h: 1,
        dil_w: 1,
        pad_top: 1,
        pad_left: 1,
        pad_bottom: 1,
        pad_right: 1,
    };
    report("max pool 3x3 /2 (inputs)", || {
        pool::max_pool(isa, &geom, &a, 0..28 * 28, &mut out, 64);
    });
    let requants: Vec<_> = (1..=9).map(|count| (count, ScalarRequant::Dyadic(by))).collect();
    let spec = AvgSpec { x_zero: 3, count_include_pad: false, requants: &requants, zero: 4, lo: 0, hi: 255 };
    let average = BoundAvg::new(isa, &geom, &spec);
    report("average pool 3x3 /2 (inputs)", || average.run(&a, 0..28 * 28, &mut out, 64));
    let requants = [(56 * 56, ScalarRequant::Dyadic(by))];
    let spec = AvgSpec { requants: &requants, ..spec };
    let all = PoolGeom { k_h: 56, k_w: 56, out_h: 1, out_w: 1, pad_top: 0, pad_left: 0, ..geom };
    let average = BoundAvg::new(isa, &all, &spec);
    report("global average pool", || average.run(&a, 0..1, &mut out, 64));
}

/// Prints the best rate of some tries.
fn report(name: &str, mut work: impl FnMut()) {
    let mut best = f64::MAX;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(60) {
        let now = Instant::now();
        work();
        best = best.min(now.elapsed().as_secs_f64());
    }
    println!("  {name:28} {:7.2} G/s", COUNT as f64 / best / 1e9);
}
