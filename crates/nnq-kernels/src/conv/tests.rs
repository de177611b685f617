//! Every instruction set against the scalar code, and the scalar code against a reference written from
//! `docs/numerics.md` alone.
use super::*;
use crate::{
    depthwise::PackedDepthwise,
    isa::tests::tested,
    round::{Dyadic, dynamic_real, requantize_dyadic, requantize_onnx},
    wide::{Target, Width},
};
use epilogue::OutPtr;
use proptest::prelude::*;
use std::ops::Range;

/// `acc = sum (qx - zx) * (qw - zw) + qb`, positions in the padding adding nothing.
#[allow(clippy::too_many_arguments)]
fn reference(g: &ConvGeom, w: &[i8], x: &[u8], zx: u8, zw: &[i32], bias: &[i32]) -> Vec<i64> {
    let (ci, co) = (g.c_in / g.groups, g.c_out / g.groups);
    let mut all = Vec::new();
    for i in 0..g.batch * g.out_h * g.out_w {
        let (n, oh, ow) = (i / (g.out_h * g.out_w), i / g.out_w % g.out_h, i % g.out_w);
        for o in 0..g.c_out {
            let mut acc = i64::from(bias[o]);
            for (kh, kw, c) in indices(g.k_h, g.k_w, ci) {
                let ih = (oh * g.stride_h + kh * g.dil_h) as i64 - g.pad_top as i64;
                let iw = (ow * g.stride_w + kw * g.dil_w) as i64 - g.pad_left as i64;
                if ih < 0 || iw < 0 || ih >= g.in_h as i64 || iw >= g.in_w as i64 {
                    continue;
                }
                let pixel = (n * g.in_h + ih as usize) * g.in_w + iw as usize;
                let qx = i64::from(x[pixel * g.c_in + o / co * ci + c]);
                let qw = i64::from(w[((o * g.k_h + kh) * g.k_w + kw) * ci + c]);
                acc += (qx - i64::from(zx)) * (qw - i64::from(zw[o]));
            }
            all.push(acc);
        }
    }
    all
}

fn indices(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a * b * c).map(move |i| (i / (b * c), i / c % b, i % c))
}

/// A sequence of numbers that look random.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Numbers {
        Numbers(seed)
    }

    pub(crate) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as u32
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Which values a test uses.
#[derive(Clone, Copy, Debug)]
enum Fill {
    Random,
    /// Every product is the smallest: 255 * -128.
    Lowest,
    /// 255 * 127, and -127 now and then.
    Highest,
    /// 255 times weights of which so many pairs stay just within 16 bits together, and one in so many times pairs that do not.
    Around {
        pairs: i8,
        often: usize,
    },
}

/// Everything that one convolution needs.
struct Case {
    geom: ConvGeom,
    x: Vec<u8>,
    w: Vec<i8>,
    bias: Vec<i32>,
    x_zero: u8,
    w_zero: Option<Vec<i32>>,
}

impl Case {
    fn new(geom: ConvGeom, x_zero: u8, with_w_zero: bool, fill: Fill, seed: u64) -> Case {
        let mut numbers = Numbers::new(seed);
        let len = geom.batch * geom.in_h * geom.in_w * geom.c_in;
        let mut x = numbers.bytes(len);
        let mut w: Vec<i8> = numbers.bytes(geom.c_out * geom.depth()).iter().map(|&b| b as i8).collect();
        match fill {
            Fill::Random => {}
            Fill::Lowest => {
                x.fill(255);
                w.fill(-128);
            }
            Fill::Highest => {
                x.fill(255);
                w.iter_mut().for_each(|w| *w = if *w < -120 { -127 } else { 127 });
            }
            Fill::Around { pairs, often } => {
                x.iter_mut().for_each(|x| *x |= if *x & 1 == 1 { 255 } else { 0 });
                w.iter_mut().enumerate().for_each(|(i, w)| {
                    let large = 64 / pairs + i8::from(i % often == often / 2);
                    *w = if *w < 0 { -large } else { large };
                });
            }
        }
        // What lies in the slack must not matter.
        x.extend(numbers.bytes(SLACK));
        Case {
            x,
            w,
            bias: (0..geom.c_out).map(|_| numbers.next() as i32 >> 14).collect(),
            x_zero,
            w_zero: with_w_zero.then(|| (0..geom.c_out).map(|_| numbers.next() as i32 >> 25).collect()),
            geom,
        }
    }

