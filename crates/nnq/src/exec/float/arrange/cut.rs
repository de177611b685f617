//! Concat, Split, Slice.
use super::{
    super::{
        Ctx, Inputs,
        args::{self, blank, by_width, bytes_mut, room},
    },
    Axis, Plan, around, strides,
};
use crate::{
    error::{Error, Result},
    ir::Tensor,
};
use rayon::prelude::*;

pub(in crate::exec::float) fn concat(axis: i64, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let parts: Vec<&Tensor> = (0..x.len()).map(|i| args::need(x, i, "input")).collect::<Result<_>>()?;
    let Some(first) = parts.first() else { return Err(Error::shape("Concat of nothing")) };
    args::same_type(&parts)?;
    let axis = args::axis(axis, first.shape().len())?;
    let mut shape = first.shape().to_vec();
    for t in &parts[1..] {
        let fits = t.shape().len() == shape.len() && (0..shape.len()).all(|i| i == axis || t.shape()[i] == shape[i]);
        let sum = shape[axis].checked_add(*t.shape().get(axis).unwrap_or(&0)).filter(|_| fits);
        shape[axis] = sum.ok_or_else(|| {
            let shapes: Vec<_> = parts.iter().map(|t| t.shape()).collect();
            Error::shape(format!("shapes {shapes:?} cannot be joined along axis {axis}"))
        })?;
    }
    let dtype = first.dtype();
    let mut out = blank(dtype, room(&shape)?, ctx);
    let (_, _, inner) = around(&shape, axis);
    let row = shape[axis].saturating_mul(inner);
    by_width!(dtype, T => {
        let parts: Vec<(usize, &[T])> = parts
            .iter()
            .map(|t| (t.shape()[axis].saturating_mul(inner), bytemuck::cast_slice(t.data().as_bytes())))
            .collect();
        let out: &mut [T] = bytemuck::cast_slice_mut(bytes_mut(&mut out));
        if row > 0 {
            let fill = |(i, mut d): (usize, &mut [T])| {
                for &(n, src) in &parts {
                    let (head, tail) = d.split_at_mut(n);
                    head.copy_from_slice(&src[i * n..][..n]);
                    d = tail;
                }
            };
            if out.len() <= args::CHUNK {
                out.chunks_mut(row).enumerate().for_each(fill);
            } else {
                out.par_chunks_mut(row).enumerate().with_min_len((args::CHUNK / row).max(1)).for_each(fill);
            }
        }
    });
    Tensor::new(shape, out)
}

/// The move of a range along one axis: `len` steps from `start`, `step` apart.
fn range(t: &Tensor, cuts: &[(usize, isize, usize)], ctx: &Ctx) -> Result<Tensor> {
    let strides = strides(t.shape());
    let mut base = 0;
    let axes = cuts.iter().zip(&strides).map(|(&(start, step, len), &stride)| {
        if len > 0 {
            base += start.saturating_mul(stride) as isize;
        }
        // A step is only followed when there are two elements; it may be as large as an i64.
        let step = if len > 1 { step.saturating_mul(stride as isize) } else { 0 };
        Axis::Even { len, step }
    });
    let axes = axes.collect();
    Plan { shape: cuts.iter().map(|c| c.2).collect(), base, axes }.apply(t, None, ctx)
}

/// Every axis as it is.
fn whole(shape: &[usize]) -> Vec<(usize, isize, usize)> {
    shape.iter().map(|&d| (0, 1, d)).collect()
}

