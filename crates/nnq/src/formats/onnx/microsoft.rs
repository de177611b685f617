//! Fused operators of ONNX Runtime (domain com.microsoft), read as the standard operators that they stand for. They are never written.
mod lstm;
mod quantized;

use super::{external::External, proto::NodeProto, read::Reader, table::Attrs};
use crate::{
    error::{Error, Result},
    ir::{
        Op, Tensor, ValueId,
        op::{AttentionAttrs, Binary, Unary},
    },
};
use std::sync::Arc;

/// The operators, with the least and greatest number of inputs, and those before the least that may be missing.
const KNOWN: &[(&str, usize, usize, &[usize])] = &[
    ("Gelu", 1, 1, &[]),
    ("FastGelu", 1, 2, &[]),
    ("BiasGelu", 2, 2, &[]),
    ("QuickGelu", 1, 1, &[]),
    ("FusedMatMul", 2, 2, &[]),
    ("SkipLayerNormalization", 3, 5, &[]),
    ("SkipSimplifiedLayerNormalization", 3, 4, &[]),
    ("SimplifiedLayerNormalization", 2, 2, &[]),
    ("MultiHeadAttention", 3, 8, &[]),
    ("DynamicQuantizeLSTM", 12, 12, &[3, 4, 5, 6, 7]),
    ("QuantizeLinear", 2, 3, &[]),
    ("DequantizeLinear", 2, 3, &[]),
    ("QLinearAdd", 7, 8, &[2, 5]),
    ("QLinearMul", 7, 8, &[2, 5]),
    ("QLinearSigmoid", 4, 5, &[2]),
    ("QLinearLeakyRelu", 4, 5, &[2]),
    ("QLinearGlobalAveragePool", 5, 5, &[]),
    ("QLinearAveragePool", 4, 5, &[2]),
    ("QLinearSoftmax", 5, 5, &[2]),
    ("QLinearConcat", 5, usize::MAX, &[]),
    ("QGemm", 6, 9, &[]),
    ("QAttention", 5, 9, &[]),
    ("MatMulNBits", 3, 6, &[]),
    ("DynamicQuantizeMatMul", 3, 5, &[]),
    ("MatMulIntegerToFloat", 4, 7, &[]),
];

/// Whether a node is one of these.
pub(super) fn knows(p: &NodeProto) -> bool {
    let name = p.op_type.as_deref().unwrap_or_default();
    match p.domain.as_deref().unwrap_or_default() {
        "com.microsoft" => KNOWN.iter().any(|k| k.0 == name),
        // ONNX Runtime puts this one into the standard's own domain.
        "" | "ai.onnx" => name == "SimplifiedLayerNormalization",
        _ => false,
    }
}

/// What the attributes of all of them say.
struct Fused {
    axis: i64,
    epsilon: f32,
    alpha: f32,
    heads: usize,
    scale: f32,
    causal: bool,
    /// Of the factors of a product: the last two axes change places.
    turned: [bool; 2],
}

/// The nodes that one stands for, while they are made.
struct Maker<'a, 'r> {
    reader: &'a mut Reader<'r>,
    name: &'a str,
    inputs: Vec<Option<ValueId>>,
    outputs: Vec<Option<ValueId>>,
}

impl Maker<'_, '_> {
    fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }
    fn output(&self, i: usize) -> Option<ValueId> {
        self.outputs.get(i).copied().flatten()
    }
    /// A node, numbered where there is one of its kind by now; its result is `to`, or a new value.
    fn add(&mut self, op: Op, inputs: Vec<Option<ValueId>>, to: Option<ValueId>) -> Result<ValueId> {
        let base = format!("{}/{}", self.name, op.name());
        let out = match to {
            Some(v) => v,
            None => self.value(op.name())?,
        };
        let graph = &mut self.reader.graph;
        let taken = |name: &str| graph.nodes().any(|(_, n)| n.name == name);
        let mut name = base.clone();
        let mut number = 2;
        while taken(&name) {
            name = format!("{base}_{number}");
            number += 1;
        }
        graph.add_node(&name, op, inputs, vec![Some(out)]);
        Ok(out)
    }
    /// A new value.
    fn value(&mut self, part: &str) -> Result<ValueId> {
        let graph = &mut self.reader.graph;
        let name = graph.fresh_name(&format!("{}/{part}", self.name));
        graph.add_value(&name, None, None)
    }
    /// The sum of the inputs that are there; `to` is its name where it has one.
    fn sum(&mut self, which: &[usize], to: Option<ValueId>) -> Result<ValueId> {
        let terms: Vec<ValueId> = which.iter().filter_map(|&i| self.input(i)).collect();
        let [first, rest @ ..] = &terms[..] else { return Err(Error::internal("a sum of nothing")) };
        let mut sum = *first;
        for (i, &term) in rest.iter().enumerate() {
            let to = to.filter(|_| i + 1 == rest.len());
            sum = self.add(Op::Binary(Binary::Add), vec![Some(sum), Some(term)], to)?;
        }
        Ok(sum)
    }
    /// Outputs from `i` on are not made.
    fn none_from(&self, i: usize, but: usize) -> Result<()> {
        match (i..self.outputs.len()).find(|&o| o != but && self.output(o).is_some()) {
            Some(o) => Err(Error::unsupported(format!("output {o} of this operator"))),
            None => Ok(()),
        }
    }
}