    fn depthwise(&self) -> bool {
        self.geom.groups == self.geom.c_in && self.geom.c_in == self.geom.c_out
    }

    /// Compares every kernel with the reference, for every kind of output.
    fn check(&self) {
        let g = &self.geom;
        let zw = self.w_zero.clone().unwrap_or(vec![0; g.c_out]);
        let acc: Vec<i32> = reference(g, &self.w, &self.x, self.x_zero, &zw, &self.bias)
            .into_iter()
            .map(|acc| i32::try_from(acc).expect("the test's sums fit"))
            .collect();
        let largest = acc.iter().map(|a| a.unsigned_abs()).max().unwrap_or(1).max(1);
        for isa in tested() {
            let conv = PackedConv::pack(isa, g, &self.w);
            let run = |rows: Range<usize>, epi: &Epilogue, out: Out<'_>, scratch: &mut Scratch| {
                conv.bind(g, self.x_zero, epi).run(&self.x, rows, out, scratch);
            };
            self.outputs(&acc, largest, &format!("{isa} conv"), run);
            self.parts(&acc, &conv);
            if self.depthwise() {
                let depthwise = PackedDepthwise::pack(isa, g, &self.w);
                let run = |rows: Range<usize>, epi: &Epilogue, out: Out<'_>, scratch: &mut Scratch| {
                    depthwise.bind(g, self.x_zero, epi).run(&self.x, rows, out, scratch);
                };
                self.outputs(&acc, largest, &format!("{isa} depthwise"), run);
            }
        }
    }

    /// One binding, run again and again for parts of the pixels and panels; what belongs to no part stays as it
    /// was.
    fn parts(&self, acc: &[i32], conv: &PackedConv) {
        let g = &self.geom;
        let epi = Epilogue {
            bias: &self.bias,
            w_zero: self.w_zero.as_deref(),
            requant: Requant::None,
            zero: 0,
            lo: 0,
            hi: 255,
        };
        let (mult, shift) = (vec![1 << 30; g.c_out], vec![40; g.c_out]);
        let codes = Epilogue { requant: Requant::Dyadic { mult: &mult, shift: &shift }, ..epi };
        let (sums, codes) = (conv.bind(g, self.x_zero, &epi), conv.bind(g, self.x_zero, &codes));
        let (all, pixels, pitch) = (sums.panels(), g.pixels(), g.c_out + 3);
        assert!(all * sums.panel_width() >= g.c_out && sums.pixel_grain() > 0);
        let mut scratch = Scratch::new();
        let mut raw = vec![-1; pixels * g.c_out];
        let mut bytes = vec![77; pixels * pitch];
        for rows in [0..pixels / 2, pixels / 2..pixels] {
            for panels in [all / 2..all, 0..all / 2] {
                let (rows, panels) = (rows.clone(), panels.clone());
                // SAFETY: the vectors hold every output.
                unsafe {
                    let to = OutPtr::I32(raw.as_mut_ptr());
                    sums.run_part(&self.x, Grids::Bound, rows.clone(), panels.clone(), to, &mut scratch);
                    let to = OutPtr::U8 { data: bytes.as_mut_ptr(), pitch };
                    codes.run_part(&self.x, Grids::Bound, rows, panels, to, &mut scratch);
                }
            }
        }
        let what = format!("{} {g:?} in parts", conv.isa());
        assert_eq!(raw, acc, "{what}");
        for (at, &code) in bytes.iter().enumerate() {
            let (pixel, channel) = (at / pitch, at % pitch);
            let by = Dyadic { mult: 1 << 30, shift: 40 };
            let want = acc.get(pixel * g.c_out + channel).map_or(77, |&acc| requantize_dyadic(acc, by, 0, 0, 255));
            let want = if channel < g.c_out { want } else { 77 };
            assert_eq!(i32::from(code), want, "{what} pixel {pixel} channel {channel}");
        }
    }

    fn outputs(
        &self,
        acc: &[i32],
        largest: u32,
        what: &str,
        run: impl Fn(Range<usize>, &Epilogue, Out<'_>, &mut Scratch),
    ) {
        let g = &self.geom;
        let what = format!("{what} {g:?} x_zero {} w_zero {}", self.x_zero, self.w_zero.is_some());
        let (c, pixels) = (g.c_out, g.pixels());
        let mut scratch = Scratch::new();
        let mut epi = Epilogue {
            bias: &self.bias,
            w_zero: self.w_zero.as_deref(),
            requant: Requant::None,
            zero: 128,
            lo: 0,
            hi: 255,
        };
        let mut raw = vec![-1; pixels * c];
        run(0..pixels, &epi, Out::I32(&mut raw), &mut scratch);
        assert_eq!(raw, acc, "{what}");
        // In two parts, the second first.
        let cut = pixels / 3;
        let mut parts = vec![-1; pixels * c];
        run(cut..pixels, &epi, Out::I32(&mut parts[cut * c..]), &mut scratch);
        run(0..cut, &epi, Out::I32(&mut parts[..cut * c]), &mut scratch);
        assert_eq!(parts, acc, "{what}, in parts");

        let scale: Vec<f32> = (0..c).map(|i| 0.001 + i as f32 * 0.0037).collect();
        epi.requant = Requant::Real(&scale);
        let mut real = vec![0f32; pixels * c];
        run(0..pixels, &epi, Out::F32(&mut real), &mut scratch);
        let want = acc.iter().enumerate().map(|(i, &a)| a as f32 * scale[i % c]);
        assert!(real.iter().copied().eq(want), "{what}, real");

        let shift = vec![40u8; c];
        let mult: Vec<i32> = (0..c as i32).map(|i| (1 << 22) * (1 + i % 90) * [1, -1, 0, 3][i as usize % 4]).collect();
        let to = Target { zero: -77, lo: -32_000, hi: 31_000, width: Width::Word };
        epi.requant = Requant::Words { mult: &mult, shift: &shift, to };
        let mut words = vec![0i16; pixels * c];
        run(cut..pixels, &epi, Out::I16(&mut words[cut * c..]), &mut scratch);
        run(0..cut, &epi, Out::I16(&mut words[..cut * c]), &mut scratch);
        let want = acc.iter().enumerate().map(|(i, &a)| {
            let by = Dyadic { mult: mult[i % c], shift: 40 };
            requantize_dyadic(a, by, to.zero, to.lo, to.hi)
        });
        assert!(words.iter().map(|&w| i32::from(w)).eq(want), "{what}, words");

        let spread = 300.0 / f64::from(largest);
        let factor: Vec<f32> = (0..c).map(|i| (spread * (1.0 + i as f64 / 9.0)) as f32).collect();
        epi.requant = Requant::Onnx(&factor);
        for (zero, lo, hi) in [(0, 0, 255), (128, 5, 250), (255, 0, 255)] {
            (epi.zero, epi.lo, epi.hi) = (zero, lo, hi);
            self.codes(&epi, &run, &mut scratch, &what, |i| {
                requantize_onnx(acc[i], factor[i % c], zero.into(), lo.into(), hi.into())
            });
        }
        // Small factors only, then a large one among them.
        for large in [false, true] {
            let by: Vec<Dyadic> = (0..c)
                .map(|i| match (large && i % 5 == 0, i % 7 == 3) {
                    (true, _) => 3.7,
                    (_, true) => 0.0,
                    _ => (spread * (1.0 + i as f64 / 9.0)).min(0.2499),
                })
                .map(|m| Dyadic::from_real(m).unwrap())
                .collect();
            let mult: Vec<i32> = by.iter().map(|by| by.mult).collect();
            let shift: Vec<u8> = by.iter().map(|by| by.shift).collect();
            let mut epi = Epilogue { requant: Requant::Dyadic { mult: &mult, shift: &shift }, ..epi };
            for (zero, lo, hi) in [(1, 0, 255), (127, 127, 201)] {
                (epi.zero, epi.lo, epi.hi) = (zero, lo, hi);
                self.codes(&epi, &run, &mut scratch, &what, |i| {
                    requantize_dyadic(acc[i], by[i % c], zero.into(), lo.into(), hi.into())
                });
            }
        }
    }

    /// Codes with and without room between the pixels; that room stays as it was.
    fn codes(
        &self,
        epi: &Epilogue,
        run: &impl Fn(Range<usize>, &Epilogue, Out<'_>, &mut Scratch),
        scratch: &mut Scratch,
        what: &str,
        want: impl Fn(usize) -> i32,
    ) {
        let (c, pixels) = (self.geom.c_out, self.geom.pixels());
        for pitch in [c, c + 5] {
            let len = if pixels == 0 { 0 } else { (pixels - 1) * pitch + c };
            // At once, and in two parts, the second first.
            for cut in [0, pixels * 2 / 5] {
                let mut data = vec![77; len];
                for rows in [cut..pixels, 0..cut] {
                    let data = &mut data[(rows.start * pitch).min(len)..];
                    run(rows, epi, Out::U8 { data, pitch }, scratch);
                }
                for (at, &code) in data.iter().enumerate() {
                    let (pixel, channel) = (at / pitch, at % pitch);
                    let want = if channel < c { want(pixel * c + channel) } else { 77 };
                    assert_eq!(i32::from(code), want, "{what} pixel {pixel} channel {channel} cut {cut} {epi:?}");
                }
            }
        }
    }
}

/// Compares every kernel with the reference on random values.
pub(crate) fn check_random(geom: ConvGeom, x_zero: u8, seed: u64) {
    Case::new(geom, x_zero, false, Fill::Random, seed).check();
}

/// A square convolution with the outputs that its sizes give.
pub(crate) fn square(
    size: usize,
    c_in: usize,
    c_out: usize,
    k: usize,
    stride: usize,
    pad: usize,
    groups: usize,
) -> ConvGeom {
    let out = (size + 2 * pad + stride - k) / stride;
    ConvGeom {
        in_h: size,
        in_w: size,
        out_h: out,
        out_w: out,
        k_h: k,
        k_w: k,
        stride_h: stride,
        stride_w: stride,
        pad_top: pad,
        pad_left: pad,
        groups,
        ..ConvGeom::matrix(1, c_in, c_out)
    }
}

#[test]
fn matrix_products_around_the_tile() {
    // Tiles are 4, 6, 14, 16 and 32 pixels times 16 and 32 channels, steps of 4 and 64 inputs.
    for rows in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 29, 31, 32, 33, 63, 64, 65, 225] {
        for (c_in, c_out) in [
            (63, 16),
            (64, 32),
            (65, 33),
            (128, 47),
            (1, 1),
            (3, 15),
            (4, 16),
            (5, 17),
            (8, 31),
            (9, 32),
            (33, 33),
            (64, 65),
        ] {
            Case::new(ConvGeom::matrix(rows, c_in, c_out), 128, false, Fill::Random, rows as u64).check();
        }
    }
    Case::new(ConvGeom::matrix(3, 0, 5), 7, true, Fill::Random, 1).check();
    Case::new(ConvGeom::matrix(300, 700, 40), 3, false, Fill::Random, 2).check();
}

