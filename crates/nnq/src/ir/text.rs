//! A stable text form of a graph, for people, diffs and golden tests. It is written, never read.
use crate::{
    ir::{
        DType, Dynamic, Granularity, Graph, Node, Op, QParams, Tensor, Value, ValueId,
        op::{AutoPad, Binary, Cell, Control, ConvAttrs, PoolAttrs, Scatter, Scores, Unary},
    },
    with_data,
};
use sha2::{Digest, Sha256};
use std::fmt::{self, Debug, Display, Write};

/// Constants and lists of scales up to this length are printed in full.
const FULL: usize = 8;

impl Graph {
    /// One line per input, constant, node and output. The same graph gives the same text; large constants are summarised by
    /// their extremes and a hash of their content.
    pub fn to_text(&self) -> String {
        self.to_string()
    }
}

impl Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {:?} opset {}", self.name, self.opset)?;
        for &v in &self.inputs {
            writeln!(f, "input {}", typed(self.value(v)))?;
        }
        for (_, v) in self.values() {
            if let Some(t) = &v.constant {
                writeln!(f, "const {} = {}", typed(v), content(v, t))?;
            }
        }
        for (_, node) in self.nodes() {
            writeln!(f, "{}", line(self, node))?;
            if let Op::Control(c) = &node.op {
                for (name, graph) in c.graphs() {
                    writeln!(f, "  {name}:")?;
                    graph.to_string().lines().try_for_each(|l| writeln!(f, "    {l}"))?;
                }
            }
        }
        let outputs: Vec<String> = self.outputs.iter().map(|&v| name(&self.value(v).name)).collect();
        writeln!(f, "output {}", outputs.join(", "))
    }
}

/// `%name`, quoted when it holds more than the usual characters.
fn name(name: &str) -> String {
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_./:-".contains(c));
    if plain { format!("%{name}") } else { format!("%{name:?}") }
}

fn typed(v: &Value) -> String {
    let dtype = v.dtype.map_or("?", DType::name);
    let shape = v.shape.as_ref().map_or_else(|| "[..]".to_string(), ToString::to_string);
    let quant = v.quant.as_ref().map(|q| format!(" {}", params(q))).unwrap_or_default();
    let dynamic = match v.dynamic {
        None => "",
        Some(Dynamic::Tensor) => " dynamic",
        Some(Dynamic::Row) => " dynamic by row",
    };
    format!("{}: {dtype}{shape}{quant}{dynamic}", name(&v.name))
}

fn few<T: Display>(list: &[T]) -> String {
    let mut out = String::from("[");
    for (i, x) in list.iter().take(FULL).enumerate() {
        let _ = write!(out, "{}{x}", if i > 0 { ", " } else { "" });
    }
    if list.len() > FULL {
        let _ = write!(out, ", .. {} in all", list.len());
    }
    out + "]"
}

fn params(q: &QParams) -> String {
    let axis = match q.granularity {
        Granularity::Tensor => String::new(),
        Granularity::Channel { axis } => format!(", axis={axis}"),
        Granularity::Block { axis, size } => format!(", axis={axis}, block={size}"),
    };
    match q.as_tensor() {
        Some((s, z)) => format!("{}(s={s}, z={z})", q.qtype),
        None if q.zero_point.iter().all(|&z| z == 0) => format!("{}(s={}, z=0{axis})", q.qtype, few(&q.scale)),
        None => format!("{}(s={}, z={}{axis})", q.qtype, few(&q.scale), few(&q.zero_point)),
    }
}

fn content(v: &Value, t: &Tensor) -> String {
    let held = if v.quant.is_some() && t.dtype().is_int() { format!("codes {} ", t.dtype()) } else { String::new() };
    if t.len() <= FULL {
        return with_data!(t.data(), b => format!("{held}{:?}", &**b));
    }
    let (lo, hi) = with_data!(t.data(), b => extremes(b));
    let hash = Sha256::digest(t.data().as_bytes());
    let hash: String = hash.iter().take(6).fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    });
    format!("{held}{lo} .. {hi} sha256:{hash}")
}

fn extremes<T: PartialOrd + Display>(b: &[T]) -> (String, String) {
    let by = |keep: fn(&T, &T) -> bool| {
        let found = b.iter().reduce(|m, x| if keep(x, m) { x } else { m });
        found.map_or_else(|| "-".to_string(), ToString::to_string)
    };
    (by(|x, m| x < m), by(|x, m| x > m))
}

fn line(graph: &Graph, node: &Node) -> String {
    let value = |v: &Option<ValueId>| v.map_or_else(|| "-".into(), |v| name(&graph.value(v).name));
    let out: Vec<String> =
        node.outputs.iter().map(|v| v.map_or_else(|| "-".into(), |v| typed(graph.value(v)))).collect();
    let inputs: Vec<String> = node.inputs.iter().map(value).collect();
    let attrs = attributes(&node.op);
    let attrs = if attrs.0.is_empty() { String::new() } else { format!(" {{{}}}", attrs.0.join(", ")) };
    let comment = if node.name.contains(char::is_control) { format!("{:?}", node.name) } else { node.name.clone() };
    format!("{} = {}({}){attrs} # {comment}", out.join(", "), node.op.name(), inputs.join(", "))
}

