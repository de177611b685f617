//! Operators that move elements.
use super::{Values, no_gradient, shape};
use crate::backend::{self, Kernels, Var};
use burn::backend::{
    Autodiff, Slice,
    ops::{FloatTensorOps as _, PadMode as BurnPad},
};
use nnq::{
    Error, Result,
    ir::{Node, Op, op::PadMode},
};

type A<B> = Autodiff<B>;

pub(super) fn arrange<B: Kernels>(values: &Values<B>, node: &Node) -> Result<Var<B>> {
    if let Op::Concat { axis } = node.op {
        return concat(values, node, axis);
    }
    let x = values.input(node, 0)?;
    let s = backend::dims::<B>(&x);
    match &node.op {
        Op::Flatten { axis } => {
            let at = usize::try_from(if *axis < 0 { axis + s.len() as i64 } else { *axis }).ok();
            let at = at.filter(|&a| a <= s.len()).ok_or_else(|| Error::shape(format!("axis {axis} of {s:?}")))?;
            Ok(backend::reshaped::<B>(x, &[s[..at].iter().product(), s[at..].iter().product()]))
        }
        Op::Reshape { allowzero } => {
            let wanted = values.integers(node, 1)?.ok_or_else(|| Error::malformed("the shape is missing"))?;
            Ok(backend::reshaped::<B>(x, &shape::resolve(&wanted, &s, *allowzero)?))
        }
        Op::Squeeze => {
            let axes = values.integers(node, 1)?;
            let axes: Vec<usize> = match axes {
                Some(axes) => axes.into_iter().map(|a| shape::axis(a, s.len())).collect::<Result<_>>()?,
                None => (0..s.len()).filter(|&i| s[i] == 1).collect(),
            };
            if axes.iter().any(|&a| s[a] != 1) {
                return Err(Error::shape(format!("axes {axes:?} of {s:?} are not all of length 1")));
            }
            let left: Vec<usize> = (0..s.len()).filter(|i| !axes.contains(i)).map(|i| s[i]).collect();
            Ok(backend::reshaped::<B>(x, &left))
        }
        Op::Unsqueeze => {
            let axes = values.integers(node, 1)?.ok_or_else(|| Error::malformed("the axes are missing"))?;
            let rank = s.len() + axes.len();
            let axes = axes.into_iter().map(|a| shape::axis(a, rank)).collect::<Result<Vec<_>>>()?;
            let mut old = s.iter();
            let wide = (0..rank).map(|i| if axes.contains(&i) { Some(1) } else { old.next().copied() });
            let wide =
                wide.collect::<Option<Vec<usize>>>().ok_or_else(|| Error::shape("an axis stands there twice"))?;
            if wide.iter().product::<usize>() != s.iter().product::<usize>() {
                return Err(Error::shape("an axis stands there twice"));
            }
            Ok(backend::reshaped::<B>(x, &wide))
        }
        Op::Transpose { perm } => {
            let order: Vec<usize> = if perm.is_empty() { (0..s.len()).rev().collect() } else { perm.clone() };
            let mut sorted = order.clone();
            sorted.sort_unstable();
            if sorted != (0..s.len()).collect::<Vec<_>>() {
                return Err(Error::shape(format!("the order {order:?} of {} axes", s.len())));
            }
            Ok(A::<B>::float_permute(x, &order))
        }
        Op::Slice => slice(values, node, x, &s),
        Op::Pad { mode: PadMode::Constant } => pad(values, node, x, &s),
        _ => Err(no_gradient(node)),
    }
}

fn concat<B: Kernels>(values: &Values<B>, node: &Node, axis: i64) -> Result<Var<B>> {
    let parts = (0..node.inputs.len()).map(|i| values.input(node, i)).collect::<Result<Vec<_>>>()?;
    let shapes: Vec<Vec<usize>> = parts.iter().map(|x| backend::dims::<B>(x)).collect();
    let first = shapes.first().ok_or_else(|| Error::malformed("nothing to join"))?;
    let axis = shape::axis(axis, first.len())?;
    let fits = |s: &Vec<usize>| s.len() == first.len() && (0..s.len()).all(|i| i == axis || s[i] == first[i]);
    if !shapes.iter().all(fits) {
        return Err(Error::shape(format!("shapes {shapes:?} cannot be joined along axis {axis}")));
    }
    Ok(A::<B>::float_cat(parts, axis))
}