#[test]
fn zero_points_and_extreme_values() {
    for x_zero in [0, 1, 127, 128, 255] {
        for with_w_zero in [false, true] {
            for fill in [
                Fill::Random,
                Fill::Lowest,
                Fill::Highest,
                Fill::Around { pairs: 4, often: usize::MAX },
                Fill::Around { pairs: 1, often: 30 },
            ] {
                for geom in [
                    ConvGeom::matrix(5, 130, 18),
                    square(6, 5, 7, 3, 1, 1, 1),
                    square(6, 16, 33, 3, 1, 1, 1),
                    square(5, 6, 6, 3, 1, 1, 6),
                    square(5, 8, 12, 3, 1, 1, 4),
                ] {
                    Case::new(geom, x_zero, with_w_zero, fill, 9).check();
                }
            }
        }
    }
}

/// Steps of every kind, in one span and in several, of full tiles and of a few pixels.
#[test]
fn pairs_around_what_sixteen_bits_hold() {
    for (pairs, often) in [1, 2, 4].into_iter().flat_map(|p| [7, 31, 97, 1001, usize::MAX].map(|often| (p, often))) {
        for geom in [
            ConvGeom::matrix(1, 256, 40),
            ConvGeom::matrix(11, 516, 33),
            square(6, 64, 33, 3, 1, 1, 1),
            square(5, 36, 70, 3, 1, 0, 1),
        ] {
            for w_zero in [false, true] {
                Case::new(geom, 3, w_zero, Fill::Around { pairs, often }, often as u64).check();
            }
        }
    }
}

