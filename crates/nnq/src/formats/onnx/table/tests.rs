//! Every row, through the file format and back, at every opset.
use super::{In, NEWEST, OLDEST, Old, Row, find, name, rows};
use crate::{
    formats::onnx::{
        tests::{at_opset, describe, read_vec},
        to_bytes,
    },
    ir::{
        DType, Graph, Op, Tensor, ValueId,
        op::{
            AspectPolicy, AttentionAttrs, AutoPad, Binary, Cell, ConvAttrs, ConvTransposeAttrs, CoordMode, Direction,
            Gate, NearestMode, PadMode, PoolAttrs, RecurrentAttrs, Reduction, ResizeAttrs, ResizeMode, Scatter, Scores,
            Unary,
        },
    },
};
use std::sync::Arc;

fn window() -> ConvAttrs {
    ConvAttrs {
        kernel: vec![3, 2],
        strides: vec![2, 1],
        dilations: vec![1, 2],
        pads: vec![1, 0, 2, 1],
        auto_pad: AutoPad::NotSet,
        group: 2,
    }
}

fn pool(dilations: bool, ceil_mode: bool) -> PoolAttrs {
    PoolAttrs {
        kernel: vec![3, 2],
        strides: vec![2, 1],
        dilations: if dilations { vec![1, 2] } else { Vec::new() },
        pads: vec![1, 0, 1, 1],
        auto_pad: AutoPad::NotSet,
        ceil_mode,
    }
}

