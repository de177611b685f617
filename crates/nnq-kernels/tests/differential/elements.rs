//! What works element by element, and changes of layout.
use crate::{
    Bench,
    draw::{Draw, at_most},
    product::dyadic,
    same,
    spec::{self, Grid},
};
use nnq_kernels::{
    eltwise::{AddMode, AddSpec, MulMode, MulSpec, add, dequantize, lut, mul, quantize},
    layout::{dequantize_nhwc_to_nchw, quantize_nchw_to_nhwc},
    round::AddDyadic,
};

pub fn add_spec(draw: &mut Draw) -> AddSpec {
    let (zero, lo, hi) = draw.limits();
    let [sa, sb] = [draw.magnitude(-12.0, 2.0), draw.magnitude(-12.0, 2.0)];
    let sy = (sa + sb) * draw.magnitude(-3.0, 3.0);
    let dyadic = AddDyadic::from_real(sa / sy, sb / sy).expect("in range");
    let onnx = AddMode::Onnx { sa: sa as f32, sb: sb as f32, sy: sy as f32 };
    let mode = if draw.once_in(2) { AddMode::Dyadic(dyadic) } else { onnx };
    AddSpec { za: draw.byte(), zb: draw.byte(), zero, lo, hi, subtract: draw.once_in(3), mode }
}

pub fn mul_spec(draw: &mut Draw) -> MulSpec {
    let (zero, lo, hi) = draw.limits();
    let [sa, sb] = [draw.magnitude(-12.0, 2.0) as f32, draw.magnitude(-12.0, 2.0) as f32];
    let sy = sa * sb * draw.magnitude(0.0, 9.0) as f32;
    let onnx = MulMode::Onnx { sa, sb, sy };
    let mode = if draw.once_in(2) { MulMode::Dyadic(dyadic(draw, 255.0 * 255.0)) } else { onnx };
    MulSpec { za: draw.byte(), zb: draw.byte(), zero, lo, hi, mode }
}

/// Real numbers around the grid of codes: ties, and now and then what is not finite or far away.
fn reals(draw: &mut Draw, count: usize, scale: f32) -> Vec<f32> {
    (0..count)
        .map(|_| match draw.within(0..=29) {
            0 => draw.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e9, -3e9, -0.0, 1e-42, f32::MAX]),
            1..=9 => (draw.within(0..=1200) as f32 - 600.0) / 2.0 * scale,
            _ => (draw.share() as f32 - 0.5) * 700.0 * scale,
        })
        .collect()
}

fn bits(reals: &[f32]) -> Vec<u32> {
    reals.iter().map(|x| x.to_bits()).collect()
}

/// An output with others before and behind it.
fn guarded<T: Copy>(n: usize, guard: T, fill: T, write: impl FnOnce(&mut [T])) -> Vec<T> {
    let mut all = vec![guard; n + 140];
    all[70..70 + n].fill(fill);
    write(&mut all[70..70 + n]);
    all
}

pub fn case(draw: &mut Draw, bench: &mut Bench) -> Result<(), String> {
    let n = if draw.once_in(4) { draw.within(0..=at_most(3000, 90)) } else { draw.within(0..=at_most(300, 40)) };
    let (sum, product) = (add_spec(draw), mul_spec(draw));
    let to = Grid::new(draw.limits());
    let (scale, zero) = (draw.magnitude(-20.0, 6.0) as f32, draw.byte());
    let skip = draw.within(0..=3);
    bench.note((n, sum, product, to, scale, zero, skip));
    let (a, b) = (draw.bytes(skip + n), draw.bytes(n));
    let a = &a[skip..];
    let table: [u8; 256] = std::array::from_fn(|_| draw.byte());
    let x = reals(draw, n, scale);
    let codes = |f: &dyn Fn(usize) -> u8| guarded(n, 9, 0, |y| y.iter_mut().enumerate().for_each(|(i, y)| *y = f(i)));
    let sums = codes(&|i| spec::add(&sum, a[i], b[i]));
    let products = codes(&|i| spec::mul(&product, a[i], b[i]));
    let looked_up = codes(&|i| table[usize::from(a[i])]);
    let quantized = codes(&|i| to.quantize(x[i], scale));
    let real = guarded(n, 9.0, 0.0, |y| (0..n).for_each(|i| y[i] = spec::dequantize(a[i], scale, zero)));
    for &isa in &bench.isas {
        let check = |what: &str, want: &[u8], run: &dyn Fn(&mut [u8])| {
            same(isa, &guarded(n, 9, 1, run), want).map_err(|e| format!("{what}: {e}"))
        };
        check("add", &sums, &|y| add(isa, a, &b, y, &sum))?;
        check("mul", &products, &|y| mul(isa, a, &b, y, &product))?;
        check("lut", &looked_up, &|y| lut(isa, a, &table, y))?;
        check("quantize", &quantized, &|y| quantize(isa, &x, scale, to.zero, to.lo, to.hi, y))?;
        let got = guarded(n, 9.0, 1.0, |y| dequantize(isa, a, scale, zero, y));
        same(isa, &bits(&got), &bits(&real)).map_err(|e| format!("dequantize: {e}"))?;
    }
    Ok(())
}

pub fn layout_case(draw: &mut Draw, bench: &mut Bench) -> Result<(), String> {
    let c = if draw.once_in(2) { draw.within(0..=9) } else { draw.size(70) };
    let pixels = if draw.once_in(2) { draw.size(130) } else { draw.within(0..=at_most(300, 20)) };
    let to = Grid::new(draw.limits());
    let (scale, zero) = (draw.magnitude(-20.0, 6.0) as f32, draw.byte());
    bench.note((c, pixels, to, scale, zero));
    let (n, x) = (c * pixels, reals(draw, c * pixels, scale));
    let codes = draw.bytes(n);
    let want = guarded(n, 9, 0, |y| {
        (0..n).for_each(|i| y[i] = to.quantize(x[i % c * pixels + i / c], scale));
    });
    let real = guarded(n, 9.0, 0.0, |y| {
        (0..n).for_each(|i| y[i] = spec::dequantize(codes[i % pixels * c + i / pixels], scale, zero));
    });
    for &isa in &bench.isas {
        let got = guarded(n, 9, 1, |y| {
            quantize_nchw_to_nhwc(isa, &x, c, pixels, scale, to.zero, to.lo, to.hi, y);
        });
        same(isa, &got, &want).map_err(|e| format!("to codes: {e}"))?;
        let got = guarded(n, 9.0, 1.0, |y| dequantize_nhwc_to_nchw(isa, &codes, c, pixels, scale, zero, y));
        same(isa, &bits(&got), &bits(&real)).map_err(|e| format!("to real numbers: {e}"))?;
    }
    Ok(())
}