#[test]
fn convolutions_of_known_networks_in_small() {
    let shapes = [
        square(30, 3, 20, 7, 2, 3, 1),
        square(17, 3, 33, 3, 2, 1, 1),
        square(9, 1, 6, 5, 1, 2, 1),
        square(16, 16, 40, 3, 1, 1, 1),
        square(15, 12, 32, 3, 2, 1, 1),
        square(7, 64, 70, 3, 1, 1, 1),
        square(15, 36, 33, 1, 2, 0, 1),
        square(8, 32, 32, 3, 1, 1, 8),
        square(8, 80, 80, 3, 1, 1, 2),
        square(8, 6, 12, 3, 1, 1, 6),
        square(4, 12, 24, 1, 1, 0, 3),
        square(2, 4096, 3, 1, 1, 0, 1),
        square(3, 4096, 3, 1, 1, 0, 1),
        square(20, 10, 10, 3, 1, 1, 10),
        square(21, 70, 70, 3, 2, 1, 70),
        square(19, 130, 130, 5, 1, 2, 130),
        square(12, 64, 64, 5, 2, 2, 64),
        square(9, 33, 33, 7, 1, 3, 33),
    ];
    for geom in shapes {
        let mut geom = geom;
        for batch in [1, 2] {
            geom.batch = batch;
            Case::new(geom, 113, false, Fill::Random, 4).check();
        }
    }
}

