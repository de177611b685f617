use super::*;
use nnq::{
    exec::float::{Options, Session},
    ir::{
        Graph,
        op::{AutoPad, ConvAttrs, ConvTransposeAttrs},
    },
};
use proptest::prelude::*;
use std::sync::Arc;

#[derive(Clone, Debug)]
struct Case {
    images: usize,
    group: usize,
    ins: usize,
    outs: usize,
    input: Vec<usize>,
    kernel: Vec<usize>,
    attrs: ConvAttrs,
    seed: u64,
}

impl Case {
    fn x(&self) -> Tensor {
        tensor(&[&[self.images, self.group * self.ins], &self.input[..]].concat(), self.seed)
    }
    fn w(&self) -> Tensor {
        tensor(&[&[self.group * self.outs, self.ins], &self.kernel[..]].concat(), self.seed + 1)
    }
    fn bias(&self) -> Tensor {
        tensor(&[self.group * self.outs], self.seed + 2)
    }
    /// Output size and pads at the beginning of an axis, by the formulas of the specification. None: does not fit.
    fn axis(&self, a: usize) -> Option<(usize, i64)> {
        let n = self.input.len();
        let (size, k) = (self.input[a] as i64, self.kernel[a] as i64);
        let (s, d) = (self.attrs.strides[a] as i64, self.attrs.dilations[a] as i64);
        let extent = (k - 1) * d + 1;
        let (out, begin) = match self.attrs.auto_pad {
            AutoPad::NotSet => {
                let (b, e) = (self.attrs.pads[a], self.attrs.pads[n + a]);
                ((size + b + e - extent).div_euclid(s) + 1, b)
            }
            AutoPad::Valid => ((size - extent).div_euclid(s) + 1, 0),
            same => {
                let out = (size as f64 / s as f64).ceil() as i64;
                let total = ((out - 1) * s + extent - size).max(0);
                (out, if same == AutoPad::SameUpper { total / 2 } else { total - total / 2 })
            }
        };
        (out > 0).then_some((out as usize, begin))
    }
    fn output(&self) -> Option<(Vec<usize>, Vec<i64>)> {
        (0..self.input.len()).map(|a| self.axis(a)).collect::<Option<Vec<_>>>().map(|v| v.into_iter().unzip())
    }
    /// The sum, and the sum of magnitudes with the number of terms for the bound.
    #[allow(clippy::type_complexity, clippy::needless_range_loop)]
    fn reference(&self) -> Option<(Vec<usize>, Vec<(f64, f64)>)> {
        let (out, begin) = self.output()?;
        let (x, w, b) = (self.x().to_f32s(), self.w().to_f32s(), self.bias().to_f32s());
        let channels = self.group * self.ins;
        let mut y = Vec::new();
        for n in 0..self.images {
            for o in 0..self.group * self.outs {
                for at in indices(&out) {
                    let (mut sum, mut size) = (f64::from(b[o]), f64::from(b[o]).abs());
                    for c in 0..self.ins {
                        for k in indices(&self.kernel) {
                            let (s, d) = (&self.attrs.strides, &self.attrs.dilations);
                            let Some(i) = under(&at, &k, s, d, &begin, &self.input) else { continue };
                            let channel = o / self.outs * self.ins + c;
                            let xi =
                                (n * channels + channel) * self.input.iter().product::<usize>() + flat(&i, &self.input);
                            let wi =
                                (o * self.ins + c) * self.kernel.iter().product::<usize>() + flat(&k, &self.kernel);
                            let term = f64::from(x[xi]) * f64::from(w[wi]);
                            sum += term;
                            size += term.abs();
                        }
                    }
                    y.push((sum, size));
                }
            }
        }
        let shape = [&[self.images, self.group * self.outs], &out[..]].concat();
        Some((shape, y))
    }
}

