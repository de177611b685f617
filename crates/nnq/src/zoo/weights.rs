//! Weights of a file in the place of random ones.
use crate::{
    error::{Error, Result},
    formats::weights::Weights,
    ir::{Graph, Op, Tensor, ValueId},
};
use std::sync::Arc;

/// Names of what only training needs: counters of batch normalisation, auxiliary classifiers.
const IDLE: [&str; 4] = [".num_batches_tracked", "AuxLogits.", "aux1.", "aux2."];

/// Puts every weight in its place. With `new_head` a last layer of another size stays as it is. Returns notes.
pub(super) fn put(graph: &mut Graph, mut found: Weights, new_head: bool) -> Result<Vec<String>> {
    // What DataParallel calls its network.
    if found.keys().all(|name| name.starts_with("module.")) {
        found = found.into_iter().map(|(name, tensor)| (name["module.".len()..].into(), tensor)).collect();
    }
    let layers: Vec<Vec<ValueId>> = graph
        .nodes()
        .filter(|(_, n)| matches!(n.op, Op::Conv(_) | Op::Gemm { .. } | Op::BatchNormalization { .. }))
        .map(|(_, n)| n.inputs[1..].iter().flatten().copied().collect())
        .collect();
    let (mut lacking, mut random) = (Vec::new(), Vec::new());
    for (i, &v) in layers.iter().enumerate().flat_map(|(i, layer)| layer.iter().map(move |v| (i, v))) {
        let value = graph.value_mut(v);
        let name = value.name.clone();
        let shape = value.constant.as_ref().map(|t| t.shape().to_vec()).unwrap_or_default();
        let Some(tensor) = found.remove(&name) else {
            lacking.push(name);
            continue;
        };
        if tensor.shape() != shape {
            if new_head && i + 1 == layers.len() {
                random.push(name);
                continue;
            }
            return Err(Error::shape(format!("'{name}' has the shape {:?}, the network's {shape:?}", tensor.shape()))
                .cure("choose the network that the weights are of; --outputs N where only the last layer differs"));
        }
        if !tensor.dtype().is_float() {
            return Err(Error::unsupported(format!("'{name}' holds {} numbers", tensor.dtype()))
                .cure("save floating-point weights"));
        }
        let numbers = tensor.to_f32s();
        if let Some(x) = numbers.iter().find(|x| !x.is_finite()) {
            return Err(Error::value(format!("'{name}' holds {x}")).cure("save weights that are numbers"));
        }
        value.constant = Some(Arc::new(Tensor::of(&shape, numbers)));
    }
    found.retain(|name, _| !IDLE.iter().any(|idle| name.starts_with(idle) || name.ends_with(idle)));
    let left: Vec<String> = found.into_keys().collect();
    for (names, what) in [(&lacking, "lacks"), (&left, "has weights that the network does not know:")] {
        if !names.is_empty() {
            let some: Vec<String> = names.iter().take(3).map(|n| format!("'{n}'")).collect();
            let more = if names.len() > 3 { format!(" and {} more", names.len() - 3) } else { String::new() };
            return Err(Error::value(format!("the file {what} {}{more}", some.join(", ")))
                .cure("choose the network that the weights are of; names are torchvision's"));
        }
    }
    Ok(if random.is_empty() {
        Vec::new()
    } else {
        vec![format!("random, since of another size: {}", random.join(", "))]
    })
}
