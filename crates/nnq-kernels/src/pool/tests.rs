use super::*;
use crate::{conv::tests::Numbers, isa::tests::tested, round::Dyadic};
use proptest::prelude::*;

/// For each output value: the largest code, the sum of differences, the positions inside, the
/// positions inside or in the padding.
fn reference(g: &PoolGeom, x: &[u8], zero: u8) -> Vec<(u8, i32, usize, usize)> {
    let mut all = Vec::new();
    for i in 0..g.pixels() * g.c {
        let (pixel, c) = (i / g.c, i % g.c);
        let (n, oh, ow) = (pixel / (g.out_h * g.out_w), pixel / g.out_w % g.out_h, pixel % g.out_w);
        let (mut max, mut sum, mut inside, mut padded) = (0, 0, 0, 0);
        for k in 0..g.k_h * g.k_w {
            let h = (oh * g.stride_h + k / g.k_w * g.dil_h) as i64 - g.pad_top as i64;
            let w = (ow * g.stride_w + k % g.k_w * g.dil_w) as i64 - g.pad_left as i64;
            let (in_h, in_w) = (g.in_h as i64, g.in_w as i64);
            if h < in_h + g.pad_bottom as i64 && w < in_w + g.pad_right as i64 {
                padded += 1;
            }
            if (0..in_h).contains(&h) && (0..in_w).contains(&w) {
                let q = x[((n * g.in_h + h as usize) * g.in_w + w as usize) * g.c + c];
                max = q.max(max);
                sum += i32::from(q) - i32::from(zero);
                inside += 1;
            }
        }
        all.push((max, sum, inside, padded));
    }
    all
}

fn check(g: &PoolGeom, x_zero: u8, seed: u64) {
    let mut numbers = Numbers::new(seed);
    let x = numbers.bytes(g.batch * g.in_h * g.in_w * g.c + SLACK);
    let want = reference(g, &x, x_zero);
    let (pixels, pitch) = (g.pixels(), g.c + 3);
    let cut = pixels / 2;
    let len = if pixels == 0 { 0 } else { (pixels - 1) * pitch + g.c };
    let value = |data: &[u8], i: usize| data[i / g.c * pitch + i % g.c];
    let counts = 1..=g.k_h * g.k_w;
    let onnx: Vec<_> = counts.clone().map(|c| (c, ScalarRequant::Onnx(1.3 / c as f32))).collect();
    let dyadic: Vec<_> =
        counts.map(|c| (c, ScalarRequant::Dyadic(Dyadic::from_real(0.9 / c as f64).unwrap()))).collect();
    for isa in tested() {
        let mut data = vec![9; len];
        max_pool(isa, g, &x, 0..cut, &mut data, pitch);
        max_pool(isa, g, &x, cut..pixels, &mut data[(cut * pitch).min(len)..], pitch);
        for (i, want) in want.iter().enumerate() {
            assert_eq!(value(&data, i), want.0, "{isa} max {g:?} {i}");
        }
        assert!((0..len).all(|i| i % pitch < g.c || data[i] == 9), "{isa}");
        for requants in [&onnx, &dyadic] {
            for count_include_pad in [false, true] {
                let spec = AvgSpec { x_zero, count_include_pad, requants, zero: 100, lo: 2, hi: 251 };
                let mut data = vec![9; len];
                BoundAvg::new(isa, g, &spec).run(&x, 0..pixels, &mut data, pitch);
                for (i, &(_, sum, inside, padded)) in want.iter().enumerate() {
                    let count = if count_include_pad { padded } else { inside };
                    let code = match count {
                        0 => 100,
                        _ => requants[count - 1].1.apply(sum, 100, 2, 251),
                    };
                    assert_eq!(i32::from(value(&data, i)), code, "{isa} {spec:?} {g:?} {i}");
                }
                assert!((0..len).all(|i| i % pitch < g.c || data[i] == 9), "{isa}");
            }
        }
    }
}

fn geom(size: usize, c: usize, k: usize, stride: usize, pad: usize) -> PoolGeom {
    let out = (size + 2 * pad + stride - k) / stride;
    PoolGeom {
        batch: 2,
        in_h: size,
        in_w: size,
        c,
        out_h: out,
        out_w: out,
        k_h: k,
        k_w: k,
        stride_h: stride,
        stride_w: stride,
        dil_h: 1,
        dil_w: 1,
        pad_top: pad,
        pad_left: pad,
        pad_bottom: pad,
        pad_right: pad,
    }
}

#[test]
fn channels_around_the_vector() {
    for c in [1, 3, 15, 16, 31, 32, 33, 63, 64, 65, 129] {
        check(&geom(7, c, 3, 2, 1), 128, c as u64);
    }
}

#[test]
fn outputs_that_reach_beyond_the_padding() {
    for (size, k, stride, pad, out) in [(6, 3, 2, 0, 3), (5, 2, 2, 1, 4), (4, 3, 3, 1, 3), (3, 2, 4, 0, 2)] {
        let mut geom = geom(size, 5, k, stride, pad);
        (geom.out_h, geom.out_w) = (out, out);
        check(&geom, 3, 8);
    }
}

#[test]
fn global_average_is_the_mean_of_all() {
    for (batch, pixels, c) in [(1, 49, 70), (3, 64, 16), (2, 1, 5), (0, 4, 4)] {
        let row = geom(pixels, c, pixels, 1, 0);
        let all = PoolGeom { batch, in_h: 1, k_h: 1, ..row };
        let x = Numbers::new(3).bytes(batch * pixels * c + SLACK);
        let by = ScalarRequant::Dyadic(Dyadic::from_real(1.1 / pixels as f64).unwrap());
        let spec =
            AvgSpec { x_zero: 50, count_include_pad: false, requants: &[(pixels, by)], zero: 60, lo: 0, hi: 255 };
        for isa in tested() {
            let mut out = vec![0; batch * c];
            BoundAvg::new(isa, &all, &spec).run(&x, 0..batch, &mut out, c);
            for (i, &y) in out.iter().enumerate() {
                let values = x[i / c * pixels * c..].iter().skip(i % c).step_by(c).take(pixels);
                let sum: i32 = values.map(|&q| i32::from(q) - 50).sum();
                assert_eq!(i32::from(y), by.apply(sum, 60, 0, 255), "{isa}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_geometry(
        sizes in (1usize..9, 1usize..9, 1usize..80, 1usize..5, 1usize..5),
        steps in (1usize..4, 1usize..4, 1usize..3, 1usize..3),
        pads in (0usize..3, 0usize..3, 0usize..3, 0usize..3),
        outs in (1usize..7, 1usize..7),
        x_zero: u8,
        seed: u64,
    ) {
        let geom = PoolGeom {
            batch: 1,
            in_h: sizes.0,
            in_w: sizes.1,
            c: sizes.2,
            out_h: outs.0,
            out_w: outs.1,
            k_h: sizes.3,
            k_w: sizes.4,
            stride_h: steps.0,
            stride_w: steps.1,
            dil_h: steps.2,
            dil_w: steps.3,
            pad_top: pads.0,
            pad_left: pads.1,
            pad_bottom: pads.2,
            pad_right: pads.3,
        };
        check(&geom, x_zero, seed);
    }
}