impl Reader<'_> {
    /// Adds the nodes that a node of ONNX Runtime's stands for.
    pub(super) fn microsoft(&mut self, p: &NodeProto, name: &str) -> Result<()> {
        let op_type = p.op_type.as_deref().unwrap_or_default();
        let Some((_, least, most, optional)) = KNOWN.iter().find(|k| k.0 == op_type) else {
            return Err(Error::internal(format!("'{op_type}' is not known")));
        };
        let inputs: Vec<Option<ValueId>> = p.input.iter().map(|n| self.input(n).transpose()).collect::<Result<_>>()?;
        let missing = |i: usize| inputs.get(i).copied().flatten().is_none();
        if inputs.len() > *most || (0..*least).filter(|i| !optional.contains(i)).any(missing) {
            return Err(Error::malformed(format!("{} inputs, expected {least} to {most}", inputs.len())));
        }
        let outputs: Vec<Option<ValueId>> =
            p.output.iter().map(|o| self.graph.find(o).filter(|_| !o.is_empty())).collect();
        if op_type == "DynamicQuantizeLSTM" {
            return lstm::add(p, Maker { reader: self, name, inputs, outputs });
        }
        if quantized::knows(op_type) {
            return quantized::add(p, Maker { reader: self, name, inputs, outputs });
        }
        let mut external = External::none();
        let mut a = Attrs::reading(
            &self.graph,
            self.opset,
            inputs.clone(),
            outputs.len(),
            p.attribute.iter().collect(),
            &mut external,
        );
        let fused = attributes(op_type, &mut a)?;
        a.finish()?;
        let main = outputs.first().copied().flatten();
        let mut make = Maker { reader: self, name, inputs, outputs };
        let gelu = |tanh| Op::Unary(Unary::Gelu { tanh });
        match op_type {
            "Gelu" | "BiasGelu" | "FastGelu" => {
                let sum = make.sum(&[0, 1], None)?;
                make.add(gelu(op_type == "FastGelu"), vec![Some(sum)], main)?;
            }
            "QuickGelu" => {
                let x = make.input(0);
                make.add(Op::Unary(Unary::Swish { alpha: fused.alpha }), vec![x], main)?;
            }
            "FusedMatMul" => fused_matmul(&fused, &mut make, main)?,
            "SimplifiedLayerNormalization" => {
                make.none_from(1, usize::MAX)?;
                let (x, scale) = (make.input(0), make.input(1));
                make.add(Op::RmsNormalization { axis: fused.axis, epsilon: fused.epsilon }, vec![x, scale], main)?;
            }
            "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => {
                make.none_from(1, 3)?;
                let simple = op_type != "SkipLayerNormalization";
                let bias = if simple { 3 } else { 4 };
                let sum = make.sum(&[0, 1, bias], make.output(3))?;
                let scale = make.input(2);
                let (op, inputs) = if simple {
                    (Op::RmsNormalization { axis: -1, epsilon: fused.epsilon }, vec![Some(sum), scale])
                } else {
                    (Op::LayerNormalization { axis: -1, epsilon: fused.epsilon }, vec![Some(sum), scale, make.input(3)])
                };
                make.add(op, inputs, main)?;
            }
            _ => attention(&fused, &mut make)?,
        }
        Ok(())
    }
}