fn case() -> impl Strategy<Value = Case> {
    let axis = (1..=9usize, 1..=3usize, 1..=3usize, 1..=2usize, -1..=3i64, -1..=3i64);
    let pad = prop_oneof![
        3 => Just(AutoPad::NotSet),
        1 => Just(AutoPad::SameUpper),
        1 => Just(AutoPad::SameLower),
        1 => Just(AutoPad::Valid)
    ];
    let channels = (1..=3usize, 1..=3usize, prop_oneof![1..=4usize, 7..=19usize]);
    (1..=3usize, channels, prop::collection::vec(axis, 1..=3), pad, any::<u32>()).prop_map(
        |(images, (group, ins, outs), axes, auto_pad, seed)| Case {
            images,
            group,
            ins,
            outs,
            input: axes.iter().map(|a| a.0).collect(),
            kernel: axes.iter().map(|a| a.1).collect(),
            attrs: ConvAttrs {
                kernel: Vec::new(),
                strides: axes.iter().map(|a| a.2).collect(),
                dilations: axes.iter().map(|a| a.3).collect(),
                pads: axes.iter().map(|a| a.4).chain(axes.iter().map(|a| a.5)).collect(),
                auto_pad,
                group,
            },
            seed: seed.into(),
        },
    )
}

fn terms(c: &Case) -> f64 {
    (c.ins * c.kernel.iter().product::<usize>() + 1) as f64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A sum of n terms in any order is within n units in the last place of the sum of magnitudes.
    #[test]
    fn conv_is_the_definition(c in case()) {
        let (x, w, b) = (c.x(), c.w(), c.bias());
        let y = one(Op::Conv(c.attrs.clone()), &[&x, &w, &b]);
        let Some((shape, reference)) = c.reference() else {
            prop_assert!(y.is_err());
            return Ok(());
        };
        let bound = |unit: f64| reference.iter().map(|&(v, size)| (v, terms(&c) * unit * size)).collect::<Vec<_>>();
        close(&y.unwrap(), &shape, &bound(f64::from(f32::EPSILON)));
        let y = one(Op::Conv(c.attrs.clone()), &[&double(&x), &double(&w), &double(&b)]).unwrap();
        close(&y, &shape, &bound(f64::EPSILON));
    }

    /// The sum by definition of the gradient: output o collects x[i] w[k] wherever i * stride + k * dilation - pad = o.
    #[test]
    fn conv_transpose_is_the_definition(
        images in 1..=2usize, group in 1..=2usize, ins in 1..=3usize, outs in prop_oneof![1..=3usize, 9..=10usize],
        axes in prop::collection::vec((1..=5usize, 1..=3usize, 1..=3usize, 1..=2usize, 0..=2i64, 0..=2i64, 0..=2usize), 1..=3),
        seed in any::<u32>(),
    ) {
        #[allow(clippy::type_complexity)]
        let pick = |f: fn(&(usize, usize, usize, usize, i64, i64, usize)) -> usize| axes.iter().map(f).collect::<Vec<_>>();
        let (input, kernel, s, d) = (pick(|a| a.0), pick(|a| a.1), pick(|a| a.2), pick(|a| a.3));
        let extra: Vec<usize> = axes.iter().map(|a| a.6 % a.2.max(a.3)).collect();
        let begin: Vec<i64> = axes.iter().map(|a| a.4).collect();
        let attrs = ConvTransposeAttrs {
            conv: ConvAttrs {
                strides: s.clone(),
                dilations: d.clone(),
                pads: begin.iter().copied().chain(axes.iter().map(|a| a.5)).collect(),
                group,
                ..ConvAttrs::default()
            },
            output_padding: extra.clone(),
            output_shape: Vec::new(),
        };
        let x = tensor(&[&[images, group * ins], &input[..]].concat(), seed.into());
        let w = tensor(&[&[group * ins, outs], &kernel[..]].concat(), u64::from(seed) + 1);
        let b = tensor(&[group * outs], u64::from(seed) + 2);
        let y = one(Op::ConvTranspose(attrs), &[&x, &w, &b]);
        let out: Vec<i64> = axes
            .iter()
            .zip(&extra)
            .map(|(a, &e)| (a.2 * (a.0 - 1) + e + (a.1 - 1) * a.3 + 1) as i64 - a.4 - a.5)
            .collect();
        if out.iter().any(|&o| o <= 0) {
            prop_assert!(y.is_err());
            return Ok(());
        }
        let out: Vec<usize> = out.into_iter().map(|o| o as usize).collect();
        let (xs, ws, bs) = (x.to_f32s(), w.to_f32s(), b.to_f32s());
        let (area, taps) = (input.iter().product::<usize>(), kernel.iter().product::<usize>());
        let mut reference = Vec::new();
        for n in 0..images {
            for o in 0..group * outs {
                for at in indices(&out) {
                    let (mut sum, mut size) = (f64::from(bs[o]), f64::from(bs[o]).abs());
                    for c in 0..ins {
                        let channel = o / outs * ins + c;
                        for k in indices(&kernel) {
                            let from: Option<Vec<usize>> = (0..at.len())
                                .map(|a| {
                                    let i = at[a] as i64 + begin[a] - (k[a] * d[a]) as i64;
                                    let whole = i >= 0 && i % s[a] as i64 == 0 && i / (s[a] as i64) < input[a] as i64;
                                    whole.then_some(i as usize / s[a])
                                })
                                .collect();
                            let Some(i) = from else { continue };
                            let x = xs[(n * group * ins + channel) * area + flat(&i, &input)];
                            let w = ws[(channel * outs + o % outs) * taps + flat(&k, &kernel)];
                            sum += f64::from(x) * f64::from(w);
                            size += (f64::from(x) * f64::from(w)).abs();
                        }
                    }
                    reference.push((sum, (ins * taps + 1) as f64 * f64::from(f32::EPSILON) * size));
                }
            }
        }
        close(&y.unwrap(), &[&[images, group * outs], &out[..]].concat(), &reference);
    }
}

