use super::*;
use nnq::ir::{DType, op::ConvAttrs};
use proptest::prelude::*;
use serde_json::Value;

fn read(t: &Value) -> Tensor {
    let shape: Vec<usize> = t["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    let ints: Vec<i64> = t["data"].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect();
    match t["dtype"].as_str().unwrap() {
        "uint8" => Tensor::of(&shape, ints.iter().map(|&i| i as u8).collect()),
        "int8" => Tensor::of(&shape, ints.iter().map(|&i| i as i8).collect()),
        "int32" => Tensor::of(&shape, ints.iter().map(|&i| i as i32).collect()),
        "float32" => Tensor::of(&shape, ints.iter().map(|&i| f32::from_bits(i as u32)).collect()),
        other => panic!("{other}"),
    }
}

/// Results of ONNX Runtime, recorded by tools/qlinear_golden.py: bit for bit.
#[test]
fn onnx_runtime_agrees() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../golden/qlinear.json")).unwrap();
    assert!(cases.len() > 30);
    for (i, case) in cases.iter().enumerate() {
        let list = |name: &str| {
            case["attrs"][name].as_array().map_or(vec![], |l| l.iter().map(|n| n.as_i64().unwrap()).collect())
        };
        let conv = || ConvAttrs {
            pads: list("pads"),
            strides: list("strides").iter().map(|&s| s as usize).collect(),
            group: case["attrs"]["group"].as_u64().unwrap_or(1) as usize,
            ..ConvAttrs::default()
        };
        let axis = case["attrs"]["axis"].as_i64().unwrap_or(1);
        let op = match case["op"].as_str().unwrap() {
            "QLinearConv" => Op::QLinearConv(conv()),
            "ConvInteger" => Op::ConvInteger(conv()),
            "QLinearMatMul" => Op::QLinearMatMul,
            "MatMulInteger" => Op::MatMulInteger,
            "QuantizeLinear" => Op::QuantizeLinear { axis, block: 0, saturate: true, out: DType::U8 },
            "DequantizeLinear" => Op::DequantizeLinear { axis, block: 0 },
            "DynamicQuantizeLinear" => Op::DynamicQuantizeLinear,
            other => panic!("{other}"),
        };
        let inputs: Vec<Tensor> = case["inputs"].as_array().unwrap().iter().map(read).collect();
        let want: Vec<Tensor> = case["outputs"].as_array().unwrap().iter().map(read).collect();
        let x: Vec<_> = inputs.iter().map(Some).collect();
        let y = eval(&op, &x, want.len(), &Ctx::new()).unwrap();
        for (y, want) in y.iter().zip(&want) {
            assert_eq!((y.dtype(), y.shape()), (want.dtype(), want.shape()), "case {i} {op:?}");
            assert_eq!(y.data().as_bytes(), want.data().as_bytes(), "case {i} {op:?}");
        }
    }
}