/// Operators whose attributes are not the defaults; together with `Row::make` they touch every attribute.
fn samples() -> Vec<Op> {
    let valid = PoolAttrs { kernel: vec![2, 2], auto_pad: AutoPad::SameLower, ..PoolAttrs::default() };
    let resize = ResizeAttrs {
        mode: ResizeMode::Cubic,
        coord: CoordMode::AlignCorners,
        nearest: NearestMode::Ceil,
        aspect: AspectPolicy::NotLarger,
        cubic_a: -0.5,
        exclude_outside: true,
        extrapolation: 2.0,
        antialias: true,
        axes: vec![2, 3],
    };
    let plain = ResizeAttrs {
        mode: ResizeMode::Linear,
        coord: CoordMode::Asymmetric,
        nearest: NearestMode::Floor,
        ..ResizeAttrs::default()
    };
    vec![
        Op::Conv(window()),
        Op::Conv(ConvAttrs { auto_pad: AutoPad::SameUpper, group: 1, ..ConvAttrs::default() }),
        Op::ConvTranspose(ConvTransposeAttrs { conv: window(), output_padding: vec![1, 0], output_shape: vec![9, 8] }),
        Op::Gemm { alpha: 0.5, beta: 2.0, trans_a: true, trans_b: true },
        Op::BatchNormalization { epsilon: 1e-3 },
        Op::InstanceNormalization { epsilon: 1e-3 },
        Op::GroupNormalization { epsilon: 1e-3, groups: 4 },
        Op::LayerNormalization { axis: 1, epsilon: 1e-3 },
        Op::Lrn { alpha: 1.0, beta: 0.5, bias: 2.0, size: 5 },
        Op::Unary(Unary::Celu { alpha: 2.0 }),
        Op::Unary(Unary::Elu { alpha: 2.0 }),
        Op::Unary(Unary::Gelu { tanh: true }),
        Op::Unary(Unary::HardSigmoid { alpha: 0.1, beta: 0.25 }),
        Op::Unary(Unary::IsInf { negative: false, positive: true }),
        Op::Unary(Unary::IsInf { negative: true, positive: false }),
        Op::Unary(Unary::LeakyRelu { alpha: 0.1 }),
        Op::Unary(Unary::Selu { alpha: 1.0, gamma: 2.0 }),
        Op::Unary(Unary::Swish { alpha: 1.702 }),
        Op::Unary(Unary::ThresholdedRelu { alpha: 2.0 }),
        Op::Binary(Binary::BitShift { left: false }),
        Op::Binary(Binary::Mod { fmod: true }),
        Op::Cast { to: DType::BF16, saturate: false },
        Op::Softmax { axis: 1, flat: true },
        Op::Softmax { axis: 1, flat: false },
        Op::LogSoftmax { axis: 2, flat: true },
        Op::LogSoftmax { axis: 0, flat: false },
        Op::Reduce { kind: Reduction::Sum, keepdims: false, noop_with_empty_axes: true },
        Op::Reduce { kind: Reduction::L2, keepdims: false, noop_with_empty_axes: true },
        Op::ArgMax { axis: 1, keepdims: false, select_last: true },
        Op::ArgMin { axis: -1, keepdims: false, select_last: true },
        Op::CumSum { exclusive: true, reverse: true },
        Op::TopK { axis: 1, largest: false, sorted: false },
        Op::MaxPool { window: pool(true, true), column_major: true },
        Op::MaxPool { window: valid.clone(), column_major: false },
        Op::AveragePool { window: pool(false, false), count_include_pad: true },
        Op::AveragePool { window: pool(true, true), count_include_pad: false },
        Op::LpPool { window: pool(true, true), p: 1 },
        Op::LpPool { window: valid, p: 2 },
        Op::GlobalLpPool { p: 3 },
        Op::Concat { axis: -2 },
        Op::Split { axis: 1 },
        Op::Gather { axis: 2 },
        Op::GatherElements { axis: -1 },
        Op::GatherNd { batch_dims: 1 },
        Op::ScatterElements { axis: 1, reduction: Scatter::Replace },
        Op::ScatterElements { axis: 1, reduction: Scatter::Add },
        Op::ScatterNd { reduction: Scatter::Min },
        Op::Compress { axis: Some(-1) },
        Op::ReverseSequence { batch_axis: 0, time_axis: 1 },
        Op::Hardmax { axis: 1, flat: false },
        Op::Hardmax { axis: 1, flat: true },
        Op::RmsNormalization { axis: 1, epsilon: 1e-3 },
        Op::Einsum { equation: "...ij,...jk->...ik".into() },
        Op::RotaryEmbedding { interleaved: true, heads: 3, size: 8 },
        Op::Attention(AttentionAttrs {
            causal: true,
            q_heads: 4,
            kv_heads: 2,
            scale: Some(0.25),
            softcap: 2.0,
            precision: Some(DType::F64),
            scores: Scores::Weights,
            left: Some(3),
            right: Some(0),
        }),
        Op::Attention(AttentionAttrs { scale: Some(0.5), ..AttentionAttrs::default() }),
        Op::Recurrent(RecurrentAttrs {
            direction: Direction::Reverse,
            hidden: 5,
            functions: vec![Gate::ScaledTanh { alpha: 2.0, beta: 0.5 }],
            clip: Some(3.0),
            ..RecurrentAttrs::new(Cell::Rnn)
        }),
        Op::Recurrent(RecurrentAttrs {
            direction: Direction::Bidirectional,
            hidden: 5,
            functions: vec![
                Gate::Unary(Unary::HardSigmoid { alpha: 0.1, beta: 0.25 }),
                Gate::Unary(Unary::Softsign),
                Gate::Affine { alpha: 2.0, beta: 0.5 },
                Gate::Unary(Unary::LeakyRelu { alpha: 0.2 }),
            ],
            batch_first: true,
            ..RecurrentAttrs::new(Cell::Gru { linear_before_reset: true })
        }),
        Op::Recurrent(RecurrentAttrs { hidden: 5, ..RecurrentAttrs::new(Cell::Lstm { input_forget: true }) }),
        Op::Pad { mode: PadMode::Reflect },
        Op::Pad { mode: PadMode::Edge },
        Op::Pad { mode: PadMode::Wrap },
        Op::Resize(resize),
        Op::Resize(plain.clone()),
        Op::Resize(ResizeAttrs { mode: ResizeMode::Nearest, ..plain.clone() }),
        Op::Resize(ResizeAttrs { coord: CoordMode::TfCropAndResize, ..plain.clone() }),
        Op::Resize(ResizeAttrs { coord: CoordMode::HalfPixelSymmetric, ..plain }),
        Op::Reshape { allowzero: true },
        Op::Flatten { axis: 2 },
        Op::Transpose { perm: vec![1, 0, 2] },
        Op::DepthToSpace { block: 2, crd: true },
        Op::SpaceToDepth { block: 2 },
        Op::Shape { start: 1, end: Some(-1) },
        Op::ConstantOfShape { value: Arc::new(Tensor::of(&[1], vec![7i64])) },
        Op::OneHot { axis: 0 },
        Op::Trilu { upper: false },
        Op::QuantizeLinear { axis: 0, block: 0, saturate: true, out: DType::U8 },
        Op::QuantizeLinear { axis: 1, block: 32, saturate: false, out: DType::I8 },
        Op::DequantizeLinear { axis: 2, block: 16 },
        Op::QLinearConv(window()),
        Op::ConvInteger(window()),
    ]
}