pub(in crate::exec::float) fn split(axis: i64, x: &Inputs, outputs: usize, ctx: &Ctx) -> Result<Vec<Tensor>> {
    let t = args::need(x, 0, "input")?;
    let axis = args::axis(axis, t.shape().len())?;
    let dim = t.shape()[axis];
    let wrong = |what: String| Err(Error::shape(format!("{what} of axis {axis} of shape {:?}", t.shape())));
    let pieces = match args::optional(x, 1) {
        Some(s) => {
            let pieces = args::sizes(&args::list(s, "split")?, "split")?;
            let sum = pieces.iter().try_fold(0usize, |n, &p| n.checked_add(p));
            if sum != Some(dim) || pieces.len() != outputs {
                return wrong(format!("pieces {pieces:?} for {outputs} outputs"));
            }
            pieces
        }
        None => {
            // Equal pieces; the last one takes what is left.
            let piece = dim.div_ceil(outputs.max(1));
            let before = piece.saturating_mul(outputs.saturating_sub(1));
            if outputs == 0 || before > dim {
                return wrong(format!("{outputs} equal pieces"));
            }
            let mut pieces = vec![piece; outputs];
            pieces[outputs - 1] = dim - before;
            pieces
        }
    };
    let mut start = 0;
    pieces
        .iter()
        .map(|&len| {
            let mut cuts = whole(t.shape());
            cuts[axis] = (start, 1, len);
            start += len;
            range(t, &cuts, ctx)
        })
        .collect()
}

pub(in crate::exec::float) fn slice(x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "data")?;
    let starts = args::list(args::need(x, 1, "starts")?, "starts")?;
    let ends = args::list(args::need(x, 2, "ends")?, "ends")?;
    let rank = t.shape().len();
    let axes = match args::optional(x, 3) {
        Some(a) => args::axes(&args::list(a, "axes")?, rank)?,
        None => (0..starts.len().min(rank)).collect(),
    };
    let steps = match args::optional(x, 4) {
        Some(s) => args::list(s, "steps")?,
        None => vec![1; starts.len()],
    };
    if [ends.len(), axes.len(), steps.len()].iter().any(|&n| n != starts.len()) {
        return Err(Error::shape(format!(
            "starts {starts:?}, ends {ends:?}, axes {axes:?} and steps {steps:?} have different lengths for rank {rank}"
        )));
    }
    let mut cuts = whole(t.shape());
    for (((&start, &end), &axis), &step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        cuts[axis] = cut(t.shape()[axis], start, end, step)?;
    }
    range(t, &cuts, ctx)
}

