//! Sketches against exact statistics, and the laws of merging.
use super::*;
use proptest::prelude::*;

fn sketch(x: &[f32]) -> Sketch {
    let mut s = Sketch::new();
    s.observe(x).unwrap();
    s
}

fn bytes(s: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(s).unwrap()
}

/// Values over the whole range of exponents, zeros of both signs, and what is not finite.
fn any_value() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -4.0f32..4.0,
        2 => prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL,
        1 => prop::sample::select(vec![0.0, -0.0, 1.0, 6.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
    ]
}

fn sum(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x)).sum()
}

#[test]
fn counts_by_hand() {
    let s = sketch(&[0.0, -0.0, 1.5, -2.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY, 1e-45]);
    assert_eq!((s.count(), s.finite(), s.zeros(), s.nan(), s.infinities()), (9, 5, 2, 1, [2, 1]));
    assert_eq!(s.extremes(), Some([-2.0, 1.5]));
    assert_eq!(sketch(&[]).extremes(), None);
    assert_eq!(sketch(&[f32::NAN]).extremes(), None);
    // A negative zero alone leaves no sign behind that would depend on the order.
    assert_eq!(sketch(&[-0.0]).extremes().unwrap()[0].to_bits(), 0);
}

#[test]
fn lone_values_and_values_on_edges_are_exact() {
    let x = [-3.3f32, -0.1, 0.0, 1e-30, 0.7, 0.7001, 6.0, 6.0, 6.0, 1e30];
    let got: Vec<_> = sketch(&x).segments();
    let want: Vec<(f64, f64, f64)> = vec![
        ((-3.3f32).into(), (-3.3f32).into(), 1.0),
        ((-0.1f32).into(), (-0.1f32).into(), 1.0),
        (0.0, 0.0, 1.0),
        (1e-30f32.into(), 1e-30f32.into(), 1.0),
        (0.7f32.into(), 0.7001f32.into(), 2.0),
        (6.0, 6.0, 3.0),
        (1e30f32.into(), 1e30f32.into(), 1.0),
    ];
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert_eq!(g.count, w.2);
        if w.0 == w.1 {
            assert_eq!((g.lo, g.hi), (w.0, w.1));
        } else {
            // Spread around the exact mean.
            assert!((g.mean() - f64::midpoint(w.0, w.1)).abs() < 1e-15, "{g:?}");
        }
    }
}

#[test]
fn every_call_size_counts_the_same() {
    // Around lanes, vector widths and blocks.
    let all: Vec<f32> = (0..10_000).map(|i| ((i * 7919) % 1000) as f32 * 0.01 - 3.0).collect();
    for n in [0, 1, 3, 4, 5, 7, 8, 9, 15, 17, 2047, 2048, 2049, 4095, 4097, 10_000] {
        let mut single = Sketch::new();
        for x in &all[..n] {
            single.observe(std::slice::from_ref(x)).unwrap();
        }
        assert_eq!(bytes(&sketch(&all[..n])), bytes(&single), "{n} elements");
    }
}

#[test]
fn counters_hold_the_longest_run_of_the_largest_fraction() {
    // More than the table takes before it is emptied, all in one bin, every lower bit set; then the same with a NaN in
    // each block, which sends all elements through one lane.
    let top = f32::from_bits(0x3fff_ffff);
    let mut x = vec![top; (1 << 24) + 5];
    for nan in [0, (1u64 << 24) / 2048 + 1] {
        if nan > 0 {
            x.iter_mut().step_by(2048).for_each(|x| *x = f32::NAN);
        }
        let s = sketch(&x);
        let n = x.len() as u64 - nan;
        assert_eq!((s.finite(), s.nan()), (n, nan));
        assert_eq!(s.sum(), n as f64 * f64::from(top));
        assert_eq!(s.segments(), [Segment { lo: top.into(), hi: top.into(), count: n as f64 }]);
    }
}