#[test]
fn rows_whose_windows_are_whole_steps_of_a_tile() {
    // (channels in, kernel, dilation down, padding above and left, input and output sizes)
    let shapes = [
        (64, (3, 3), 1, (1, 1), (9, 5), (9, 5)),
        (64, (3, 3), 1, (0, 0), (9, 18), (7, 16)),
        (64, (3, 3), 2, (2, 0), (6, 7), (6, 7)),
        (64, (2, 3), 1, (1, 2), (5, 17), (5, 17)),
        (64, (3, 3), 1, (4, 3), (3, 4), (8, 9)),
        (64, (3, 1), 3, (3, 0), (7, 33), (7, 33)),
        (32, (2, 4), 1, (0, 1), (2, 6), (1, 40)),
        (16, (5, 4), 1, (2, 2), (11, 11), (11, 11)),
        (128, (3, 3), 1, (1, 1), (1, 1), (1, 1)),
        // More than one block of rows.
        (64, (3, 3), 1, (1, 1), (112, 112), (112, 112)),
    ];
    for (c_in, (k_h, k_w), dil_h, (pad_top, pad_left), (in_h, in_w), (out_h, out_w)) in shapes {
        for c_out in if in_h > 100 { vec![2] } else { vec![5, 40] } {
            let mut geom = square(1, c_in, c_out, 1, 1, 0, 1);
            (geom.k_h, geom.k_w, geom.dil_h) = (k_h, k_w, dil_h);
            (geom.pad_top, geom.pad_left) = (pad_top, pad_left);
            (geom.in_h, geom.in_w, geom.out_h, geom.out_w) = (in_h, in_w, out_h, out_w);
            geom.batch = if in_h > 100 { 1 } else { 2 };
            Case::new(geom, 77, false, Fill::Random, 10).check();
        }
    }
}