/// A graph of one node; `full`: with all optional inputs.
fn around(op: &Op, row: &Row, full: bool, opset: i64) -> Graph {
    let mut g = Graph::new("one");
    g.opset = opset;
    let mut inputs: Vec<Option<ValueId>> = Vec::new();
    let resize = matches!(op, Op::Resize(_));
    let crop = matches!(op, Op::Resize(r) if r.coord == CoordMode::TfCropAndResize);
    for In { name, optional, many, attribute, .. } in row.inputs {
        let wanted = if resize {
            matches!(*name, "X" | "scales") || (full || crop) && *name == "roi"
        } else {
            full || !optional
        };
        if !wanted {
            inputs.push(None);
            continue;
        }
        for i in 0..if *many { 2 } else { 1 } {
            let name = format!("{name}{i}");
            let old = if name == "scales0" { Some(Old::Floats) } else { attribute.map(|a| a.2) };
            let tensor = match old {
                Some(Old::Ints) => Some(Tensor::of::<i64>(&[2], vec![1, 2])),
                Some(Old::Int) => Some(Tensor::of::<i64>(&[1], vec![3])),
                Some(Old::Float) => Some(Tensor::scalar(0.25f32)),
                Some(Old::Floats) => Some(Tensor::of(&[4], vec![1f32, 1.0, 2.0, 1.5])),
                None => None,
            };
            inputs.push(Some(match tensor {
                Some(t) => g.add_constant(&name, Arc::new(t)),
                None => {
                    let dtype = match op {
                        Op::QuantizeLinear { out, .. } if name == "zero_point0" => *out,
                        _ => DType::F32,
                    };
                    let id = g.add_value(&name, Some(dtype), None).expect("fresh");
                    g.inputs.push(id);
                    id
                }
            }));
        }
    }
    while inputs.last().is_some_and(Option::is_none) {
        inputs.pop();
    }
    let outputs = if full { row.outputs.1.min(3) } else { row.outputs.0 };
    let outputs: Vec<ValueId> =
        (0..outputs).map(|i| g.add_value(&format!("out{i}"), Some(DType::F32), None).expect("fresh")).collect();
    g.outputs.clone_from(&outputs);
    g.add_node("it", op.clone(), inputs, outputs.into_iter().map(Some).collect());
    g
}

/// Attribute constants get new names on the way; the rest of the description must be equal.
fn comparable(g: &Graph) -> String {
    let mut g = g.clone();
    let constants: Vec<ValueId> = g.values().filter(|(_, v)| v.constant.is_some()).map(|(id, _)| id).collect();
    let inputs: Vec<ValueId> = g.nodes().flat_map(|(_, n)| n.inputs.iter().flatten().copied()).collect();
    for id in constants {
        let at = inputs.iter().position(|&i| i == id).unwrap_or(99);
        g.rename(id, &format!("constant {at}"));
    }
    describe(&g)
}

#[test]
fn every_row_names_itself() {
    let mut seen = std::collections::HashSet::new();
    for row in rows() {
        assert!(seen.insert(row.name), "two rows are called {}", row.name);
        assert!(std::ptr::eq(find(row.name).expect("indexed"), row));
        let back = (row.since.max(OLDEST)..=row.until.min(NEWEST)).any(|n| name(&(row.make)(), n) == row.name);
        assert!(back, "{} is not written at any opset", row.name);
    }
}

#[test]
fn every_row_survives_the_file_at_every_opset() {
    let dump = std::env::var_os("NNQ_ONNX_DUMP").map(std::path::PathBuf::from);
    let mut written = std::collections::HashSet::new();
    // CastLike is read as a Cast where the type is known, as it is here.
    let ops: Vec<Op> = rows().filter(|r| r.name != "CastLike").map(|r| (r.make)()).chain(samples()).collect();
    for (k, op) in ops.iter().enumerate() {
        if matches!(op, Op::MaxPool { window, .. } | Op::AveragePool { window, .. } | Op::LpPool { window, .. } if window.kernel.is_empty())
        {
            continue;
        }
        for full in [false, true] {
            let mut opsets = 0;
            for opset in OLDEST..=NEWEST {
                let row = find(name(op, opset)).expect("a row");
                let g = around(op, row, full, opset);
                let bytes = match to_bytes(&g, &at_opset(opset)) {
                    Ok(b) => b,
                    Err(e) => {
                        let text = e.to_string();
                        assert!(
                            text.contains("write the model at opset") && text.contains("node 'it'"),
                            "{op:?} at {opset}: {text}"
                        );
                        continue;
                    }
                };
                opsets += 1;
                written.insert(row.name);
                if let Some(dir) = &dump {
                    let path = dir.join(format!("{}_{k}_{full}_{opset}.onnx", row.name));
                    std::fs::write(path, &bytes).expect("writable");
                }
                let back = read_vec(bytes).unwrap_or_else(|e| panic!("{op:?} at {opset}: {e}"));
                assert_eq!(comparable(&back), comparable(&g), "{op:?} at {opset}");
            }
            assert!(
                opsets > 0,
                "{op:?} with{} optional inputs cannot be written at all",
                if full { "" } else { "out" }
            );
        }
    }
    for row in rows().filter(|r| r.name != "CastLike") {
        assert!(written.contains(row.name), "{} was not written", row.name);
    }
}
