//! What operators do with their inputs before they compute: presence, axes, small integer lists, sizes that may be
//! allocated, half precision by way of f32.
use super::{Ctx, Inputs};
use crate::{
    error::{Error, Result},
    ir::{self, Buf, DType, Data, Tensor},
    with_data,
};
use half::{bf16, f16};

/// Most elements of a tensor that an operator makes. Beyond it lies no real network, but a hostile shape.
const MOST_ELEMENTS: usize = 1 << 31;

/// Elements that one task works on. Fixed, so that nothing depends on the number of threads.
pub(super) const CHUNK: usize = 1 << 14;

/// Input `i`, which the operator cannot do without.
pub(super) fn need<'a>(x: &Inputs<'a>, i: usize, what: &str) -> Result<&'a Tensor> {
    optional(x, i).ok_or_else(|| Error::shape(format!("input {i} ({what}) is missing")))
}

/// Input `i` when it is there.
pub(super) fn optional<'a>(x: &Inputs<'a>, i: usize) -> Option<&'a Tensor> {
    x.get(i).copied().flatten()
}

/// An axis counted from the front; negative ones count from the back.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let r = rank as i64;
    if axis < -r || axis >= r {
        return Err(Error::shape(format!("axis {axis} of a tensor of rank {rank}")));
    }
    Ok(if axis < 0 { axis + r } else { axis } as usize)
}

/// Axes counted from the front, each at most once.
pub(super) fn axes(list: &[i64], rank: usize) -> Result<Vec<usize>> {
    let mut seen = vec![false; rank];
    list.iter()
        .map(|&a| {
            let i = axis(a, rank)?;
            if std::mem::replace(&mut seen[i], true) {
                return Err(Error::shape(format!("axis {i} stands twice in {list:?}")));
            }
            Ok(i)
        })
        .collect()
}

/// A list of integers: shape, axes, pads.
pub(super) fn list(t: &Tensor, what: &str) -> Result<Vec<i64>> {
    if t.shape().len() > 1 {
        return Err(Error::shape(format!("{what} must be a list, found shape {:?}", t.shape())));
    }
    t.to_i64s().map_err(|e| e.at(what))
}

/// One integer, of rank 0 or in a list of one.
pub(super) fn integer(t: &Tensor, what: &str) -> Result<i64> {
    match *list(t, what)? {
        [i] => Ok(i),
        _ => Err(Error::shape(format!("{what} must be one number, found shape {:?}", t.shape()))),
    }
}

/// Non-negative sizes.
pub(super) fn sizes(list: &[i64], what: &str) -> Result<Vec<usize>> {
    list.iter()
        .map(|&d| usize::try_from(d).map_err(|_| Error::shape(format!("{what} {list:?} has a negative size"))))
        .collect()
}

/// The element count of a tensor that is about to be made.
pub(crate) fn room(shape: &[usize]) -> Result<usize> {
    let n = ir::count(shape)?;
    if n > MOST_ELEMENTS {
        return Err(Error::shape(format!("a tensor of shape {shape:?} would have {n} elements"))
            .cure(format!("nnq makes tensors of at most {MOST_ELEMENTS} elements")));
    }
    Ok(n)
}

/// A vector of zeros (or of whatever a recycled buffer held, for f32).
pub(super) fn blank(dtype: DType, n: usize, ctx: &Ctx) -> Data {
    match dtype {
        DType::F32 => Data::F32(ctx.take(n).into()),
        DType::F64 => Data::F64(vec![0.0; n].into()),
        DType::F16 => Data::F16(vec![f16::ZERO; n].into()),
        DType::BF16 => Data::BF16(vec![bf16::ZERO; n].into()),
        DType::I8 => Data::I8(vec![0; n].into()),
        DType::I16 => Data::I16(vec![0; n].into()),
        DType::I32 => Data::I32(vec![0; n].into()),
        DType::I64 => Data::I64(vec![0; n].into()),
        DType::U8 => Data::U8(vec![0; n].into()),
        DType::U16 => Data::U16(vec![0; n].into()),
        DType::U32 => Data::U32(vec![0; n].into()),
        DType::U64 => Data::U64(vec![0; n].into()),
        DType::Bool => Data::Bool(vec![0; n].into()),
    }
}