/// Half to even by comparing the two neighbours, without any rounding function.
fn nearest(x: f32, scale: f32, zero: i32, lo: i32, hi: i32) -> i32 {
    let real = f64::from(x / scale);
    let mut best = lo;
    for q in lo..=hi {
        let (old, new) = ((f64::from(best - zero) - real).abs(), (f64::from(q - zero) - real).abs());
        if new < old || (new == old && (q - zero) % 2 == 0) {
            best = q;
        }
    }
    best
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Per tensor, per axis and in blocks; and back.
    #[test]
    fn quantize_is_the_definition(
        shape in prop::collection::vec(1..=5usize, 1..=3), axis in 0..3usize, block in 0..=3usize, tensorwise in any::<bool>(),
        signed in any::<bool>(), seed in any::<u32>(),
    ) {
        let axis = axis % shape.len();
        let mut scales = shape.clone();
        scales[axis] = if block > 0 { shape[axis].div_ceil(block) } else { shape[axis] };
        if block == 0 {
            scales = if tensorwise { vec![] } else { vec![shape[axis]] };
        }
        let n: usize = scales.iter().product();
        // Multiples of a quarter over multiples of an eighth: many exact ties.
        let x = Tensor::of(&shape, tensor(&shape, seed.into()).to_f32s().iter().map(|x| (x * 64.0).round() / 4.0).collect::<Vec<f32>>());
        let s: Vec<f32> = noise(n, u64::from(seed) + 1).iter().map(|x| ((x.abs() * 8.0).floor() + 1.0) / 8.0).collect();
        let z: Vec<i32> = noise(n, u64::from(seed) + 2).iter().map(|x| (x * 20.0) as i32 + if signed { 0 } else { 100 }).collect();
        let scale = Tensor::of(&scales, s.clone());
        let (zero, lo, hi) = if signed {
            (Tensor::of(&scales, z.iter().map(|&z| z as i8).collect()), -128, 127)
        } else {
            (Tensor::of(&scales, z.iter().map(|&z| z as u8).collect()), 0, 255)
        };
        let which = |i: &[usize]| match (block, tensorwise) {
            (0, true) => 0,
            (0, false) => i[axis],
            _ => {
                let mut j = i.to_vec();
                j[axis] /= block;
                flat(&j, &scales)
            }
        };
        let q = one(Op::QuantizeLinear { axis: axis as i64, block, saturate: true, out: DType::U8 }, &[&x, &scale, &zero]).unwrap();
        let want: Vec<i64> = indices(&shape)
            .iter()
            .map(|i| nearest(x.to_f32s()[flat(i, &shape)], s[which(i)], z[which(i)], lo, hi).into())
            .collect();
        prop_assert_eq!(q.to_i64s().unwrap(), want.clone());
        let back = one(Op::DequantizeLinear { axis: axis as i64 - shape.len() as i64, block }, &[&q, &scale, &zero]).unwrap();
        for (i, (q, y)) in indices(&shape).iter().zip(want.iter().zip(back.to_f32s())) {
            prop_assert_eq!((*q as i32 - z[which(i)]) as f32 * s[which(i)], y);
        }
    }
}

#[test]
fn sixteen_bits_and_biases() {
    let x = Tensor::of(&[4], vec![-1e9f32, 1e9, 0.5, 1.5]);
    let q = |zero: Tensor| {
        let op = Op::QuantizeLinear { axis: 0, block: 0, saturate: true, out: DType::U8 };
        one(op, &[&x, &Tensor::scalar(1.0f32), &zero]).unwrap()
    };
    assert_eq!(q(Tensor::scalar(7u16)).as_slice::<u16>().unwrap(), [0, 65535, 7, 9]);
    assert_eq!(q(Tensor::scalar(-7i16)).as_slice::<i16>().unwrap(), [-32768, 32767, -7, -5]);
    let bias = Tensor::of(&[2], vec![i32::MAX, -3]);
    let d = |z: &[&Tensor]| {
        one(Op::DequantizeLinear { axis: 0, block: 0 }, &[&[&bias, &Tensor::scalar(0.5f32)], z].concat())
    };
    assert_eq!(d(&[]).unwrap().to_f32s(), [1_073_741_824.0, -1.5]);
    assert!(d(&[&Tensor::scalar(1i32)]).is_err());
}

/// Zero points per row and per column, batches that broadcast, against sums in i64.
#[test]
fn matmul_integer_is_the_definition() {
    let (m, k, n) = (3, 50, 4);
    let code = |seed: u64, len: usize| noise(len, seed).iter().map(|x| (x * 128.0 + 127.5) as u8).collect::<Vec<u8>>();
    let (a, b) = (code(1, 2 * m * k), code(2, k * n).iter().map(|&q| (i32::from(q) - 128) as i8).collect::<Vec<i8>>());
    let (za, zb) = (code(3, m), vec![-3i8, 0, 127, -128]);
    let y = one(
        Op::MatMulInteger,
        &[
            &Tensor::of(&[2, m, k], a.clone()),
            &Tensor::of(&[k, n], b.clone()),
            &Tensor::of(&[m], za.clone()),
            &Tensor::of(&[n], zb.clone()),
        ],
    )
    .unwrap();
    let mut want = Vec::new();
    for i in 0..2 * m {
        for j in 0..n {
            let term = |l: usize| {
                (i64::from(a[i * k + l]) - i64::from(za[i % m])) * (i64::from(b[l * n + j]) - i64::from(zb[j]))
            };
            want.push((0..k).map(term).sum::<i64>() as i32);
        }
    }
    assert_eq!(y.as_slice::<i32>().unwrap(), want);
}