/// Layers with many channels, tiles beyond one panel and several blocks of the inner dimension.
fn large() -> Vec<Case> {
    let case = |images, group, ins, outs, size: [usize; 2], k: usize, s: usize, pad: i64| Case {
        images,
        group,
        ins,
        outs,
        input: size.to_vec(),
        kernel: vec![k; 2],
        attrs: ConvAttrs {
            strides: vec![s; 2],
            dilations: vec![1; 2],
            pads: vec![pad; 4],
            group,
            ..ConvAttrs::default()
        },
        seed: 5,
    };
    vec![
        case(1, 1, 3, 20, [45, 37], 7, 2, 3),
        case(3, 1, 70, 33, [7, 7], 3, 1, 1),
        case(2, 1, 64, 17, [29, 31], 1, 1, 0),
        case(2, 1, 33, 24, [15, 14], 1, 2, 0),
        case(5, 1, 300, 9, [3, 3], 1, 1, 0),
        case(2, 40, 1, 1, [14, 15], 3, 1, 1),
        case(2, 5, 1, 2, [33, 40], 3, 2, 1),
        case(1, 3, 1, 1, [70, 9], 5, 1, 2),
        case(2, 4, 8, 12, [20, 20], 3, 1, 1),
    ]
}

/// The documented order: one chain of fused multiply-adds from the bias, over the taps and their channels; with groups over
/// the channels and their taps. Exact.
#[test]
fn conv_is_one_chain() {
    for c in large() {
        let (out, begin) = c.output().unwrap();
        let (x, w, b) = (c.x(), c.w(), c.bias());
        let (xs, ws, bs) = (x.to_f32s(), w.to_f32s(), b.to_f32s());
        let y = one(Op::Conv(c.attrs.clone()), &[&x, &w, &b]).unwrap();
        let (area, taps) = (c.input.iter().product::<usize>(), c.kernel.iter().product::<usize>());
        let mut all = y.as_slice::<f32>().unwrap().iter();
        let mut order: Vec<(usize, Vec<usize>)> =
            (0..c.ins).flat_map(|channel| indices(&c.kernel).into_iter().map(move |k| (channel, k))).collect();
        if c.group == 1 {
            order.sort_by_key(|(channel, k)| (flat(k, &c.kernel), *channel));
        }
        for n in 0..c.images {
            for o in 0..c.group * c.outs {
                for at in indices(&out) {
                    let mut acc = bs[o];
                    for (channel, k) in &order {
                        let Some(i) = under(&at, k, &c.attrs.strides, &[1, 1], &begin, &c.input) else { continue };
                        let plane = n * c.group * c.ins + o / c.outs * c.ins + channel;
                        let w = ws[(o * c.ins + channel) * taps + flat(k, &c.kernel)];
                        acc = w.mul_add(xs[plane * area + flat(&i, &c.input)], acc);
                    }
                    assert_eq!(acc, *all.next().unwrap(), "{c:?} at {n} {o} {at:?}");
                }
            }
        }
    }
}