#[test]
fn sums_and_quantiles_of_many() {
    // A skewed distribution over many octaves.
    let x: Vec<f32> = (1..=200_000u32)
        .map(|i| {
            let u = i as f32 / 200_001.0;
            (u / (1.0 - u)).ln() * (1.0 + u * u)
        })
        .collect();
    let s = sketch(&x);
    let exact = sum(&x);
    // Exact integers; the reference rounds once per element in binary64.
    assert!((s.sum() - exact).abs() <= 1e-9 * s.sum_abs(), "{} {exact}", s.sum());
    let squares: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
    assert!((s.sum_squares() / squares - 1.0).abs() < 2e-6, "{} {squares}", s.sum_squares());
    let mut sorted = x.clone();
    sorted.sort_by(f32::total_cmp);
    for q in [0.0, 1e-5, 1e-3, 0.01, 0.3, 0.5, 0.9, 0.999, 0.9999, 1.0] {
        let rank = ((q * x.len() as f64).ceil() as usize).clamp(1, x.len());
        let (got, want) = (s.quantile(q).unwrap(), f64::from(sorted[rank - 1]));
        let far_below = want.abs() < f64::from(sorted[x.len() - 1]) / 65536.0;
        let bin = if far_below { 8.0 } else { 128.0 };
        assert!((got - want).abs() <= want.abs() / bin + 1e-12, "{q}: {got} {want}");
    }
    let mut mags: Vec<f32> = x.iter().map(|x| x.abs()).collect();
    mags.sort_by(f32::total_cmp);
    for q in [0.5, 0.99, 0.9999] {
        let want = f64::from(mags[(q * x.len() as f64).ceil() as usize - 1]);
        let got = s.quantile_abs(q).unwrap();
        assert!((got - want).abs() <= want / 128.0, "{q}: {got} {want}");
    }
    assert!(s.memory() < 75_000, "{} bytes", s.memory());
}

#[test]
fn octaves_far_below_the_top_are_coarse_however_it_came_up() {
    let values: Vec<f32> = (0..120).map(|i| 2f32.powi(i - 60) * (1.0 + i as f32 / 121.0)).collect();
    let (mut up, mut down) = (Sketch::new(), Sketch::new());
    for (a, b) in values.iter().zip(values.iter().rev()) {
        up.observe(&[*a; 3]).unwrap();
        down.observe(&[*b; 3]).unwrap();
    }
    assert_eq!(bytes(&up), bytes(&down));
    assert_eq!(postcard::from_bytes::<Sketch>(&bytes(&up)).unwrap(), up);
    // 17 pages of 2 KiB, 103 of 128 bytes.
    assert!(up.memory() < 17 * 2048 + 103 * 128 + 512, "{} bytes", up.memory());
    // Counts and sums stay exact, values alone in their bins too.
    let exact = 3.0 * sum(&values);
    assert!((up.sum() - exact).abs() <= 1e-12 * exact);
    let segments = up.segments();
    assert_eq!(segments.len(), 120);
    for (s, x) in segments.iter().zip(&values) {
        assert!(s.count == 3.0 && (s.mean() - f64::from(*x)).abs() <= 1e-7 * s.mean(), "{s:?} {x}");
    }
}

#[test]
fn too_many_values_are_refused() {
    let wire = bytes(&sketch(&[1.0]));
    // finite, total of the bin: a count just below the limit, made by merging a sketch with itself.
    let mut s: Sketch = postcard::from_bytes(&wire).unwrap();
    let mut refused = false;
    for _ in 0..64 {
        let twin = s.clone();
        if s.merge(&twin).is_err() {
            refused = true;
            break;
        }
    }
    assert!(refused && s.count() == MAX_COUNT);
    assert!(s.observe(&[1.0]).is_err() && s.count() == MAX_COUNT);
    // And what is allowed survives the trip, at the worst fraction.
    assert_eq!(postcard::from_bytes::<Sketch>(&bytes(&s)).unwrap(), s);
}

#[test]
fn damaged_bytes_never_make_an_impossible_sketch() {
    let good = bytes(&sketch(&[-1.0, 0.0, 0.3, 0.3001, 5.0, f32::NAN]));
    let mut refused = 0;
    for i in 0..good.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[i] ^= flip;
            match postcard::from_bytes::<Sketch>(&bad) {
                Err(_) => refused += 1,
                Ok(s) => {
                    // Usable whatever it says.
                    let n: f64 = s.segments().iter().map(|s| s.count).sum();
                    assert!(n == s.finite() as f64 && s.sum().is_finite() && s.quantile(0.5).is_some());
                }
            }
        }
    }
    assert!(refused > good.len());
    for n in 0..good.len() {
        assert!(postcard::from_bytes::<Sketch>(&good[..n]).is_err());
    }
}