/// `key=value` for each attribute that is not at its default.
struct Attrs(Vec<String>);

impl Attrs {
    fn put(&mut self, key: &str, value: impl Debug) -> &mut Self {
        self.0.push(format!("{key}={value:?}"));
        self
    }
    fn flag(&mut self, key: &str, on: bool) -> &mut Self {
        if on {
            self.0.push(key.into());
        }
        self
    }
    fn list<T: Debug>(&mut self, key: &str, list: &[T]) -> &mut Self {
        if !list.is_empty() {
            self.put(key, list);
        }
        self
    }
    fn auto(&mut self, a: AutoPad) -> &mut Self {
        if a != AutoPad::NotSet {
            self.put("auto_pad", a);
        }
        self
    }
    fn conv(&mut self, a: &ConvAttrs) -> &mut Self {
        self.list("kernel", &a.kernel).list("strides", &a.strides).list("dilations", &a.dilations);
        self.list("pads", &a.pads).auto(a.auto_pad);
        if a.group != 1 {
            self.put("group", a.group);
        }
        self
    }
    fn pool(&mut self, a: &PoolAttrs) -> &mut Self {
        self.list("kernel", &a.kernel).list("strides", &a.strides).list("dilations", &a.dilations);
        self.list("pads", &a.pads).auto(a.auto_pad).flag("ceil_mode", a.ceil_mode)
    }
}