fn attributes(op_type: &str, a: &mut Attrs) -> Result<Fused> {
    let mut f = Fused { axis: -1, epsilon: 1e-12, alpha: 1.0, heads: 0, scale: 0.0, causal: false, turned: [false; 2] };
    match op_type {
        "QuickGelu" => a.float("alpha", 1.702, &mut f.alpha)?,
        "FusedMatMul" => {
            a.float("alpha", 1.0, &mut f.alpha)?;
            a.flag("transA", false, &mut f.turned[0])?;
            a.flag("transB", false, &mut f.turned[1])?;
            a.only("transBatchA", &[0])?;
            a.only("transBatchB", &[0])?;
        }
        "SimplifiedLayerNormalization" => {
            a.int("axis", -1, &mut f.axis)?;
            a.float("epsilon", 1e-5, &mut f.epsilon)?;
            a.only("stash_type", &[1])?;
        }
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => a.float("epsilon", 1e-12, &mut f.epsilon)?,
        "MultiHeadAttention" => {
            a.size("num_heads", None, &mut f.heads)?;
            a.float("scale", 0.0, &mut f.scale)?;
            a.flag("unidirectional", false, &mut f.causal)?;
            a.ignore("mask_filter_value");
        }
        _ => {}
    }
    Ok(f)
}

fn fused_matmul(f: &Fused, make: &mut Maker<'_, '_>, main: Option<ValueId>) -> Result<()> {
    let factors = vec![make.input(0), make.input(1)];
    let op = match f.turned {
        [false, false] => Op::MatMul,
        // As an equation no rank has to be known.
        [a, b] => {
            let (a, b) = (if a { "ki" } else { "ik" }, if b { "jk" } else { "kj" });
            Op::Einsum { equation: format!("...{a},...{b}->...ij") }
        }
    };
    if f.alpha == 1.0 {
        make.add(op, factors, main)?;
        return Ok(());
    }
    let product = make.add(op, factors, None)?;
    let alpha = make.reader.graph.add_constant(&format!("{}_alpha", make.name), Arc::new(Tensor::scalar(f.alpha)));
    make.add(Op::Binary(Binary::Mul), vec![Some(product), Some(alpha)], main)?;
    Ok(())
}

fn attention(f: &Fused, make: &mut Maker<'_, '_>) -> Result<()> {
    if make.input(4).is_some() {
        return Err(
            Error::unsupported("a padding mask of keys").cure("export the model with attention as standard operators")
        );
    }
    make.none_from(3, usize::MAX)?;
    let mut parts = [make.input(0), make.input(1), make.input(2)];
    if let Some(bias) = make.input(3) {
        let Some(bias) = make.reader.graph.constant(bias).cloned() else {
            return Err(Error::unsupported("a bias that is no constant"));
        };
        let numbers = bias.as_slice::<f32>()?;
        let third = numbers.len() / 3;
        for (i, part) in parts.iter_mut().enumerate() {
            // Keys and queries are equally wide; values take what is left where they are not.
            let range = if i < 2 { i * third..(i + 1) * third } else { 2 * third..numbers.len() };
            let bias = Tensor::of(&[range.len()], numbers[range].to_vec());
            let name = format!("{}_bias{i}", make.name);
            let bias = make.reader.graph.add_constant(&name, Arc::new(bias));
            let sum = make.reader.graph.fresh_name(&format!("{}/biased{i}", make.name));
            let sum = make.reader.graph.add_value(&sum, None, None)?;
            let node = format!("{}/Add{i}", make.name);
            make.reader.graph.add_node(&node, Op::Binary(Binary::Add), vec![*part, Some(bias)], vec![Some(sum)]);
            *part = Some(sum);
        }
    }
    let [q, k, v] = parts;
    let op = Op::Attention(AttentionAttrs {
        causal: f.causal,
        q_heads: f.heads,
        kv_heads: f.heads,
        scale: (f.scale != 0.0).then_some(f.scale),
        ..AttentionAttrs::default()
    });
    let inputs = vec![q, k, v, make.input(5), make.input(6), make.input(7)];
    let (name, outputs) = (format!("{}/Attention", make.name), make.outputs.clone());
    make.reader.graph.add_node(&name, op, inputs, outputs);
    Ok(())
}
