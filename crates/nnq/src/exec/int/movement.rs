//! Moving codes: layouts, and operators that move elements.
use super::plan::{Layout, Place};
use crate::{
    error::{Error, Result},
    exec::{
        float::{Ctx, eval},
        lower::Grid,
    },
    ir::{Op, Tensor},
};

/// The axes of a shape in the order of memory.
pub(super) fn order(rank: usize, layout: Layout) -> Vec<usize> {
    match layout {
        Layout::RowMajor => (0..rank).collect(),
        Layout::ChannelsLast => std::iter::once(0).chain(2..rank).chain(std::iter::once(1)).collect(),
    }
}

/// The bytes of a value in the order of its shape.
pub(super) fn logical(p: &Place, bytes: &[u8]) -> Vec<u8> {
    if p.layout == Layout::RowMajor {
        return bytes.to_vec();
    }
    let (c, plane) = (p.shape[1], p.shape[2..].iter().product::<usize>());
    let mut out = vec![0; bytes.len()];
    for (x, o) in bytes.chunks((c * plane).max(1)).zip(out.chunks_mut((c * plane).max(1))) {
        for (i, pixel) in x.chunks(c).enumerate() {
            for (k, &b) in pixel.iter().enumerate() {
                o[k * plane + i] = b;
            }
        }
    }
    out
}

/// Writes codes given in the order of the shape.
pub(super) fn store(p: &Place, codes: &[u8], out: &mut [u8]) {
    if p.layout == Layout::RowMajor {
        return out.copy_from_slice(codes);
    }
    let (c, plane) = (p.shape[1], p.shape[2..].iter().product::<usize>());
    for (x, o) in codes.chunks((c * plane).max(1)).zip(out.chunks_mut((c * plane).max(1))) {
        for (i, pixel) in o.chunks_mut(c).enumerate() {
            for (k, b) in pixel.iter_mut().enumerate() {
                *b = x[k * plane + i];
            }
        }
    }
}

/// The result of a move, in the layout that was cheapest to produce.
pub(super) struct Moved {
    bytes: Vec<u8>,
    layout: Layout,
    shape: Vec<usize>,
}

impl Moved {
    /// Puts the result into its place.
    pub(super) fn write(&self, p: &Place, out: &mut [u8]) -> Result<()> {
        if self.shape != p.shape {
            return Err(Error::shape(format!("the move gives a shape {:?}, expected {:?}", self.shape, p.shape)));
        }
        if self.layout == p.layout || p.shape.len() < 3 || same_order(&p.shape) {
            out.copy_from_slice(&self.bytes);
        } else if self.layout == Layout::RowMajor {
            store(p, &self.bytes, out);
        } else {
            let from = Place { layout: self.layout, ..p.clone() };
            out.copy_from_slice(&logical(&from, &self.bytes));
        }
        Ok(())
    }
}

/// Channels last and row-major are the same bytes: one channel, or one position.
fn same_order(shape: &[usize]) -> bool {
    shape.len() < 3 || shape[1] == 1 || shape[2..].iter().product::<usize>() == 1
}