/// The bytes of data that [`blank`] made.
pub(super) fn bytes_mut(data: &mut Data) -> &mut [u8] {
    with_data!(data, b => {
        if let Buf::Mapped(_) = b {
            *b = Buf::Owned(b.to_vec());
        }
        match b {
            Buf::Owned(v) => bytemuck::cast_slice_mut(v),
            Buf::Mapped(_) => &mut [],
        }
    })
}

/// Runs `$body` with `$T` an unsigned integer as wide as an element: moving elements needs no more types than widths.
macro_rules! by_width {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype.size() {
            1 => {
                type $T = u8;
                $body
            }
            2 => {
                type $T = u16;
                $body
            }
            4 => {
                type $T = u32;
                $body
            }
            _ => {
                type $T = u64;
                $body
            }
        }
    };
}
pub(super) use by_width;

/// A copy of the same elements under another shape.
pub(super) fn same(t: &Tensor, shape: Vec<usize>, ctx: &Ctx) -> Result<Tensor> {
    match t.data() {
        Data::F32(Buf::Owned(v)) => {
            let mut copy = ctx.take(v.len());
            copy.copy_from_slice(v);
            Tensor::new(shape, Data::F32(copy.into()))
        }
        data => Tensor::new(shape, data.clone()),
    }
}

/// Half precision is computed in f32 and rounded back. Answers `None` when input 0 is not of half precision.
pub(super) fn by_f32(x: &Inputs, run: impl FnOnce(&Inputs) -> Result<Tensor>) -> Option<Result<Tensor>> {
    by_f32_all(x, |x| run(x).map(|y| vec![y])).map(|y| y.map(|mut y| y.swap_remove(0)))
}

/// As [`by_f32`] for an operator of several outputs.
pub(super) fn by_f32_all(x: &Inputs, run: impl FnOnce(&Inputs) -> Result<Vec<Tensor>>) -> Option<Result<Vec<Tensor>>> {
    let half = optional(x, 0)?.dtype();
    if !matches!(half, DType::F16 | DType::BF16) {
        return None;
    }
    let wide: Vec<Option<Tensor>> = x
        .iter()
        .map(|t| t.map(|t| if t.dtype() == half { Tensor::of::<f32>(t.shape(), t.to_f32s()) } else { t.clone() }))
        .collect();
    let y = run(&wide.iter().map(Option::as_ref).collect::<Vec<_>>());
    Some(y.map(|y| y.into_iter().map(|y| narrow(y, half)).collect()))
}

/// An f32 tensor in half precision; any other tensor as it is.
pub(super) fn narrow(y: Tensor, half: DType) -> Tensor {
    match (y.data(), half) {
        (Data::F32(v), DType::F16) => Tensor::of::<f16>(y.shape(), v.iter().map(|&v| f16::from_f32(v)).collect()),
        (Data::F32(v), DType::BF16) => Tensor::of::<bf16>(y.shape(), v.iter().map(|&v| bf16::from_f32(v)).collect()),
        _ => y,
    }
}

/// All given inputs have the element type of the first.
pub(super) fn same_type(x: &[&Tensor]) -> Result<()> {
    match x.iter().find(|t| t.dtype() != x[0].dtype()) {
        Some(t) => Err(Error::shape(format!("element types {} and {} do not go together", x[0].dtype(), t.dtype()))),
        None => Ok(()),
    }
}

/// What an operator answers to an element type it does not take.
pub(super) fn not_on<T>(what: impl std::fmt::Debug, dtype: DType) -> Result<T> {
    Err(Error::unsupported(format!("{what:?} is not defined on {dtype}")))
}

/// The shape that shapes broadcast to, by NumPy's rule.
pub(super) fn broadcast(shapes: &[&[usize]]) -> Result<Vec<usize>> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1; rank];
    for shape in shapes {
        let skip = rank - shape.len();
        for (o, &d) in out[skip..].iter_mut().zip(*shape) {
            if *o == 1 {
                *o = d;
            } else if d != 1 && d != *o {
                return Err(Error::shape(format!("shapes {shapes:?} cannot be broadcast together")));
            }
        }
    }
    Ok(out)
}

/// Strides with which a tensor of shape `from` is read as `to`, which it broadcasts to.
pub(super) fn spread(from: &[usize], to: &[usize]) -> Vec<usize> {
    let mut strides = vec![0; to.len()];
    let mut stride = 1usize;
    for (s, &d) in strides.iter_mut().rev().zip(from.iter().rev()) {
        if d != 1 {
            *s = stride;
        }
        stride = stride.saturating_mul(d);
    }
    strides
}
