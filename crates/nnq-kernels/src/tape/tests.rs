use super::*;
use crate::{
    SLACK,
    conv::{ConvGeom, PackedConv},
    depthwise::PackedDepthwise,
    eltwise::{AddMode, AddSpec},
    isa::tests::tested,
    round::AddDyadic,
};
use bytes::Bytes;
use std::sync::Arc;

fn numbers(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i ^ seed).wrapping_mul(0x9e37_79b1) >> 8).collect()
}

/// A quantization, a product, a sum of its result with its input, and back to real numbers.
fn chain(isa: Isa, members: usize, fused: bool, side: usize, c: usize) -> Tape {
    let pixels = side * side;
    let mut geom = ConvGeom::matrix(2, c, c);
    (geom.in_h, geom.in_w, geom.out_h, geom.out_w) = (side, side, side, side);
    (geom.k_h, geom.k_w, geom.pad_top, geom.pad_left) = (3, 3, 1, 1);
    let w: Vec<i8> = numbers(c * c * 9, 7).iter().map(|&n| n as i8).collect();
    let planes = Planes { batch: 2, channels: c, pixels };
    let len = planes.len();
    let room = (len + SLACK).next_multiple_of(64);
    let span = |i: usize| Span { at: i * room, len };
    let spec = AddSpec {
        za: 100,
        zb: 120,
        zero: 90,
        lo: 10,
        hi: 250,
        subtract: true,
        mode: AddMode::Dyadic(AddDyadic::from_real(0.6, 0.7).unwrap()),
    };
    let product = |to: usize, residual: Option<Residual>| {
        Kernel::Product(Box::new(Product {
            weights: 0,
            geom,
            x: span(0),
            x_zero: 120,
            bias: numbers(c, 3).iter().map(|&n| n as i32 % 1000).collect(),
            w_zero: None,
            requant: Requantize::Onnx(vec![0.0003; c].into()),
            zero: 100,
            lo: 0,
            hi: 255,
            y: ProductOut::Codes(Strided { at: span(to).at, pitch: c }),
            residual,
            found: None,
        }))
    };
    let code = Code { scale: 0.02, zero: 120, lo: 0, hi: 255 };
    let mut kernels = vec![Kernel::Quantize { x: 0, y: span(0), planes, code }];
    if fused {
        kernels.push(product(2, Some(Residual { other: span(0), second: false, spec })));
    } else {
        kernels.push(product(1, None));
        kernels.push(Kernel::Add { a: span(1), b: span(0), y: span(2), spec });
    }
    kernels.push(Kernel::Dequantize { x: span(2), y: 1, planes, scale: 0.03, zero: 90 });
    let weights = [Weights::Conv(Arc::new(PackedConv::pack(isa, &geom, &w)))];
    Tape::new(isa, members, kernels, &weights, 3 * room, vec![(len, false), (len, true)]).unwrap()
}

fn run(tape: &Tape, members: usize, x: &[f32], times: bool) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    let mut team = Team::new(members).unwrap();
    let mut clock = vec![Duration::ZERO; tape.len()];
    let reals = &mut [Real::Read(x), Real::Write(&mut y)];
    tape.run(0..tape.len(), &mut Workspace::new(), reals, &mut team, times.then_some(&mut clock[..]));
    assert!(!times || clock.iter().all(|t| *t > Duration::ZERO));
    y
}

#[test]
fn members_and_fusing_change_nothing() {
    for (side, c) in [(1, 1), (5, 3), (16, 40), (33, 17)] {
        let x: Vec<f32> = numbers(2 * c * side * side, 1).iter().map(|&n| (n % 200) as f32 * 0.03 - 3.0).collect();
        let expected = run(&chain(Isa::Scalar, 1, false, side, c), 1, &x, false);
        for isa in tested() {
            for fused in [false, true] {
                for members in [1, 2, 3] {
                    let got = run(&chain(isa, members, fused, side, c), members, &x, members == 2);
                    assert!(got == expected, "{isa} {side} x {side} x {c}, fused: {fused}, {members} members");
                }
            }
        }
    }
}

#[test]
fn parts_are_what_they_are_alone() {
    let (side, c) = (9, 20);
    let each = 2 * c * side * side;
    for isa in tested() {
        let tape = chain(isa, 1, true, side, c);
        for parts in [1, 2, 5] {
            let x: Vec<f32> = numbers(parts * each, 3).iter().map(|&n| (n % 200) as f32 * 0.03 - 3.0).collect();
            let expected: Vec<f32> = x.chunks(each).flat_map(|x| run(&tape, 1, x, false)).collect();
            for members in [1, 2, 3] {
                let mut y = vec![0.0; x.len()];
                let mut clock = vec![Duration::ZERO; tape.len()];
                let reals = &mut [Real::Read(&x), Real::Write(&mut y)];
                let mut team = Team::new(members).unwrap();
                tape.run_parts(parts, &mut Workspace::new(), reals, &mut team, Some(&mut clock));
                assert!(y == expected, "{isa}, {parts} parts, {members} members");
                assert!(clock.iter().all(|t| *t > Duration::ZERO));
            }
        }
    }
}