/// Runs a moving operator on codes. `rest` are its further inputs.
pub(super) fn run(
    op: &Op,
    place: &Place,
    bytes: Vec<u8>,
    rest: &[Option<Tensor>],
    grid: Grid,
    outputs: usize,
    ctx: &Ctx,
) -> Result<Vec<Moved>> {
    let rank = place.shape.len();
    let mut rest: Vec<Option<Tensor>> = rest.to_vec();
    if let Op::Pad { .. } = op {
        // Inputs X, pads, value?, axes?: the value as a stored code.
        let value = rest.get(1).and_then(Option::as_ref).map_or(0.0, |t| t.to_f32s().first().copied().unwrap_or(0.0));
        let code = grid.quantize(value) + super::offset(grid.qtype.signed);
        rest.resize(rest.len().max(2), None);
        rest[1] = Some(Tensor::scalar(code.clamp(0, 255) as u8));
    }
    // Slice and Pad keep the axes: they run on the bytes as they lie, with their axes renamed.
    let in_place = (place.layout == Layout::ChannelsLast).then(|| permuted(op, rank, &rest)).flatten();
    let (shape, x, layout) = match &in_place {
        Some(_) => {
            let shape: Vec<usize> = order(rank, place.layout).iter().map(|&a| place.shape[a]).collect();
            (shape, bytes, place.layout)
        }
        None if place.layout == Layout::RowMajor || same_order(&place.shape) => {
            (place.shape.clone(), bytes, Layout::RowMajor)
        }
        None => (place.shape.clone(), logical(place, &bytes), Layout::RowMajor),
    };
    let rest = in_place.unwrap_or(rest);
    let x = super::bytes_tensor(&shape, x);
    let inputs: Vec<Option<&Tensor>> = std::iter::once(Some(&x)).chain(rest.iter().map(Option::as_ref)).collect();
    eval(op, &inputs, outputs, ctx)?
        .into_iter()
        .map(|t| {
            let mut shape = t.shape().to_vec();
            if layout == Layout::ChannelsLast {
                let physical = shape.clone();
                for (i, &a) in order(rank, layout).iter().enumerate() {
                    shape[a] = physical[i];
                }
            }
            Ok(Moved { bytes: t.into_vec::<u8>()?, layout, shape })
        })
        .collect()
}

/// The further inputs of a Slice or a Pad with its axes renamed to those of memory.
fn permuted(op: &Op, rank: usize, rest: &[Option<Tensor>]) -> Option<Vec<Option<Tensor>>> {
    let order = order(rank, Layout::ChannelsLast);
    let mut rest = rest.to_vec();
    let rename = |axes: Option<&Tensor>, n: usize| -> Option<Tensor> {
        let axes = match axes {
            Some(t) => t.to_i64s().ok()?,
            None => (0..n as i64).collect(),
        };
        let renamed: Option<Vec<i64>> = axes
            .iter()
            .map(|&a| {
                let a = usize::try_from(if a < 0 { a + rank as i64 } else { a }).ok()?;
                order.iter().position(|&o| o == a).map(|p| p as i64)
            })
            .collect();
        let renamed = renamed?;
        Some(Tensor::of(&[renamed.len()], renamed))
    };
    let which = match op {
        // rest: starts, ends, axes?, steps?
        Op::Slice => 2,
        // rest: pads, value?, axes?
        Op::Pad { .. } => 2,
        _ => return None,
    };
    let n = match op {
        Op::Slice => rest.first()?.as_ref()?.len(),
        _ => rank,
    };
    let axes = rename(rest.get(which).and_then(Option::as_ref), n)?;
    rest.resize(rest.len().max(which + 1), None);
    rest[which] = Some(axes);
    Some(rest)
}

/// Repeats codes to a shape (broadcasting); both in the order of their shapes.
pub(super) fn expand(p: &Place, codes: Vec<u8>, shape: &[usize], ctx: &Ctx) -> Result<Vec<u8>> {
    if p.shape == shape {
        return Ok(codes);
    }
    let x = super::bytes_tensor(&p.shape, codes);
    let to = Tensor::of::<i64>(&[shape.len()], shape.iter().map(|&d| d as i64).collect());
    one(eval(&Op::Expand, &[Some(&x), Some(&to)], 1, ctx)?)
}

/// Joins codes given in the order of their shapes.
pub(super) fn concat(parts: Vec<(Vec<usize>, Vec<u8>)>, axis: usize, ctx: &Ctx) -> Result<Vec<u8>> {
    let parts: Vec<Tensor> = parts.into_iter().map(|(s, b)| super::bytes_tensor(&s, b)).collect();
    let x: Vec<Option<&Tensor>> = parts.iter().map(Some).collect();
    one(eval(&Op::Concat { axis: axis as i64 }, &x, 1, ctx)?)
}

fn one(mut out: Vec<Tensor>) -> Result<Vec<u8>> {
    out.pop().ok_or_else(|| Error::internal("an operator without output"))?.into_vec::<u8>()
}
