use super::*;
use nnq::ir::op::{AutoPad, PoolAttrs};
use proptest::prelude::*;

/// input, kernel, stride, dilation, pad before, pad after
type Axis = (usize, usize, usize, usize, i64, i64);

fn attrs(axes: &[Axis], ceil_mode: bool) -> PoolAttrs {
    PoolAttrs {
        kernel: axes.iter().map(|a| a.1).collect(),
        strides: axes.iter().map(|a| a.2).collect(),
        dilations: axes.iter().map(|a| a.3).collect(),
        pads: axes.iter().map(|a| a.4).chain(axes.iter().map(|a| a.5)).collect(),
        auto_pad: AutoPad::NotSet,
        ceil_mode,
    }
}

/// The output size of the specification; with `ceil_mode` a window that would start in the padding at the end is dropped.
fn size(&(n, k, s, d, b, e): &Axis, ceil: bool) -> i64 {
    let room = n as i64 + b + e - ((k - 1) * d + 1) as i64;
    if room < 0 {
        return 0;
    }
    let mut out = if ceil { (room as f64 / s as f64).ceil() as i64 + 1 } else { room / s as i64 + 1 };
    if ceil && (out - 1) * s as i64 >= n as i64 + b {
        out -= 1;
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn pools_are_the_definition(
        axes in prop::collection::vec((1..=8usize, 1..=3usize, 1..=3usize, 1..=2usize, 0..=2i64, 0..=2i64), 1..=3),
        plain in any::<bool>(), ceil in any::<bool>(), column_major in any::<bool>(), include in any::<bool>(), p in 1..=3i64,
        seed in any::<u32>(),
    ) {
        // Half of the cases go through the path without dilation; padding is smaller than the kernel, as ONNX wants it.
        let axes: Vec<Axis> = axes
            .into_iter()
            .map(|(n, k, s, d, b, e)| (n, k, s, if plain { 1 } else { d }, b.min(k as i64 - 1), e.min(k as i64 - 1)))
            .collect();
        let w = attrs(&axes, ceil);
        let input: Vec<usize> = axes.iter().map(|a| a.0).collect();
        let shape = [&[2, 3], &input[..]].concat();
        let x = tensor(&shape, seed.into());
        let op = Op::MaxPool { window: w.clone(), column_major };
        let found = eval(&op, &[Some(&x)], 2, &Ctx::new());
        let out: Vec<i64> = axes.iter().map(|a| size(a, ceil)).collect();
        if out.iter().any(|&o| o <= 0) {
            prop_assert!(found.is_err());
            return Ok(());
        }
        let out: Vec<usize> = out.into_iter().map(|o| o as usize).collect();
        let area: usize = input.iter().product();
        let begin: Vec<i64> = axes.iter().map(|a| a.4).collect();
        let v = x.to_f32s();
        let (mut top, mut place, mut mean, mut norm) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for plane in 0..6 {
            for at in indices(&out) {
                let (mut best, mut best_at, mut sum, mut lp, mut inside, mut counted) =
                    (f32::NEG_INFINITY, -1i64, 0.0f64, 0.0f64, 0u32, 0u32);
                for k in indices(&w.kernel) {
                    // Counted with include_pad: inside input and declared padding, not in the extension by ceil_mode.
                    counted += u32::from((0..at.len()).all(|a| {
                        ((at[a] * w.strides[a] + k[a] * w.dilations[a]) as i64) < axes[a].4 + input[a] as i64 + axes[a].5
                    }));
                    let Some(i) = under(&at, &k, &w.strides, &w.dilations, &begin, &input) else { continue };
                    let value = v[plane * area + flat(&i, &input)];
                    if value > best {
                        let (i, input) = if column_major {
                            (i.iter().rev().copied().collect(), input.iter().rev().copied().collect())
                        } else {
                            (i, input.clone())
                        };
                        (best, best_at) = (value, (plane * area + flat(&i, &input)) as i64);
                    }
                    sum += f64::from(value);
                    lp += f64::from(value).abs().powi(p as i32);
                    inside += 1;
                }
                top.push((f64::from(best), 0.0));
                place.push(best_at);
                let n = if include { counted } else { inside };
                // Up to 27 terms below 1.
                mean.push((if n > 0 { sum / f64::from(n) } else { 0.0 }, 28.0 * f64::from(f32::EPSILON)));
                norm.push((lp.powf(1.0 / p as f64), 1e-6));
            }
        }
        let shape = [&[2, 3], &out[..]].concat();
        // A window without an input element has no maximum: the identity of max.
        let found = found.unwrap();
        let same = |y: &Tensor| y.to_f32s().iter().zip(&top).all(|(&y, &(t, _))| f64::from(y) == t);
        prop_assert!(same(&found[0]) && found[0].shape() == shape);
        prop_assert_eq!(found[1].as_slice::<i64>().unwrap(), &place[..]);
        prop_assert!(same(&one(op.clone(), &[&x]).unwrap()));
        let wide = one(op, &[&double(&x)]).unwrap();
        prop_assert!(same(&wide));
        close(&one(Op::AveragePool { window: w.clone(), count_include_pad: include }, &[&x]).unwrap(), &shape, &mean);
        close(&one(Op::LpPool { window: w, p }, &[&x]).unwrap(), &shape, &norm);
    }
}

#[test]
fn codes_and_nan() {
    let w = PoolAttrs { kernel: vec![2], ..PoolAttrs::default() };
    let max = |x: &Tensor| one(Op::MaxPool { window: w.clone(), column_major: false }, &[x]).unwrap();
    assert_eq!(max(&Tensor::of(&[1, 1, 4], vec![-128i8, -7, -9, 3])).as_slice::<i8>().unwrap(), [-7, -7, 3]);
    assert_eq!(max(&Tensor::of(&[1, 1, 3], vec![0u8, 255, 1])).as_slice::<u8>().unwrap(), [255, 255]);
    let y = max(&Tensor::of(&[1, 1, 4], vec![1.0f32, f32::NAN, 2.0, 0.0])).to_f32s();
    assert!(y[0].is_nan() && y[1].is_nan() && y[2] == 2.0);
}

#[test]
fn global_pools() {
    let x = tensor(&[2, 3, 5, 7], 1);
    let v = x.to_f32s();
    let per = |f: fn(&[f32]) -> f64| v.chunks(35).map(|p| (f(p), 1e-6)).collect::<Vec<_>>();
    let shape = [2, 3, 1, 1];
    close(&one(Op::GlobalMaxPool, &[&x]).unwrap(), &shape, &per(|p| p.iter().fold(-9.0, |a, &b| b.max(a)).into()));
    close(
        &one(Op::GlobalAveragePool, &[&x]).unwrap(),
        &shape,
        &per(|p| p.iter().map(|&x| f64::from(x)).sum::<f64>() / 35.0),
    );
    let l2 = per(|p| p.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt());
    close(&one(Op::GlobalLpPool { p: 2 }, &[&x]).unwrap(), &shape, &l2);
}
