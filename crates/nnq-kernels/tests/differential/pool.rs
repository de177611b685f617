//! Maxima and means of windows.
use crate::{
    Bench,
    draw::{Draw, at_most},
    product::{dyadic, factor},
    same,
    spec::{Grid, mean, windows},
};
use nnq_kernels::{
    SLACK,
    pool::{AvgSpec, BoundAvg, PoolGeom, max_pool},
    round::ScalarRequant,
};

/// For each number of positions that windows count, a requantization.
pub fn requants(draw: &mut Draw, geom: &PoolGeom, include_pad: bool) -> Vec<(usize, ScalarRequant)> {
    let onnx = draw.once_in(2);
    let mut counts = geom.counts(include_pad);
    if counts.is_empty() {
        counts.push(1);
    }
    let of = |count: usize| {
        let bound = count as f64 * 255.0;
        match onnx {
            true => (count, ScalarRequant::Onnx(factor(draw, bound) as f32)),
            false => (count, ScalarRequant::Dyadic(dyadic(draw, bound))),
        }
    };
    counts.into_iter().map(of).collect()
}

pub fn case(draw: &mut Draw, bench: &mut Bench) -> Result<(), String> {
    let geom = draw.pool_geometry(at_most(1 << 16, 1 << 10));
    let x_zero = draw.byte();
    let include_pad = draw.once_in(2);
    let requants = requants(draw, &geom, include_pad);
    let to = Grid::new(draw.limits());
    let pitch = geom.c + if draw.once_in(2) { 0 } else { draw.within(1..=40) };
    let cuts = draw.parts(geom.pixels());
    bench.note((geom, x_zero, include_pad, &requants, to, pitch, &cuts));
    let x = draw.bytes(geom.batch * geom.in_h * geom.in_w * geom.c + SLACK);
    let before = vec![0x5a; geom.pixels() * pitch + 80];
    let (mut maxima, mut means) = (before.clone(), before.clone());
    for (i, window) in windows(&geom, &x).enumerate() {
        let at = i / geom.c * pitch + i % geom.c;
        maxima[at] = window.codes.iter().copied().max().unwrap_or(0);
        means[at] = mean(&window, x_zero, include_pad, &requants, to);
    }
    let spec =
        AvgSpec { x_zero, count_include_pad: include_pad, requants: &requants, zero: to.zero, lo: to.lo, hi: to.hi };
    for &isa in &bench.isas {
        let (mut got_maxima, mut got_means) = (before.clone(), before.clone());
        let bound = BoundAvg::new(isa, &geom, &spec);
        for rows in cuts.iter().filter(|rows| !rows.is_empty()) {
            let to = rows.start * pitch..(rows.end - 1) * pitch + geom.c;
            max_pool(isa, &geom, &x, rows.clone(), &mut got_maxima[to.clone()], pitch);
            bound.run(&x, rows.clone(), &mut got_means[to], pitch);
        }
        same(isa, &got_maxima, &maxima).map_err(|e| format!("maxima: {e}"))?;
        same(isa, &got_means, &means).map_err(|e| format!("means: {e}"))?;
    }
    Ok(())
}