fn attributes(op: &Op) -> Attrs {
    let mut all = Attrs(Vec::new());
    let a = &mut all;
    match op {
        Op::Conv(c) | Op::QLinearConv(c) | Op::ConvInteger(c) => a.conv(c),
        Op::ConvTranspose(t) => {
            a.conv(&t.conv).list("output_padding", &t.output_padding).list("output_shape", &t.output_shape)
        }
        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            a.put("alpha", alpha).put("beta", beta).flag("trans_a", *trans_a).flag("trans_b", *trans_b)
        }
        Op::Recurrent(r) => {
            a.put("direction", r.direction);
            if r.hidden > 0 {
                a.put("hidden", r.hidden);
            }
            if let Some(clip) = r.clip {
                a.put("clip", clip);
            }
            let a = match r.cell {
                Cell::Rnn => a,
                Cell::Gru { linear_before_reset } => a.flag("linear_before_reset", linear_before_reset),
                Cell::Lstm { input_forget } => a.flag("input_forget", input_forget),
            };
            a.list("functions", &r.functions).flag("batch_first", r.batch_first)
        }
        Op::BatchNormalization { epsilon } | Op::InstanceNormalization { epsilon } => a.put("epsilon", epsilon),
        Op::GroupNormalization { epsilon, groups } => a.put("epsilon", epsilon).put("groups", groups),
        Op::Attention(t) => {
            a.flag("causal", t.causal);
            for (key, n) in [("q_heads", t.q_heads), ("kv_heads", t.kv_heads)].into_iter().filter(|n| n.1 > 0) {
                a.put(key, n);
            }
            if let Some(scale) = t.scale {
                a.put("scale", scale);
            }
            if t.softcap != 0.0 {
                a.put("softcap", t.softcap);
            }
            if let Some(dtype) = t.precision {
                a.put("precision", dtype);
            }
            if t.scores != Scores::Products {
                a.put("scores", t.scores);
            }
            for (key, n) in [("left", t.left), ("right", t.right)] {
                if let Some(n) = n {
                    a.put(key, n);
                }
            }
            a
        }
        Op::RotaryEmbedding { interleaved, heads, size } => {
            a.flag("interleaved", *interleaved).put("heads", heads).put("size", size)
        }
        Op::Einsum { equation } => a.put("equation", equation),
        Op::LayerNormalization { axis, epsilon } | Op::RmsNormalization { axis, epsilon } => {
            a.put("axis", axis).put("epsilon", epsilon)
        }
        Op::Lrn { alpha, beta, bias, size } => {
            a.put("alpha", alpha).put("beta", beta).put("bias", bias).put("size", size)
        }
        Op::Unary(u) => unary(*u, a),
        Op::Binary(Binary::BitShift { left }) => a.put("left", left),
        Op::Binary(Binary::Mod { fmod }) => a.flag("fmod", *fmod),
        Op::CastLike { saturate } => a.flag("wrap", !saturate),
        Op::Control(c) => match c {
            Control::If { .. } => a,
            Control::Loop { carried, .. } => a.put("carried", carried),
            Control::Scan { inputs, outputs, .. } => a.put("inputs", inputs).put("outputs", outputs),
        },
        Op::Cast { to, saturate } => a.put("to", *to).flag("wrap", !saturate),
        Op::Softmax { axis, flat } | Op::LogSoftmax { axis, flat } | Op::Hardmax { axis, flat } => {
            a.put("axis", axis).flag("flat", *flat)
        }
        Op::Reduce { keepdims, noop_with_empty_axes, .. } => {
            a.flag("keepdims", *keepdims).flag("noop_with_empty_axes", *noop_with_empty_axes)
        }
        Op::ArgMax { axis, keepdims, select_last } | Op::ArgMin { axis, keepdims, select_last } => {
            a.put("axis", axis).flag("keepdims", *keepdims).flag("select_last", *select_last)
        }
        Op::CumSum { exclusive, reverse } => a.flag("exclusive", *exclusive).flag("reverse", *reverse),
        Op::TopK { axis, largest, sorted } => a.put("axis", axis).put("largest", largest).flag("sorted", *sorted),
        Op::MaxPool { window, column_major } => a.pool(window).flag("column_major", *column_major),
        Op::AveragePool { window, count_include_pad } => a.pool(window).flag("count_include_pad", *count_include_pad),
        Op::LpPool { window, p } => a.pool(window).put("p", p),
        Op::GlobalLpPool { p } => a.put("p", p),
        Op::Concat { axis }
        | Op::Split { axis }
        | Op::Gather { axis }
        | Op::GatherElements { axis }
        | Op::Flatten { axis }
        | Op::OneHot { axis } => a.put("axis", axis),
        Op::ScatterElements { axis, reduction } => scatter(*reduction, a.put("axis", axis)),
        Op::ScatterNd { reduction } => scatter(*reduction, a),
        Op::Compress { axis } => match axis {
            Some(axis) => a.put("axis", axis),
            None => a,
        },
        Op::ReverseSequence { batch_axis, time_axis } => a.put("batch_axis", batch_axis).put("time_axis", time_axis),
        Op::GatherNd { batch_dims } => a.put("batch_dims", batch_dims),
        Op::Pad { mode } => a.put("mode", mode),
        Op::Resize(r) => {
            a.put("mode", r.mode).put("coord", r.coord).put("nearest", r.nearest).put("aspect", r.aspect);
            a.put("cubic_a", r.cubic_a).put("extrapolation", r.extrapolation).list("axes", &r.axes);
            a.flag("exclude_outside", r.exclude_outside).flag("antialias", r.antialias)
        }
        Op::Reshape { allowzero } => a.flag("allowzero", *allowzero),
        Op::Transpose { perm } => a.list("perm", perm),
        Op::DepthToSpace { block, crd } => a.put("block", block).flag("crd", *crd),
        Op::SpaceToDepth { block } => a.put("block", block),
        Op::Shape { start, end } => {
            if let Some(end) = end {
                a.put("end", end);
            }
            a.put("start", start)
        }
        Op::ConstantOfShape { value } => a.put("value", value),
        Op::Trilu { upper } => a.put("upper", upper),
        Op::QuantizeLinear { axis, block, saturate, out } => {
            a.put("axis", axis).put("block", block).put("saturate", saturate).put("out", out)
        }
        Op::DequantizeLinear { axis, block } => a.put("axis", axis).put("block", block),
        Op::Binary(
            Binary::Add
            | Binary::And
            | Binary::BitwiseAnd
            | Binary::BitwiseOr
            | Binary::BitwiseXor
            | Binary::Div
            | Binary::Equal
            | Binary::Greater
            | Binary::GreaterOrEqual
            | Binary::Less
            | Binary::LessOrEqual
            | Binary::Mul
            | Binary::Or
            | Binary::Pow
            | Binary::PRelu
            | Binary::Sub
            | Binary::Xor,
        )
        | Op::MatMul
        | Op::Variadic(_)
        | Op::Clip
        | Op::Where
        | Op::GlobalMaxPool
        | Op::GlobalAveragePool
        | Op::Slice
        | Op::NonZero
        | Op::Squeeze
        | Op::Unsqueeze
        | Op::Expand
        | Op::Tile
        | Op::Identity
        | Op::Dropout
        | Op::Size
        | Op::Range
        | Op::DynamicQuantizeLinear
        | Op::QLinearMatMul
        | Op::MatMulInteger => a,
    };
    all
}

fn scatter(reduction: Scatter, a: &mut Attrs) -> &mut Attrs {
    if reduction == Scatter::Replace { a } else { a.put("reduction", reduction) }
}

fn unary(u: Unary, a: &mut Attrs) -> &mut Attrs {
    match u {
        Unary::Celu { alpha }
        | Unary::Elu { alpha }
        | Unary::LeakyRelu { alpha }
        | Unary::Swish { alpha }
        | Unary::ThresholdedRelu { alpha } => a.put("alpha", alpha),
        Unary::Gelu { tanh } => a.flag("tanh", tanh),
        Unary::HardSigmoid { alpha, beta } => a.put("alpha", alpha).put("beta", beta),
        Unary::IsInf { negative, positive } => a.put("negative", negative).put("positive", positive),
        Unary::Selu { alpha, gamma } => a.put("alpha", alpha).put("gamma", gamma),
        _ => a,
    }
}