#[test]
fn rows_with_room_between_them_and_planes_of_strides() {
    // (channels in, kernel, strides, dilation down, padding above and left, input and output sizes)
    let shapes = [
        (3, (3, 3), (1, 1), 1, (1, 1), (9, 9), (9, 9)),
        (3, (7, 7), (2, 2), 1, (3, 3), (20, 21), (10, 11)),
        (16, (3, 3), (1, 1), 1, (1, 1), (8, 40), (8, 40)),
        (16, (3, 3), (2, 2), 1, (1, 1), (9, 12), (5, 6)),
        (20, (3, 3), (2, 1), 1, (1, 1), (7, 6), (4, 6)),
        (32, (3, 3), (1, 2), 1, (1, 1), (5, 17), (5, 9)),
        (32, (3, 3), (2, 2), 2, (2, 1), (12, 12), (6, 6)),
        (64, (3, 3), (3, 3), 1, (0, 0), (10, 10), (3, 3)),
        (64, (3, 3), (3, 2), 2, (4, 1), (6, 6), (4, 3)),
        (16, (2, 2), (5, 5), 1, (0, 0), (11, 12), (2, 3)),
    ];
    for (c_in, (k_h, k_w), strides, dil_h, (pad_top, pad_left), (in_h, in_w), (out_h, out_w)) in shapes {
        for c_out in [5, 40] {
            let mut geom = square(1, c_in, c_out, 1, 1, 0, 1);
            (geom.k_h, geom.k_w, geom.dil_h) = (k_h, k_w, dil_h);
            (geom.stride_h, geom.stride_w) = strides;
            (geom.pad_top, geom.pad_left) = (pad_top, pad_left);
            (geom.in_h, geom.in_w, geom.out_h, geom.out_w) = (in_h, in_w, out_h, out_w);
            geom.batch = 2;
            Case::new(geom, 77, false, Fill::Random, 10).check();
        }
    }
}

#[test]
fn windows_wholly_in_the_padding_and_dilations() {
    for groups in [1, 8] {
        let mut geom = square(3, 8, 8, 3, 1, 5, groups);
        Case::new(geom, 200, true, Fill::Random, 5).check();
        geom = square(9, 8, 8, 3, 1, 4, groups);
        (geom.dil_h, geom.dil_w, geom.out_h, geom.out_w) = (4, 4, 9, 9);
        Case::new(geom, 200, false, Fill::Random, 6).check();
        (geom.dil_h, geom.dil_w, geom.stride_h, geom.stride_w) = (1, 3, 2, 1);
        (geom.out_h, geom.out_w) = (8, 11);
        Case::new(geom, 10, false, Fill::Random, 7).check();
        // One dimension, and more outputs than the input reaches.
        geom = square(1, 8, 8, 1, 1, 0, groups);
        (geom.in_w, geom.k_w, geom.out_w, geom.pad_left) = (11, 4, 14, 2);
        Case::new(geom, 10, false, Fill::Random, 8).check();
    }
}

