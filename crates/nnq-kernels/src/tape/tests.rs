use super::*;
use crate::{
    SLACK,
    conv::{ConvGeom, PackedConv},
    eltwise::{AddMode, AddSpec},
    isa::tests::tested,
    round::AddDyadic,
};
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
            weights: Weights::Conv(Arc::new(PackedConv::pack(isa, &geom, &w))),
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
    Tape::new(isa, members, kernels, 3 * room, vec![(len, false), (len, true)])
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
fn moves_go_where_they_are_told() {
    let copies = vec![
        Copies { src: 1, dst: 0, len: 2, count: 3, src_step: 4, dst_step: 3 },
        Copies { src: 0, dst: 10, len: 1, count: 2, src_step: 0, dst_step: 1 },
    ];
    let kernels = vec![
        Kernel::Quantize {
            x: 0,
            y: Span { at: 0, len: 16 },
            planes: Planes { batch: 1, channels: 1, pixels: 16 },
            code: Code { scale: 1.0, zero: 0, lo: 0, hi: 255 },
        },
        Kernel::Move { x: Span { at: 0, len: 16 }, y: Span { at: 128, len: 12 }, copies, fill: Some(99) },
        Kernel::Dequantize {
            x: Span { at: 128, len: 12 },
            y: 1,
            planes: Planes { batch: 1, channels: 1, pixels: 12 },
            scale: 1.0,
            zero: 0,
        },
    ];
    let tape = Tape::new(Isa::Scalar, 2, kernels, 256, vec![(16, false), (12, true)]);
    let x: Vec<f32> = (0..16).map(|i| i as f32).collect();
    let mut y = [0.0; 12];
    let reals = &mut [Real::Read(&x), Real::Write(&mut y)];
    tape.run(0..3, &mut Workspace::new(), reals, &mut Team::new(2).unwrap(), None);
    assert_eq!(y, [1.0, 2.0, 99.0, 5.0, 6.0, 99.0, 9.0, 10.0, 99.0, 99.0, 0.0, 0.0]);
}

#[test]
#[should_panic(expected = "is read while")]
fn a_step_does_not_write_what_it_reads() {
    let (x, y) = (Span { at: 0, len: 100 }, Span { at: 64, len: 100 });
    Tape::new(Isa::Scalar, 1, vec![Kernel::Lut { x, y, table: Box::new([0; 256]) }], 1024, Vec::new());
}

#[test]
#[should_panic(expected = "of an arena of 100")]
fn a_step_stays_in_the_arena() {
    let (x, y) = (Span { at: 0, len: 50 }, Span { at: 64, len: 50 });
    Tape::new(Isa::Scalar, 1, vec![Kernel::Lut { x, y, table: Box::new([0; 256]) }], 100, Vec::new());
}
