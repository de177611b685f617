//! Folds batch normalisation, and other per-channel scaling and shifting by constants, into the product before it.
//!
//! `y = s * (W x + b) + t` becomes `(s W) x + (s b + t)`, with `s = gamma / sqrt(variance + epsilon)` and `t = beta - mean * s` for a
//! batch normalisation (Jacob et al., 2018, section 3.2). Computed in f64, stored in f32. What a batch normalisation says of its output's
//! distribution stays with the value ([`crate::ir::Channels`]).
use super::view::View;
use crate::{
    error::Result,
    ir::{
        Channels, Graph, Node, NodeId, Op, Patch, Tensor, ValueId,
        op::{Binary, ConvTransposeAttrs},
    },
};
use std::{collections::HashSet, sync::Arc};

/// Answers the number of nodes folded.
///
/// Only where the product's output has no other reader, is no graph output and carries no annotation, and weight and bias are
/// constants of f32 without annotation. Weights that other nodes share are copied. A normalisation that follows anything else stays.
///
/// # Errors
/// When the graph has a cycle.
pub fn run(graph: &mut Graph) -> Result<usize> {
    let mut total = 0;
    loop {
        let n = round(graph)?;
        if n == 0 {
            return Ok(total);
        }
        total += n;
    }
}

fn round(graph: &mut Graph) -> Result<usize> {
    let view = View::new(graph);
    let mut folds = Vec::new();
    let mut touched = HashSet::new();
    for (id, node) in graph.nodes() {
        let Some(fold) = find(&view, id, node) else { continue };
        if fold.removed.iter().any(|n| touched.contains(n)) {
            continue;
        }
        touched.extend(fold.removed.iter().copied());
        folds.push(fold);
    }
    let mut patch = Patch::new();
    let edits = folds.len();
    for fold in folds {
        for n in fold.removed {
            patch.remove(n);
        }
        let mut node = fold.node;
        for (i, name, tensor) in fold.constants {
            let id = graph.add_constant(&name, Arc::new(tensor));
            if node.inputs.len() <= i {
                node.inputs.resize(i + 1, None);
            }
            node.inputs[i] = Some(id);
        }
        if let Some((v, channels)) = node.output(0).zip(fold.channels) {
            graph.value_mut(v).channels = Some(Arc::new(channels));
        }
        patch.add(node);
    }
    if edits > 0 {
        graph.apply(patch)?;
    }
    Ok(edits)
}

/// The nodes that go, and the product that takes their place with its new constants (input, name, content).
struct Fold {
    removed: Vec<NodeId>,
    node: Node,
    constants: Vec<(usize, String, Tensor)>,
    /// What is known of the output.
    channels: Option<Channels>,
}

/// `y = scale * x + shift`, one number per channel or one for all.
struct Affine {
    x: ValueId,
    scale: Vec<f64>,
    shift: Vec<f64>,
    /// Of `x`, as the normalisation has it.
    known: Option<Channels>,
}

impl Affine {
    fn spread(mut self, channels: usize) -> Option<Self> {
        for list in [&mut self.scale, &mut self.shift] {
            match list.len() {
                1 => list.resize(channels, list[0]),
                n if n == channels => {}
                _ => return None,
            }
        }
        let finite = |l: &[f64]| l.iter().all(|x| x.is_finite());
        (finite(&self.scale) && finite(&self.shift)).then_some(self)
    }
}

/// Where a product holds its output channels.
struct Layout {
    /// The weight's input position; the bias follows it.
    weight: ValueId,
    channels: usize,
    /// The channel axis of the output and its rank.
    axis: usize,
    rank: usize,
}

