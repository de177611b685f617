//! DynamicQuantizeLSTM: an LSTM on DequantizeLinear of its weights, named among the layers that quantize inputs and states as they come.
use super::{
    super::{external::External, proto::NodeProto, quantized, table},
    Maker,
};
use crate::{
    error::{At, Error, Result},
    ir::{Data, Op, Tensor, ValueId},
};
use std::sync::Arc;

/// Adds what the node stands for. Its weights are `[directions, columns, rows]`, the other way round than the standard's; scales and zero points
/// are `[directions]` or `[directions, rows]` (onnxruntime, docs/ContribOperators.md).
///
/// # Errors
/// Weights, scales or zero points that are no constants or do not fit each other; attributes LSTM does not have.
pub(super) fn add(p: &NodeProto, mut make: Maker<'_, '_>) -> Result<()> {
    if make.reader.depth > 0 {
        return Err(Error::unsupported("an LSTM with quantized weights within If, Loop or Scan")
            .cure("leave this layer out of the quantization (nodes_to_exclude)"));
    }
    let row = table::find("LSTM").ok_or_else(|| Error::internal("LSTM is no operator"))?;
    let w = weights(&mut make, "W", [1, 8, 9]).at(|| "input 'W'")?;
    let r = weights(&mut make, "R", [2, 10, 11]).at(|| "input 'R'")?;
    let mut inputs = make.inputs[..8].to_vec();
    (inputs[1], inputs[2]) = (Some(w), Some(r));
    while inputs.last() == Some(&None) {
        inputs.pop();
    }
    let outputs = std::mem::take(&mut make.outputs);
    let graph = &mut make.reader.graph;
    let (mut op, mut external) = ((row.make)(), External::none());
    let attributes = p.attribute.iter().collect();
    let opset = make.reader.opset;
    let mut a = table::Attrs::reading(graph, opset, inputs.clone(), outputs.len(), attributes, &mut external);
    (row.fields)(&mut op, &mut a)?;
    a.finish()?;
    graph.add_node(make.name, op, inputs, outputs);
    quantized::name_live_layer(&mut graph.metadata, make.name);
    Ok(())
}

/// The real weights of which inputs `[codes, scale, zero point]` speak, `[directions, rows, columns]`.
fn weights(make: &mut Maker<'_, '_>, what: &str, at: [usize; 3]) -> Result<ValueId> {
    let constant = |i: usize| {
        let found = make.input(i).and_then(|v| make.reader.graph.constant(v)).cloned();
        found.ok_or_else(|| {
            Error::unsupported("weights, scales or zero points that are no constants")
                .cure("fold them into initializers")
        })
    };
    let (codes, scale, zero) = (constant(at[0])?, constant(at[1])?, constant(at[2])?);
    let &[directions, columns, rows] = codes.shape() else {
        return Err(Error::shape(format!("shape {:?}, expected [directions, columns, rows]", codes.shape())));
    };
    if codes.is_empty() {
        return Err(Error::shape(format!("no weights in shape {:?}", codes.shape())));
    }
    let turned = match codes.data() {
        Data::I8(c) => Tensor::of(&[directions, rows, columns], turned(c, columns, rows)),
        Data::U8(c) => Tensor::of(&[directions, rows, columns], turned(c, columns, rows)),
        _ => return Err(Error::unsupported(format!("codes of {}, expected bytes", codes.dtype()))),
    };
    // One scale is for the whole of a single direction; several lie along the axis that is left, or fill both.
    let (shape, axis, block) = match scale.len() {
        1 if directions == 1 => (vec![], 1, 0),
        n if n == directions => (vec![n], 0, 0),
        n if n == rows && directions == 1 => (vec![n], 1, 0),
        n if n == directions * rows => (vec![directions, rows, 1], 2, columns),
        _ => {
            return Err(Error::shape(format!(
                "scales of shape {:?} for {directions} directions of {rows} rows",
                scale.shape()
            )));
        }
    };
    if zero.len() != scale.len() || zero.dtype() != codes.dtype() {
        return Err(Error::shape(format!(
            "zero points {} {:?} beside codes of {} with scales {:?}",
            zero.dtype(),
            zero.shape(),
            codes.dtype(),
            scale.shape()
        )));
    }
    let tensors = [turned, (*scale).clone().reshaped(shape.clone())?, (*zero).clone().reshaped(shape)?];
    let parts = ["codes", "scale", "zero_point"];
    let mut inputs = Vec::with_capacity(3);
    for (tensor, part) in tensors.into_iter().zip(parts) {
        let graph = &mut make.reader.graph;
        let name = graph.fresh_name(&format!("{}/{what}_{part}", make.name));
        inputs.push(Some(graph.add_constant(&name, Arc::new(tensor))));
    }
    make.add(Op::DequantizeLinear { axis, block }, inputs, None)
}

/// Each matrix of `columns` rows of the file turned over.
fn turned<T: Copy>(codes: &[T], columns: usize, rows: usize) -> Vec<T> {
    let one = |m: &[T]| -> Vec<T> { (0..m.len()).map(|i| m[i % columns * rows + i / columns]).collect() };
    codes.chunks_exact(columns * rows).flat_map(one).collect()
}
