use super::*;
use crate::{
    isa::tests::tested,
    round::{
        integers::{Norm, Softmax, mask_code},
        requantize_dyadic,
    },
};

fn numbers(n: usize, seed: u32) -> Vec<i32> {
    (0..n as u32).map(|i| ((i ^ seed).wrapping_mul(0x9e37_79b1) >> 7).cast_signed()).collect()
}
fn words(n: usize, seed: u32) -> Vec<i16> {
    numbers(n, seed).into_iter().map(|x| x as i16).collect()
}
fn bytes(n: usize, seed: u32) -> Vec<u8> {
    numbers(n, seed).into_iter().map(|x| x as u8).collect()
}
const WORD: Target = Target { zero: -300, lo: -30_000, hi: 32_767, width: Width::Word };
const BYTE: Target = Target { zero: 120, lo: 3, hi: 250, width: Width::Byte };

#[test]
fn factors_are_the_requantization_of_section_4() {
    let columns = 37;
    let rules: Vec<Dyadic> =
        (0..columns).map(|i| Dyadic::from_real(0.0001 * 1.5f64.powi(i as i32 % 25)).unwrap()).collect();
    let mult: Arc<[i32]> = rules.iter().enumerate().map(|(i, r)| if i % 5 == 3 { -r.mult } else { r.mult }).collect();
    let shift: Arc<[u8]> = rules.iter().map(|r| r.shift).collect();
    let sums: Vec<i32> = numbers(3 * columns, 5).into_iter().map(|x| (x - (1 << 24)).wrapping_mul(97)).collect();
    for isa in tested() {
        for (to, reach) in [(WORD, 31), (BYTE, 31), (WORD, 20), (BYTE, 20)] {
            // Some factors are as large as 1/4: these sums are lifted where they are near enough.
            let sums: Vec<i32> = sums.iter().map(|x| if reach == 20 { x >> 11 } else { *x }).collect();
            let spec = Rescale { from: Width::Sum, x_zero: 0, mult: mult.clone(), shift: shift.clone(), reach, to };
            let want = |i: usize| {
                let by = Dyadic { mult: mult[i % columns], shift: shift[i % columns] };
                requantize_dyadic(sums[i], by, to.zero, to.lo, to.hi)
            };
            let (mut w, mut b) = (vec![0i16; sums.len()], vec![0u8; sums.len()]);
            match to.width {
                Width::Word => spec.run(isa, Codes::Sums(&sums), CodesMut::Words(&mut w)),
                _ => spec.run(isa, Codes::Sums(&sums), CodesMut::Bytes(&mut b)),
            }
            for i in 0..sums.len() {
                let got = if to.width == Width::Word { i32::from(w[i]) } else { i32::from(b[i]) };
                assert_eq!(got, want(i), "{isa} {i}");
            }
        }
    }
}

#[test]
fn sums_of_all_widths() {
    let n = 301;
    let (b, w) = (bytes(n, 1), words(n, 2));
    for isa in tested() {
        for (by, negative) in
            [(AddDyadic::from_real(0.01, 0.7).unwrap(), false), (AddDyadic::from_real(3.0, 0.2).unwrap(), true)]
        {
            let by = AddDyadic { mb: if negative { -by.mb } else { by.mb }, ..by };
            let spec = AddWide { by, from: [(Width::Byte, 100), (Width::Word, -7)], to: WORD };
            let mut y = vec![0i16; n];
            spec.run(isa, Codes::Bytes(&b), Codes::Words(&w), CodesMut::Words(&mut y));
            for i in 0..n {
                let sum = i128::from(i32::from(b[i]) - 100) * i128::from(by.ma)
                    + i128::from(i32::from(w[i]) + 7) * i128::from(by.mb);
                let want = ((sum + (1 << (by.shift - 1))) >> by.shift) - 300;
                assert_eq!(i128::from(y[i]), want.clamp(-30_000, 32_767), "{isa} {i}");
            }
        }
    }
}