fn find(view: &View, id: NodeId, node: &Node) -> Option<Fold> {
    let normalises = matches!(node.op, Op::BatchNormalization { .. });
    if !normalises && !matches!(node.op, Op::Binary(Binary::Add | Binary::Sub | Binary::Mul | Binary::Div)) {
        return None;
    }
    let mut removed = vec![id];
    // The input that the product computes; an affine node has one that is no constant.
    let link = node.inputs.iter().flatten().copied().find(|&v| view.producer(v).is_some())?;
    if !view.is_link(link) {
        return None;
    }
    let (mut product, mut layout) = (view.producer(link)?, None);
    let mut before = None;
    if normalises && matches!(product.1.op, Op::Binary(Binary::Add)) {
        // MatMul, bias, normalisation.
        let inner = product.1.inputs.iter().flatten().copied().find(|&v| view.producer(v).is_some())?;
        let matmul = view.producer(inner).filter(|(_, n)| matches!(n.op, Op::MatMul) && view.is_link(inner))?;
        let l = describe(view, matmul.1)?;
        before = Some(affine(view, product.1, &l).filter(|a| a.x == inner)?.spread(l.channels)?);
        removed.push(product.0);
        (product, layout) = (matmul, Some(l));
    }
    let layout = match layout {
        Some(l) => l,
        None => describe(view, product.1)?,
    };
    let mut a = affine(view, node, &layout).filter(|a| a.x == link)?.spread(layout.channels)?;
    let known = a.known.take().or_else(|| view.graph.value(link).channels.as_deref().cloned());
    let channels = known.filter(|k| k.mean.len() == layout.channels).map(|k| k.affine(&a.scale, &a.shift));
    if let Some(b) = before {
        for (i, c) in b.shift.iter().enumerate() {
            a.shift[i] += a.scale[i] * c;
        }
    }
    removed.push(product.0);
    let (op, constants) = fold(view, product.1, &layout, &a, normalises)?;
    let mut new = product.1.clone();
    new.op = op;
    new.outputs.clone_from(&node.outputs);
    Some(Fold { removed, node: new, constants, channels })
}

fn describe(view: &View, product: &Node) -> Option<Layout> {
    let weight = product.input(1)?;
    let (w, _) = view.floats(weight)?;
    let (channels, axis, rank) = match &product.op {
        Op::Conv(_) => (*w.first()?, 1, w.len()),
        Op::ConvTranspose(t) => (w.get(1)?.checked_mul(t.conv.group)?, 1, w.len()),
        Op::Gemm { trans_b, .. } if w.len() == 2 => (w[usize::from(!trans_b)], 1, 2),
        Op::MatMul if w.len() == 2 => {
            let rank = view.rank(product.input(0)?)?;
            (w[1], rank.checked_sub(1)?, rank)
        }
        _ => return None,
    };
    Some(Layout { weight, channels, axis, rank })
}

/// The per-channel form of a node after a product with this layout.
fn affine(view: &View, node: &Node, l: &Layout) -> Option<Affine> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    if let Op::BatchNormalization { epsilon } = node.op {
        let list = |i: usize| view.floats(node.input(i)?).map(|f| f.1).filter(|f| f.len() == l.channels && l.axis == 1);
        let (gamma, beta, mean, var) = (list(1)?, list(2)?, list(3)?, list(4)?);
        let scale: Vec<f64> =
            gamma.iter().zip(var).map(|(&g, &v)| f64::from(g) / (f64::from(v) + f64::from(epsilon)).sqrt()).collect();
        let shift = beta.iter().zip(mean).zip(&scale).map(|((&b, &m), s)| f64::from(b) - f64::from(m) * s).collect();
        let wide = |list: &[f32]| list.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let deviation = wide(var).iter().map(|v| v.max(0.0).sqrt()).collect();
        let known = Some(Channels { mean: wide(mean), deviation, ..Channels::default() });
        return Some(Affine { x: a, scale, shift, known });
    }
    let Op::Binary(op) = node.op else { return None };
    // The constant stands left or right.
    let (x, c, left) = if view.tensor(b).is_some() { (a, b, false) } else { (b, a, true) };
    let c = per_channel(view, c, l)?;
    let all = |x: f64| vec![x; c.len()];
    let each = |f: fn(f64) -> f64| c.iter().map(|&x| f(x)).collect::<Vec<f64>>();
    let (scale, shift) = match (op, left) {
        (Binary::Add, _) => (all(1.0), c),
        (Binary::Sub, false) => (all(1.0), each(|x| -x)),
        (Binary::Sub, true) => (all(-1.0), c),
        (Binary::Mul, _) => (c.clone(), all(0.0)),
        (Binary::Div, false) => (each(|x| 1.0 / x), all(0.0)),
        _ => return None,
    };
    Some(Affine { x, scale, shift, known: None })
}