#[test]
fn channels_against_slices() {
    let shape = [2usize, 3, 4];
    let data: Vec<f32> = (0..24).map(|i| (i as f32 - 11.0) * 0.37).collect();
    for axis in 0..3 {
        let mut c = ChannelSketch::new(axis);
        c.observe(0, &shape, &data).unwrap();
        assert_eq!(c.channels().len(), shape[axis]);
        let inner: usize = shape[axis + 1..].iter().product();
        for (k, got) in c.channels().iter().enumerate() {
            let mine: Vec<f32> = (0..24).filter(|i| i / inner % shape[axis] == k).map(|i| data[i]).collect();
            let mut want = Sketch::with_resolution(3).unwrap();
            want.observe(&mine).unwrap();
            assert_eq!(got, &want, "axis {axis} channel {k}");
            assert!((got.sum() - sum(&mine)).abs() < 1e-12);
        }
    }
    let mut c = ChannelSketch::new(1);
    c.observe(0, &shape, &data).unwrap();
    assert!(c.observe(1, &[2, 4, 3], &data).is_err());
    assert!(c.observe(1, &[24], &data).is_err());
    assert!(c.merge(&ChannelSketch::new(0)).is_err());
    let before = c.clone();
    c.merge(&ChannelSketch::new(1)).unwrap();
    assert_eq!(c, before);
}

#[test]
fn kinds_do_not_mix() {
    let mut t = ObserverKind::Tensor.start();
    assert!(t.merge(&ObserverKind::Channel { axis: 1 }.start()).is_err());
    assert!(ObserverKind::Channel { axis: 1 }.start().tensor().is_err());
    assert!(sketch(&[1.0]).merge(&Sketch::with_resolution(3).unwrap()).is_err());
    assert!(Sketch::with_resolution(8).is_err() && Sketch::with_resolution(2).is_err());
}

proptest! {
    #[test]
    fn any_sharding_gives_the_same_bytes(
        x in prop::collection::vec(any_value(), 0..300),
        order in prop::collection::vec(0usize..5, 300),
        coarse in 3u8..=7,
    ) {
        let empty = || Sketch::with_resolution(coarse).unwrap();
        let mut whole = empty();
        for (i, v) in x.iter().enumerate() { whole.observe_sample(i as u64 / 7, std::slice::from_ref(v)).unwrap(); }
        let mut shards: Vec<Sketch> = (0..5).map(|_| empty()).collect();
        for (i, v) in x.iter().enumerate().rev() { shards[order[i]].observe_sample(i as u64 / 7, &[*v]).unwrap(); }
        // ((2+4)+(0+3))+1
        let [mut a, b, mut c, d, e]: [Sketch; 5] = shards.try_into().unwrap();
        a.merge(&d).unwrap();
        c.merge(&e).unwrap();
        c.merge(&a).unwrap();
        c.merge(&b).unwrap();
        prop_assert_eq!(bytes(&c), bytes(&whole));
        prop_assert_eq!(&postcard::from_bytes::<Sketch>(&bytes(&c)).unwrap(), &whole);
    }
    #[test]
    fn sketch_against_exact(x in prop::collection::vec(any_value(), 1..200)) {
        let s = sketch(&x);
        let finite: Vec<f32> = x.iter().copied().filter(|x| x.is_finite()).collect();
        prop_assert_eq!(s.finite(), finite.len() as u64);
        prop_assert_eq!(s.zeros(), finite.iter().filter(|x| **x == 0.0).count() as u64);
        let min = finite.iter().copied().reduce(f32::min).map(|x| x + 0.0);
        let max = finite.iter().copied().reduce(f32::max).map(|x| x + 0.0);
        prop_assert_eq!(s.extremes(), min.zip(max).map(|(a, b)| [a, b]));
        // The reference rounds once per element.
        let tolerance = 1e-12 * s.sum_abs();
        prop_assert!((s.sum() - sum(&finite)).abs() <= tolerance);
        let segments = s.segments();
        prop_assert!(segments.windows(2).all(|w| w[0].hi <= w[1].lo + 1e-300), "{:?}", segments);
    }
}