/// The pieces of a Split.
pub(super) fn split<B: Kernels>(values: &Values<B>, node: &Node, axis: i64) -> Result<Vec<Var<B>>> {
    let x = values.input(node, 0)?;
    let s = backend::dims::<B>(&x);
    let axis = shape::axis(axis, s.len())?;
    let n = node.outputs.len().max(1);
    let sizes: Vec<usize> = match values.integers(node, 1)? {
        Some(sizes) => sizes.iter().map(|&d| usize::try_from(d).unwrap_or(usize::MAX)).collect(),
        // The last piece may be smaller.
        None => {
            let each = s[axis].div_ceil(n);
            (0..n).map(|i| each.min(s[axis].saturating_sub(i * each))).collect()
        }
    };
    if sizes.len() != node.outputs.len() || sizes.iter().try_fold(0usize, |a, &d| a.checked_add(d)) != Some(s[axis]) {
        return Err(Error::shape(format!("pieces {sizes:?} of {} along axis {axis}", s[axis])));
    }
    let mut at = 0;
    let piece = |size: usize| {
        let from = at;
        at += size;
        A::<B>::float_slice(x.clone(), &along(&s, axis, from..from + size))
    };
    Ok(sizes.into_iter().map(piece).collect())
}

/// A range of one axis, all of the others.
pub(super) fn along(s: &[usize], axis: usize, range: std::ops::Range<usize>) -> Vec<Slice> {
    (0..s.len()).map(|i| if i == axis { Slice::from(range.clone()) } else { Slice::from(0..s[i]) }).collect()
}

fn slice<B: Kernels>(values: &Values<B>, node: &Node, mut x: Var<B>, s: &[usize]) -> Result<Var<B>> {
    let missing = || Error::malformed("its ends are missing");
    let starts = values.integers(node, 1)?.ok_or_else(missing)?;
    let ends = values.integers(node, 2)?.ok_or_else(missing)?;
    let axes = values.integers(node, 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = values.integers(node, 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return Err(Error::shape("starts, ends, axes and steps differ in number"));
    }
    if steps.iter().any(|&step| step < 1) {
        return Err(Error::unsupported("steps backwards have no gradient here"));
    }
    for (((start, end), axis), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
        let axis = shape::axis(axis, s.len())?;
        let size = s[axis] as i64;
        let place = |x: i64| (if x < 0 { x.saturating_add(size) } else { x }).clamp(0, size) as usize;
        let (from, to) = (place(start), place(end));
        if from >= to {
            return Err(Error::shape(format!("nothing is left of axis {axis}")));
        }
        let now = backend::dims::<B>(&x);
        let mut slices = along(&now, axis, from..to);
        slices[axis].step = isize::try_from(step).unwrap_or(isize::MAX);
        x = A::<B>::float_slice(x, &slices);
    }
    Ok(x)
}

fn pad<B: Kernels>(values: &Values<B>, node: &Node, x: Var<B>, s: &[usize]) -> Result<Var<B>> {
    let pads = values.integers(node, 1)?.ok_or_else(|| Error::malformed("the pads are missing"))?;
    let axes = match values.integers(node, 3)? {
        Some(axes) => axes.into_iter().map(|a| shape::axis(a, s.len())).collect::<Result<Vec<_>>>()?,
        None => (0..s.len()).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(Error::shape(format!("{} pads for {} axes", pads.len(), axes.len())));
    }
    let fill = match node.input(2).map(|v| values.forward.graph.constant(v)) {
        None => 0.0,
        Some(Some(t)) if t.len() == 1 => t.to_f32s()[0],
        _ => return Err(Error::unsupported("a filling that is no constant")),
    };
    let mut each = vec![(0, 0); s.len()];
    for (i, &axis) in axes.iter().enumerate() {
        let side = |k: usize| {
            usize::try_from(pads[k]).map_err(|_| Error::unsupported("negative padding has no gradient here"))
        };
        each[axis] = (side(i)?, side(i + axes.len())?);
    }
    Ok(A::<B>::float_pad(x, &each, BurnPad::Constant(fill)))
}