/// A constant that has one number, or one per channel of the product's output, and makes the output no larger.
fn per_channel(view: &View, v: ValueId, l: &Layout) -> Option<Vec<f64>> {
    let (shape, data) = view.floats(v)?;
    let skip = l.rank.checked_sub(shape.len())?;
    let fits = shape.iter().enumerate().all(|(i, &n)| n == 1 || (i + skip == l.axis && n == l.channels));
    fits.then(|| data.iter().map(|&x| f64::from(x)).collect())
}

/// Narrows to f32; nothing that was finite may become infinite.
#[allow(clippy::cast_possible_truncation)]
fn narrow(x: f64) -> Option<f32> {
    Some(x as f32).filter(|y| y.is_finite())
}

type Folded = (Op, Vec<(usize, String, Tensor)>);

fn fold(view: &View, product: &Node, l: &Layout, a: &Affine, normalises: bool) -> Option<Folded> {
    let (shape, w) = view.floats(l.weight)?;
    let name = |v: ValueId| format!("{}.folded", view.graph.value(v).name);
    let shifts = a.shift.iter().any(|&t| t != 0.0);
    let scales = a.scale.iter().any(|&s| s != 1.0);
    let mut op = product.op.clone();
    // The factor of the old bias, and the old bias itself.
    let mut beta = 1.0;
    let old = match &mut op {
        Op::MatMul => {
            if normalises {
                (l.rank == 2).then_some(())?;
                op = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: false };
            } else if shifts || !scales {
                // MatMul and Add of a bias stay two nodes.
                return None;
            }
            None
        }
        Op::Gemm { beta: b, .. } => {
            beta = f64::from(std::mem::replace(b, 1.0));
            product.input(2)
        }
        _ => product.input(2),
    };
    let old = match old {
        None => None,
        Some(v) if matches!(product.op, Op::Gemm { .. }) => Some((v, per_channel(view, v, l)?)),
        Some(v) => Some((v, view.floats(v)?.1.iter().map(|&x| f64::from(x)).collect())),
    };
    let mut constants = Vec::new();
    if scales {
        constants.push((1, name(l.weight), Tensor::of(shape, scaled(&product.op, shape, w, &a.scale)?)));
    }
    if let Some((v, b)) = old {
        let at = |i: usize| if b.len() == 1 { b.first() } else { b.get(i) };
        let new: Option<Vec<f32>> = (0..l.channels).map(|i| narrow(at(i)? * beta * a.scale[i] + a.shift[i])).collect();
        constants.push((2, name(v), Tensor::of(&[l.channels], new?)));
    } else if shifts || normalises {
        let new: Option<Vec<f32>> = a.shift.iter().map(|&t| narrow(t)).collect();
        constants.push((2, format!("{}.bias", product.name), Tensor::of(&[l.channels], new?)));
    }
    Some((op, constants))
}

/// The weights times the scale of the output channel that each belongs to; `None` when one is no number of binary32.
fn scaled(op: &Op, shape: &[usize], w: &[f32], scale: &[f64]) -> Option<Vec<f32>> {
    let inner = |from: usize| shape[from..].iter().product::<usize>().max(1);
    // Runs of elements of one channel, and the channel of each.
    let (run, channel): (usize, Box<dyn Fn(usize) -> usize>) = match op {
        Op::ConvTranspose(ConvTransposeAttrs { conv, .. }) => {
            let (per, inputs) = (shape[1].max(1), (shape[0] / conv.group.max(1)).max(1));
            (inner(2), Box::new(move |run| run / per / inputs * per + run % per))
        }
        Op::Gemm { trans_b: false, .. } | Op::MatMul => (1, Box::new(|run| run % shape[1])),
        _ => (inner(1), Box::new(|run| run)),
    };
    let mut out = Vec::with_capacity(w.len());
    for (i, run) in w.chunks(run).enumerate() {
        let scale = *scale.get(channel(i))?;
        for &x in run {
            out.push(narrow(f64::from(x) * scale)?);
        }
    }
    Some(out)
}
