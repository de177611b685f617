//! Pooling and reductions.
use super::{Values, no_gradient, shape};
use crate::backend::{self, Kernels, Var};
use burn::backend::{
    Autodiff,
    ops::{FloatTensorOps as _, ModuleOps as _, PadMode},
};
use nnq::{
    Error, Result,
    ir::{
        Node, Op,
        op::{PoolAttrs, Reduction, Window},
    },
};

type A<B> = Autodiff<B>;

/// A window over two axes, and an input that is padded where both sides differ.
struct Plane<B: Kernels> {
    x: Var<B>,
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
    pads: [usize; 2],
    output: Vec<usize>,
    rank: usize,
}

/// Brings a window into burn's form; unequal padding is filled with `fill` beforehand, or refused where there is no such number.
fn plane<B: Kernels>(x: Var<B>, attrs: &PoolAttrs, fill: Option<f32>) -> Result<Plane<B>> {
    let s = backend::dims::<B>(&x);
    let rank = s.len();
    if !matches!(rank, 3 | 4) {
        return Err(Error::unsupported(format!("pooling over {} axes", rank.saturating_sub(2))));
    }
    let Window { kernel, strides, dilations, begin, end, output, .. } = attrs.resolve(&s[2..])?;
    let two = |list: &[usize]| if rank == 3 { [1, list[0]] } else { [list[0], list[1]] };
    let pads = |list: &[i64]| -> Result<[usize; 2]> {
        let each = list.iter().map(|&p| usize::try_from(p).map_err(|_| Error::unsupported("negative padding")));
        let each = each.collect::<Result<Vec<_>>>()?;
        Ok(if rank == 3 { [0, each[0]] } else { [each[0], each[1]] })
    };
    let (begin, end) = (pads(&begin)?, pads(&end)?);
    let mut x = shape::planes::<B>(x);
    let mut pads = begin;
    // Burn pads both sides alike, and less than a kernel.
    let kernel = two(&kernel);
    if begin != end || attrs.ceil_mode || (0..2).any(|i| 2 * begin[i] > kernel[i]) {
        let fill = fill.filter(|_| !attrs.ceil_mode).ok_or_else(|| {
            Error::unsupported(format!("padding {begin:?} before and {end:?} after, rounded up: {}", attrs.ceil_mode))
                .cure("pad the same on both sides, or count the padding")
        })?;
        let of = |i: usize| (begin[i], end[i]);
        x = A::<B>::float_pad(x, &[(0, 0), (0, 0), of(0), of(1)], PadMode::Constant(fill));
        pads = [0, 0];
    }
    Ok(Plane { x, kernel, strides: two(&strides), dilations: two(&dilations), pads, output, rank })
}

/// The result as the graph has it.
fn done<B: Kernels>(y: Var<B>, output: &[usize], rank: usize) -> Result<Var<B>> {
    let y = shape::lines::<B>(y, rank);
    let found = backend::dims::<B>(&y);
    if found[2..] != *output {
        return Err(Error::internal(format!("pooling gave {found:?}, expected {output:?}")));
    }
    Ok(y)
}

pub(super) fn max<B: Kernels>(x: Var<B>, attrs: &PoolAttrs) -> Result<Var<B>> {
    let p = plane::<B>(x, attrs, Some(f32::MIN))?;
    done::<B>(A::<B>::max_pool2d(p.x, p.kernel, p.strides, p.pads, p.dilations, false), &p.output, p.rank)
}

pub(super) fn average<B: Kernels>(x: Var<B>, attrs: &PoolAttrs, count_padding: bool) -> Result<Var<B>> {
    let p = plane::<B>(x, attrs, count_padding.then_some(0.0))?;
    if p.dilations != [1, 1] {
        return Err(Error::unsupported("averages over dilated windows"));
    }
    done::<B>(A::<B>::avg_pool2d(p.x, p.kernel, p.strides, p.pads, count_padding, false), &p.output, p.rank)
}

pub(super) fn global_average<B: Kernels>(x: Var<B>) -> Result<Var<B>> {
    let s = backend::dims::<B>(&x);
    if s.len() < 3 || s[2..].contains(&0) {
        return Err(Error::shape(format!("an average over all positions of a shape {s:?}")));
    }
    let flat = backend::reshaped::<B>(x, &[s[0], s[1], s[2..].iter().product()]);
    let mean = A::<B>::float_mean_dim(flat, 2);
    Ok(backend::reshaped::<B>(mean, &[&s[..2], &vec![1; s.len() - 2]].concat()))
}

/// Sums and means over axes.
pub(super) fn reduce<B: Kernels>(values: &Values<B>, node: &Node) -> Result<Var<B>> {
    let Op::Reduce { kind: kind @ (Reduction::Mean | Reduction::Sum), keepdims, noop_with_empty_axes } = node.op else {
        return Err(no_gradient(node));
    };
    let mut x = values.input(node, 0)?;
    let s = backend::dims::<B>(&x);
    let axes = values.integers(node, 1)?.unwrap_or_default();
    let mut axes = axes.into_iter().map(|a| shape::axis(a, s.len())).collect::<Result<Vec<_>>>()?;
    if axes.is_empty() {
        if noop_with_empty_axes {
            return Ok(x);
        }
        axes = (0..s.len()).collect();
    }
    for &a in &axes {
        x = if kind == Reduction::Mean { A::<B>::float_mean_dim(x, a) } else { A::<B>::float_sum_dim(x, a) };
    }
    if !keepdims {
        let left: Vec<usize> = (0..s.len()).filter(|i| !axes.contains(i)).map(|i| s[i]).collect();
        x = backend::reshaped::<B>(x, &left);
    }
    Ok(x)
}