#[test]
fn moves_go_where_they_are_told() {
    let copies = vec![
        Copies { src: 1, dst: 0, len: 2, count: 3, src_step: 4, dst_step: 3 },
        Copies { src: 0, dst: 10, len: 1, count: 2, src_step: 0, dst_step: 1 },
    ];
    let moves = Moves { copies, repeats: Vec::new() };
    let kernels = vec![
        Kernel::Quantize {
            x: 0,
            y: Span { at: 0, len: 16 },
            planes: Planes { batch: 1, channels: 1, pixels: 16 },
            code: Code { scale: 1.0, zero: 0, lo: 0, hi: 255 },
        },
        Kernel::Move { x: Span { at: 0, len: 16 }, y: Span { at: 128, len: 12 }, moves, fill: Some(99) },
        Kernel::Dequantize {
            x: Span { at: 128, len: 12 },
            y: 1,
            planes: Planes { batch: 1, channels: 1, pixels: 12 },
            scale: 1.0,
            zero: 0,
        },
    ];
    let tape = Tape::new(Isa::Scalar, 2, kernels, &[], 256, vec![(16, false), (12, true)]).unwrap();
    let x: Vec<f32> = (0..16).map(|i| i as f32).collect();
    let mut y = [0.0; 12];
    let reals = &mut [Real::Read(&x), Real::Write(&mut y)];
    tape.run(0..3, &mut Workspace::new(), reals, &mut Team::new(2).unwrap(), None);
    assert_eq!(y, [1.0, 2.0, 99.0, 5.0, 6.0, 99.0, 9.0, 10.0, 99.0, 99.0, 0.0, 0.0]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let span = |at: usize, len: usize| Span { at, len };
    let lut = |x: Span, y: Span| vec![Kernel::Lut { x, y, table: vec![0; 256] }];
    let refused = |kernels: Vec<Kernel>, arena: usize| {
        Tape::new(Isa::Scalar, 1, kernels, &[], arena, vec![(100, false)]).map(drop).unwrap_err()
    };
    assert!(refused(lut(span(0, 100), span(64, 100)), 1024).contains("is read while"));
    assert!(refused(lut(span(0, 50), span(128, 50)), 150).contains("of an arena of 150"));
    assert!(refused(lut(span(usize::MAX - 10, 50), span(128, 50)), 1024).contains("of an arena"));
    assert!(refused(lut(span(0, 50), span(128, 51)), 1024).contains("51 elements"));
    let planes = Planes { batch: 1, channels: 1, pixels: 100 };
    let dequantize = Kernel::Dequantize { x: span(0, 100), y: 0, planes, scale: 1.0, zero: 0 };
    assert!(refused(vec![dequantize], 1024).contains("buffer 0"));
}

#[test]
fn weights_come_back_from_their_bytes() {
    for isa in tested() {
        let shapes = [(5, 7, 1), (64, 40, 1), (8, 8, 8), (70, 70, 70), (12, 6, 2), (130, 101, 1)];
        for ((c_in, c_out, groups), bits) in shapes.into_iter().flat_map(|shape| [8, 4, 2].map(|bits| (shape, bits))) {
            let mut geom = ConvGeom::matrix(0, c_in, c_out);
            (geom.k_h, geom.k_w, geom.groups) = (3, 2, groups);
            let w: Vec<i8> = numbers(c_out * geom.depth(), 5).iter().map(|&n| n as i8 >> (8 - bits)).collect();
            let weights = match groups == c_in {
                true => Weights::Depthwise(Arc::new(PackedDepthwise::pack(isa, &geom, &w))),
                false => Weights::Conv(Arc::new(PackedConv::pack(isa, &geom, &w))),
            };
            let (stored, bytes) = weights.store();
            assert_eq!(stored.bits(), bits);
            // What is missing in full vectors and panels of the largest is small.
            assert!(bits == 8 || bytes.len() <= 64 || c_in != 130 || bytes.len() < w.len() * (bits + 3) as usize / 8);
            for offset in [0, 1] {
                let mut file = vec![0; offset];
                file.extend_from_slice(&bytes);
                let file = Bytes::from(file).slice(offset..);
                let loaded = Weights::load(isa, &stored, file.clone()).unwrap();
                let (again, same) = loaded.store();
                assert_eq!((format!("{again:?}"), same), (format!("{stored:?}"), bytes.clone()), "{isa} {geom:?}");
                assert_eq!(loaded.bytes(), weights.bytes(), "{isa} {geom:?}");
                for wrong in
                    [file.slice(1..), file.slice(..file.len() - 1), Bytes::new(), [&file[..], &[0; 64]].concat().into()]
                {
                    assert!(Weights::load(isa, &stored, wrong).is_err());
                }
            }
        }
    }
}