fn geometries() -> impl Strategy<Value = ConvGeom> {
    let sizes = (1usize..3, 1usize..14, 1usize..14, 1usize..5, 1usize..5);
    let steps = (1usize..4, 1usize..4, 1usize..4, 1usize..4, 0usize..4, 0usize..4);
    let channels = (1usize..20, 1usize..40, 1usize..5, 0usize..3);
    (sizes, steps, channels).prop_map(|(s, t, c)| {
        let (batch, in_h, in_w, k_h, k_w) = s;
        let (stride_h, stride_w, dil_h, dil_w, pad_top, pad_left) = t;
        let (c_in, c_out, groups, kind) = c;
        let (c_in, c_out, groups) = match kind {
            0 => (c_in, c_out, 1),
            1 => (c_in * groups, c_out * groups, groups),
            _ => (c_in * groups, c_in * groups, c_in * groups),
        };
        let out = |size: usize, pad: usize, k: usize, dil: usize, stride: usize| {
            (size + pad + 2).saturating_sub((k - 1) * dil + 1) / stride + 1
        };
        ConvGeom {
            batch,
            in_h,
            in_w,
            c_in,
            out_h: out(in_h, pad_top, k_h, dil_h, stride_h),
            out_w: out(in_w, pad_left, k_w, dil_w, stride_w),
            c_out,
            k_h,
            k_w,
            stride_h,
            stride_w,
            dil_h,
            dil_w,
            pad_top,
            pad_left,
            groups,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_geometry(geom in geometries(), x_zero: u8, with_w_zero: bool, seed: u64) {
        Case::new(geom, x_zero, with_w_zero, Fill::Random, seed).check();
    }
}

#[test]
fn packing_does_not_depend_on_sizes() {
    let small = square(5, 8, 24, 3, 1, 1, 1);
    let mut large = square(12, 8, 24, 3, 2, 1, 1);
    large.batch = 3;
    let case = Case::new(large, 9, false, Fill::Random, 3);
    for isa in tested() {
        let mut outs = [&small, &large].map(|packed_for| {
            let conv = PackedConv::pack(isa, packed_for, &case.w);
            assert_eq!(conv.isa(), isa);
            assert!(conv.bytes() >= case.w.len());
            let epi = Epilogue { bias: &case.bias, w_zero: None, requant: Requant::None, zero: 0, lo: 0, hi: 255 };
            let mut out = vec![0; large.pixels() * large.c_out];
            let bound = conv.bind(&large, 9, &epi);
            bound.run(&case.x, 0..large.pixels(), Out::I32(&mut out), &mut Scratch::new());
            out
        });
        let last = outs[1].split_off(0);
        assert_eq!(outs[0], last, "{isa}");
    }
}

/// Bound for three images, given the first alone.
#[test]
fn images_behind_those_that_are_computed_need_not_be_there() {
    for mut geom in [ConvGeom::matrix(1, 36, 20), square(6, 8, 24, 3, 1, 1, 1), square(7, 16, 33, 3, 2, 1, 1)] {
        geom.batch = 3;
        let case = Case::new(geom, 9, false, Fill::Random, 4);
        let pixels = geom.out_h * geom.out_w;
        let first = &case.x[..geom.in_h * geom.in_w * geom.c_in + SLACK];
        for isa in tested() {
            let epi = Epilogue { bias: &case.bias, w_zero: None, requant: Requant::None, zero: 0, lo: 0, hi: 255 };
            let conv = PackedConv::pack(isa, &geom, &case.w).bind(&geom, 9, &epi);
            let [all, some] = [(&case.x[..], 3 * pixels), (first, pixels)].map(|(x, pixels)| {
                let mut out = vec![0; pixels * geom.c_out];
                conv.run(x, 0..pixels, Out::I32(&mut out), &mut Scratch::new());
                out
            });
            assert_eq!(all[..some.len()], some, "{isa}");
        }
    }
}

/// Rows on grids of their own, in two parts.
#[test]
fn rows_on_grids_of_their_own() {
    for (rows, c_in, c_out, zeros) in [(1, 36, 20, false), (17, 64, 70, false), (30, 33, 64, true), (5, 700, 3, true)] {
        let geom = ConvGeom::matrix(rows, c_in, c_out);
        let case = Case::new(geom, 0, zeros, Fill::Random, 8);
        let grids: Vec<Live> = (0..rows).map(|r| Live { scale: 0.01 + r as f32, zero: (r * 97 % 256) as u8 }).collect();
        let scale: Vec<f32> = (0..c_out).map(|i| 0.001 + i as f32 * 0.0037).collect();
        let bias: Vec<f32> = (0..c_out).map(|i| i as f32 - 7.3).collect();
        let none = vec![0; c_out];
        let zw = case.w_zero.as_ref().unwrap_or(&none);
        let mut want = Vec::new();
        for (row, grid) in grids.iter().enumerate() {
            let x = &case.x[row * c_in..];
            let acc = reference(&ConvGeom::matrix(1, c_in, c_out), &case.w, x, grid.zero, zw, &case.bias);
            want.extend((0..c_out).map(|c| dynamic_real(acc[c] as i32, grid.scale, scale[c], bias[c])));
        }
        let requant = Requant::Dynamic { x_scale: 1.0, scale: &scale, bias: &bias };
        let epi = Epilogue { bias: &case.bias, w_zero: case.w_zero.as_deref(), requant, zero: 0, lo: 0, hi: 255 };
        for isa in tested() {
            let conv = PackedConv::pack(isa, &geom, &case.w).bind(&geom, 0, &epi);
            let (mut out, mut scratch) = (vec![0f32; rows * c_out], Scratch::new());
            for rows in [rows / 3..rows, 0..rows / 3] {
                conv.run_rows(
                    &case.x,
                    &grids[rows.clone()],
                    rows.clone(),
                    &mut out[rows.start * c_out..],
                    &mut scratch,
                );
            }
            assert_eq!(out, want, "{isa} {geom:?}");
            for most in [1, 2, 5] {
                out.fill(f32::NAN);
                for share in conv.shares(rows, &mut out, most) {
                    share.run(&case.x, Grids::Rows(&grids), &mut scratch);
                }
                assert_eq!(out, want, "{isa} {geom:?} in {most} shares");
            }
        }
    }
}

#[test]
#[should_panic(expected = "64 of slack included")]
fn missing_slack_is_named() {
    let geom = ConvGeom::matrix(1, 4, 1);
    let conv = PackedConv::pack(Isa::Scalar, &geom, &[1; 4]);
    let epi = Epilogue { bias: &[0], w_zero: None, requant: Requant::None, zero: 0, lo: 0, hi: 255 };
    conv.bind(&geom, 0, &epi).run(&[0; 60], 0..1, Out::I32(&mut [0]), &mut Scratch::new());
}

#[test]
#[should_panic(expected = "does not fit the kind of output")]
fn a_wrong_kind_of_output_is_named() {
    let geom = ConvGeom::matrix(1, 4, 1);
    let conv = PackedConv::pack(Isa::Scalar, &geom, &[1; 4]);
    let epi = Epilogue { bias: &[0], w_zero: None, requant: Requant::Onnx(&[1.0]), zero: 0, lo: 0, hi: 255 };
    conv.bind(&geom, 0, &epi).run(&[0; 68], 0..1, Out::I32(&mut [0]), &mut Scratch::new());
}

#[test]
fn weights_of_every_order_are_packed_alike() {
    for (c_in, c_out, k, groups) in [(3, 5, 3, 1), (300, 70, 3, 1), (64, 40, 1, 1), (24, 48, 5, 4), (129, 33, 2, 1)] {
        let mut geom = ConvGeom::matrix(0, c_in, c_out);
        (geom.k_h, geom.k_w, geom.groups) = (k, k, groups);
        let (inputs, taps) = (c_in / groups, k * k);
        let weight = |c: usize, tap: usize, i: usize| ((c * 31 + tap * 7 + i * 13) % 251) as u8 as i8;
        let last: Vec<i8> =
            (0..c_out * taps * inputs).map(|n| weight(n / (taps * inputs), n / inputs % taps, n % inputs)).collect();
        let first: Vec<i8> =
            (0..c_out * taps * inputs).map(|n| weight(n / (taps * inputs), n % taps, n / taps % inputs)).collect();
        let rows: Vec<i8> = (0..c_in * c_out).map(|n| weight(n % c_out, 0, n / c_out)).collect();
        for &isa in Isa::all().iter().filter(|isa| isa.is_supported()) {
            let expected = PackedConv::pack(isa, &geom, &last);
            let (_, sums, fields, bytes) = expected.parts();
            let mut others = vec![(Order::ChannelsFirst, &first)];
            if k == 1 {
                others.push((Order::Rows, &rows));
            }
            for (order, w) in others {
                let packed = PackedConv::pack_from(isa, &geom, w, order);
                let (_, other_sums, other_fields, other) = packed.parts();
                assert!(
                    (other_sums, other_fields, other) == (sums, fields, bytes.clone()),
                    "{order:?} {geom:?} {}",
                    isa.name()
                );
            }
        }
    }
}