/// Start, step and length of one axis of a slice. Negative bounds count from the end; bounds outside are clamped.
fn cut(dim: usize, start: i64, end: i64, step: i64) -> Result<(usize, isize, usize)> {
    let d = dim as i128;
    let from_end = |i: i64| if i < 0 { i as i128 + d } else { i as i128 };
    let (start, end, step) = (from_end(start), from_end(end), step as i128);
    let (start, len) = match step {
        0 => return Err(Error::shape("Slice with a step of 0")),
        1.. => {
            let start = start.clamp(0, d);
            (start, (end.clamp(0, d) - start + step - 1).max(0) / step)
        }
        _ => {
            let start = start.clamp(-1, d - 1);
            (start, (start - end.clamp(-1, d - 1) - step - 1).max(0) / -step)
        }
    };
    Ok((start.max(0) as usize, step as isize, len as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::float::{Ctx, eval};
    use crate::ir::Op;
    use proptest::prelude::*;

    fn ints(v: &[i64]) -> Tensor {
        Tensor::of(&[v.len()], v.to_vec())
    }

    fn counted(shape: &[usize]) -> Tensor {
        Tensor::of(shape, (0..shape.iter().product::<usize>() as i32).collect())
    }

    fn sliced(t: &Tensor, starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]) -> Result<Tensor> {
        let (s, e, a, p) = (ints(starts), ints(ends), ints(axes), ints(steps));
        slice(&[Some(t), Some(&s), Some(&e), Some(&a), Some(&p)], &Ctx::new())
    }

    /// Python's rule, walked one index at a time.
    fn python(dim: i64, start: i64, end: i64, step: i64) -> Vec<i64> {
        let fix = |i: i64, lo: i64, hi: i64| (if i < 0 { i.saturating_add(dim) } else { i }).clamp(lo, hi);
        let mut out = vec![];
        if step > 0 {
            let (mut i, end) = (fix(start, 0, dim), fix(end, 0, dim));
            while i < end {
                out.push(i);
                i = i.saturating_add(step);
            }
        } else {
            let (mut i, end) = (fix(start, -1, dim - 1), fix(end, -1, dim - 1));
            while i > end {
                out.push(i);
                i = i.saturating_add(step);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn slice_takes_the_indices_python_takes(
            dim in 0i64..7,
            start in prop_oneof![-9i64..9, Just(i64::MIN), Just(i64::MAX)],
            end in prop_oneof![-9i64..9, Just(i64::MIN), Just(i64::MAX)],
            step in prop_oneof![-4i64..-1, 1i64..4, Just(i64::MIN), Just(i64::MAX), Just(-1i64)],
        ) {
            let t = counted(&[2, dim as usize, 3]);
            let y = sliced(&t, &[start], &[end], &[-2], &[step]).unwrap();
            let wanted = python(dim, start, end, step);
            prop_assert_eq!(y.shape(), &[2, wanted.len(), 3]);
            let mut expected = vec![];
            for a in 0..2 {
                for &i in &wanted {
                    for b in 0..3 {
                        expected.push(((a * dim + i) * 3 + b) as i32);
                    }
                }
            }
            prop_assert_eq!(y.as_slice::<i32>().unwrap(), &expected[..]);
        }

        #[test]
        fn splitting_and_joining_gives_the_tensor_back(a in 1usize..4, b in 1usize..9, c in 1usize..4, n in 1usize..4) {
            let t = counted(&[a, b, c]);
            let ctx = Ctx::new();
            match eval(&Op::Split { axis: 1 }, &[Some(&t)], n, &ctx) {
                Ok(pieces) => {
                    prop_assert_eq!(pieces.len(), n);
                    let x: Vec<_> = pieces.iter().map(Some).collect();
                    let y = concat(-2, &x, &ctx).unwrap();
                    prop_assert_eq!(y.shape(), t.shape());
                    prop_assert_eq!(y.as_slice::<i32>().unwrap(), t.as_slice::<i32>().unwrap());
                    prop_assert!(pieces.iter().all(|p| p.shape()[1] <= b.div_ceil(n)));
                }
                Err(_) => prop_assert!(b.div_ceil(n) * (n - 1) > b),
            }
        }
    }

    #[test]
    fn slices_that_cannot_be_are_errors() {
        let t = counted(&[3, 2]);
        assert!(sliced(&t, &[0], &[1], &[2], &[1]).is_err());
        assert!(sliced(&t, &[0], &[1], &[0], &[0]).is_err());
        assert!(sliced(&t, &[0, 0], &[1], &[0], &[1]).is_err());
        assert!(sliced(&t, &[0, 0], &[1, 1], &[0, -2], &[1, 1]).is_err());
        let s = ints(&[0, 0, 0]);
        assert!(slice(&[Some(&t), Some(&s), Some(&s)], &Ctx::new()).is_err());
    }

    #[test]
    fn concat_and_split_refuse_what_does_not_fit() {
        let (a, b, c) = (counted(&[2, 3]), counted(&[2, 2]), Tensor::of(&[2, 3], vec![0f32; 6]));
        let ctx = Ctx::new();
        let y = concat(1, &[Some(&a), Some(&b)], &ctx).unwrap();
        assert_eq!(y.as_slice::<i32>().unwrap(), [0, 1, 2, 0, 1, 3, 4, 5, 2, 3]);
        assert!(concat(0, &[Some(&a), Some(&b)], &ctx).is_err());
        assert!(concat(0, &[Some(&a), Some(&c)], &ctx).is_err());
        assert!(concat(0, &[Some(&a), None], &ctx).is_err());
        assert!(concat(0, &[], &ctx).is_err());
        assert!(split(1, &[Some(&a), Some(&ints(&[1, 1]))], 2, &ctx).is_err());
        assert!(split(1, &[Some(&a), Some(&ints(&[4, -1]))], 2, &ctx).is_err());
        assert!(split(1, &[Some(&a), Some(&ints(&[i64::MAX, i64::MAX]))], 2, &ctx).is_err());
    }
}
