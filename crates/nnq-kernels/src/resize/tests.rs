use super::*;
use crate::{conv::tests::Numbers, isa::tests::tested, round::Dyadic};
use proptest::prelude::*;

#[test]
fn weights_in_fixed_point_sum_to_one() {
    let thirds = [(4, 1.0f32 / 3.0), (5, 1.0 / 3.0), (6, 1.0 / 3.0)];
    let half = [(0, 0.25f32), (1, 0.75)];
    let line = Line::of([&thirds[..], &half].into_iter()).unwrap();
    // 2048 / 3 = 682.67: thrice 683 is one too many, taken from the first.
    assert_eq!(line.taps(0), [(4, 682), (5, 683), (6, 683)]);
    assert_eq!(line.taps(1), [(0, 512), (1, 1536)]);
    assert!(line.fits(7) && !line.fits(6));
    assert_eq!(Line::of([&thirds[..], &[]].into_iter()), None);
    assert_eq!(Line::of([&[(0, 17.0f32), (1, -16.0)][..]].into_iter()), None, "17 does not fit");
    assert_eq!(Line::same(3).taps(2), [(2, 2048)]);
}

#[test]
fn lines_that_lie_are_found() {
    let good = Line::of([&[(0, 0.5f32), (1, 0.5)][..], &[(1, 1.0)]].into_iter()).unwrap();
    assert!(good.fits(2));
    for bad in [
        Line { ends: vec![2, 1], ..good.clone() },
        Line { ends: vec![2], ..good.clone() },
        Line { ends: vec![2, 4], ..good.clone() },
        Line { taps: vec![(0, 1024), (1, 1024), (1, 2047)], ..good.clone() },
        Line { taps: vec![(0, 1024), (2, 1024), (1, 2048)], ..good.clone() },
    ] {
        assert!(!bad.fits(2), "{bad:?}");
    }
    // 255 * (2 * 2048)^2 is beyond 32 bits.
    let wide = Line::of([&[(0, 1.5f32), (1, -0.5)][..]].into_iter()).unwrap();
    assert!(fit_together(&wide, &good) && !fit_together(&wide, &wide));
}

/// A line with up to four taps an element, some of them negative.
fn line(numbers: &mut Numbers, input: usize, output: usize) -> Arc<Line> {
    let elements: Vec<Vec<(usize, f32)>> = (0..output)
        .map(|_| {
            let draws = numbers.bytes(6);
            let n = 1 + usize::from(draws[0] % 4);
            let at = |i: usize| (usize::from(draws[5]) + i).min(input - 1) % input;
            let weights: Vec<f32> = (0..n).map(|i| f32::from(draws[1 + i]) / 255.0 - 0.02).collect();
            let sum: f32 = weights.iter().sum();
            match sum > 0.1 {
                true => weights.iter().enumerate().map(|(i, w)| (at(i), w / sum)).collect(),
                false => vec![(at(0), 1.0)],
            }
        })
        .collect();
    Arc::new(Line::of(elements.iter().map(Vec::as_slice)).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn every_instruction_set_gives_the_formula(
        batch in 1usize..3, in_h in 1usize..7, in_w in 1usize..9, c in 1usize..140,
        out in (1usize..9, 1usize..9), seed: u64, x_zero: u8, onnx: bool, m in 0.2f64..1.9,
    ) {
        let mut numbers = Numbers::new(seed);
        let (rows, columns) = (line(&mut numbers, in_h, out.0), line(&mut numbers, in_w, out.1));
        let requant = match onnx {
            true => ScalarRequant::Onnx((m / UNIT as f64) as f32),
            false => ScalarRequant::Dyadic(Dyadic::from_real(m / UNIT as f64).unwrap()),
        };
        let of = Resize { batch, in_h, in_w, c, rows, columns, requant, x_zero, zero: 100, lo: 3, hi: 250 };
        let x = numbers.bytes(batch * in_h * in_w * c + SLACK);
        let (pitch, pixels) = (c + 3, batch * out.0 * out.1);
        let mut want = vec![9u8; (pixels - 1) * pitch + c];
        for pixel in 0..pixels {
            let (n, h, w) = (pixel / (out.0 * out.1), pixel / out.1 % out.0, pixel % out.1);
            for channel in 0..c {
                let mut acc = 0i64;
                for &(ih, wh) in of.rows.taps(h) {
                    for &(iw, ww) in of.columns.taps(w) {
                        let q = x[((n * in_h + ih as usize) * in_w + iw as usize) * c + channel];
                        acc += i64::from(wh) * i64::from(ww) * (i64::from(q) - i64::from(x_zero));
                    }
                }
                want[pixel * pitch + channel] = of.requant.apply(i32::try_from(acc).unwrap(), 100, 3, 250) as u8;
            }
        }
        let (of, mut sums) = (Arc::new(of), vec![77; 5]);
        for isa in tested() {
            let bound = BoundResize::new(isa, of.clone());
            let (mut got, cut) = (vec![9u8; want.len()], of.lines() / 2);
            bound.run(&x, 0..cut, &mut got, pitch, &mut sums);
            bound.run(&x, cut..of.lines(), &mut got[cut * out.1 * pitch..], pitch, &mut sums);
            prop_assert_eq!(&got, &want, "{}", isa);
        }
    }
}