/// Bits do not depend on the thread count, nor on the other images of a batch.
#[test]
fn threads_and_batch_change_nothing() {
    for c in large() {
        let mut g = Graph::new("conv");
        let x = g.add_value("x", None, None).unwrap();
        let w = g.add_constant("w", Arc::new(c.w()));
        let y = g.add_value("y", None, None).unwrap();
        g.add_node("conv", Op::Conv(c.attrs.clone()), vec![Some(x), Some(w)], vec![Some(y)]);
        g.inputs.push(x);
        g.outputs.push(y);
        let g = Arc::new(g);
        let mut results = Vec::new();
        for threads in [1, 2, 5] {
            let mut session = Session::new(g.clone(), &Options { threads }).unwrap();
            for _ in 0..2 {
                results.push(session.run(vec![c.x()]).unwrap().swap_remove(0));
            }
        }
        let first = results[0].as_slice::<f32>().unwrap();
        for r in &results {
            assert_eq!(first, r.as_slice::<f32>().unwrap());
        }
        let mut session = Session::new(g, &Options { threads: 1 }).unwrap();
        let (x, per) = (c.x(), c.x().len() / c.images);
        let single: Vec<f32> = x
            .as_slice::<f32>()
            .unwrap()
            .chunks(per)
            .flat_map(|image| {
                let image = Tensor::of(&[&[1], &x.shape()[1..]].concat(), image.to_vec());
                session.run(vec![image]).unwrap().swap_remove(0).to_f32s()
            })
            .collect();
        assert_eq!(first, single);
    }
}

/// No images, no channels, planes without elements.
#[test]
fn nothing_is_no_panic() {
    let b = tensor(&[2], 3);
    let conv = |x: &[usize], w: &[usize], pad: i64| {
        let op = Op::Conv(ConvAttrs { pads: vec![pad; 4], ..ConvAttrs::default() });
        one(op, &[&tensor(x, 1), &tensor(w, 2), &b])
    };
    assert_eq!(conv(&[0, 3, 4, 4], &[2, 3, 3, 3], 0).unwrap().shape(), [0, 2, 2, 2]);
    let y = conv(&[1, 0, 3, 3], &[2, 0, 3, 3], 0).unwrap();
    assert_eq!((y.shape(), y.to_f32s()), (&[1, 2, 1, 1][..], b.to_f32s()));
    assert!(conv(&[1, 3, 0, 0], &[2, 3, 3, 3], 0).map_or(true, |y| y.is_empty()));
    if let Ok(y) = conv(&[1, 3, 0, 0], &[2, 3, 3, 3], 2) {
        assert!(y.to_f32s().chunks(y.len() / 2).zip(b.to_f32s()).all(|(plane, b)| plane.iter().all(|&x| x == b)));
    }
    let x = tensor(&[1, 0, 3, 3], 1);
    let y = one(Op::ConvTranspose(ConvTransposeAttrs::default()), &[&x, &tensor(&[0, 2, 1, 1], 2), &b]).unwrap();
    assert_eq!(y.shape(), [1, 2, 3, 3]);
    let y = one(Op::MatMul, &[&tensor(&[2, 0], 1), &tensor(&[0, 3], 2)]).unwrap();
    assert_eq!((y.shape(), y.to_f32s()), (&[2, 3][..], vec![0.0; 6]));
}

#[test]
fn misfits_are_errors() {
    let attrs = ConvAttrs { group: 2, ..ConvAttrs::default() };
    let (x, w) = (tensor(&[1, 3, 4, 4], 1), tensor(&[2, 1, 3, 3], 2));
    assert!(one(Op::Conv(attrs), &[&x, &w]).unwrap_err().cause().contains("groups"));
    let w = tensor(&[2, 3, 5, 5], 2);
    assert!(one(Op::Conv(ConvAttrs::default()), &[&x, &w]).is_err());
    let far = ConvAttrs { pads: vec![1 << 16; 4], ..ConvAttrs::default() };
    assert!(one(Op::Conv(far), &[&x, &tensor(&[2, 3, 1, 1], 2)]).unwrap_err().to_string().contains("at most"));
}