/// Factors so large that 32 bits do not hold a sum: the scalar code has the word.
#[test]
fn sums_beyond_32_bits_are_clamped() {
    let by = AddDyadic { ma: 1 << 20, mb: -(1 << 20), shift: 1 };
    let spec = AddWide { by, from: [(Width::Word, 0), (Width::Byte, 0)], to: BYTE };
    let (a, b, mut y) = (words(70, 3), bytes(70, 4), vec![0; 70]);
    for isa in tested() {
        spec.run(isa, Codes::Words(&a), Codes::Bytes(&b), CodesMut::Bytes(&mut y));
        let want = |i: usize| if i32::from(a[i]) > i32::from(b[i]) { 250 } else { 3 };
        assert!((0..70).all(|i| y[i] == want(i) || i32::from(a[i]) == i32::from(b[i])), "{isa}");
    }
}

#[test]
fn vectors_normalise_as_the_scalar_code() {
    for n in [1usize, 5, 64, 385] {
        let gamma: Vec<f32> = numbers(n, 3).iter().map(|x| (x % 100) as f32 / 30.0).collect();
        let norm = Arc::new(Norm::new(0.001, 1e-6, &gamma, &gamma, 0.0005).unwrap());
        let x = words(4 * n, 9);
        for isa in tested() {
            let spec = NormRows { norm: norm.clone(), from: Width::Word, x_zero: 55, to: WORD };
            let mut y = vec![0i16; x.len()];
            spec.run(isa, Codes::Words(&x), CodesMut::Words(&mut y));
            for (x, y) in x.chunks(n).zip(y.chunks(n)) {
                let codes: Vec<i64> = x.iter().map(|&x| i64::from(x) - 55).collect();
                let row = norm.row(codes.iter().sum(), codes.iter().map(|a| (a * a) as u64).sum());
                for i in 0..n {
                    let want = (norm.element(i, codes[i] as i32, row) - 300).clamp(-30_000, 32_767);
                    assert_eq!(i64::from(y[i]), want, "{isa} {n} {i}");
                }
            }
        }
    }
}

#[test]
fn vectors_share_as_the_scalar_code() {
    for (n, scale) in [(1usize, 0.1f32), (7, 0.004), (128, 0.06), (600, 0.3)] {
        let softmax = Arc::new(Softmax::new(scale, 1.0 / 255.0).unwrap());
        let to = Target { zero: 2, lo: 2, hi: 255, width: Width::Byte };
        let spec = SoftmaxRows { softmax: softmax.clone(), scale, columns: n, to };
        let (x, mut y, mut room) = (bytes(n, 6), vec![0; n], Vec::new());
        let mask: Vec<f32> = (0..n).map(|i| [0.0, -3.7, f32::NEG_INFINITY, 0.3][i % 4]).collect();
        let ids: Vec<i16> = (0..n).map(|i| (i * 37 % 256) as i16).collect();
        let table: [i32; 256] = std::array::from_fn(|i| [0, -40, -(1 << 24), 3][i % 4]);
        for isa in tested() {
            for mask in [None, Some(RowMask::Real(&mask)), Some(RowMask::Table(&ids, &table))] {
                spec.row(isa, &x, mask, &mut y, (&spec.near(), &mut room));
                let added = |i: usize| match mask {
                    None => 0,
                    Some(RowMask::Real(m)) => mask_code(m[i], scale),
                    Some(RowMask::Table(ids, table)) => table[ids[i] as usize],
                };
                let moved = |i: usize| i32::from(x[i]) + added(i);
                let most = (0..n).map(moved).max().unwrap();
                let factor = softmax.factor((0..n).map(|i| u64::from(softmax.exp(most - moved(i)))).sum());
                for (i, &y) in y.iter().enumerate() {
                    let want = (Softmax::share(softmax.exp(most - moved(i)), factor) + 2).clamp(2, 255);
                    assert_eq!(i64::from(y), want, "{isa} {n} {i}");
                }
            }
        }
    }
}

#[test]
fn tables_hold_beyond_their_ends() {
    let table: Arc<[i16]> = (0..100).map(|i| i * 3 - 20).collect();
    let spec = Lut { from: Width::Word, least: -40, table, to: Width::Word };
    let mut y = [0i16; 4];
    for isa in tested() {
        spec.run(isa, Codes::Words(&[-50, -40, 59, 3000]), CodesMut::Words(&mut y));
        assert_eq!(y, [-20, -20, 277, 277], "{isa}");
    }
    assert!(spec.is_whole() && !Lut { to: Width::Byte, ..spec }.is_whole());
}
