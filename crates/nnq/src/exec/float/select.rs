//! Gather, scatter, one-hot.
use super::{
    Ctx, Inputs,
    args::{self, blank, by_width, bytes_mut, room},
    arrange::{Axis, Plan, strides},
    unary,
};
use crate::{
    error::{Error, Result},
    ir::{DType, Tensor},
};

/// Indices counted from the front; negative ones count from the end.
fn indices(t: &Tensor, size: usize) -> Result<Vec<usize>> {
    let d = size as i64;
    let fix = |i: i64| {
        let j = if i < 0 { i + d } else { i };
        usize::try_from(j)
            .ok()
            .filter(|&j| j < size)
            .ok_or_else(|| Error::value(format!("index {i} of {size} elements")))
    };
    t.to_i64s().map_err(|e| e.at("indices"))?.into_iter().map(fix).collect()
}

pub(super) fn gather(axis: i64, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let (t, at) = (args::need(x, 0, "data")?, args::need(x, 1, "indices")?);
    let axis = args::axis(axis, t.shape().len())?;
    let shape = [&t.shape()[..axis], at.shape(), &t.shape()[axis + 1..]].concat();
    let strides = strides(t.shape());
    let mut axes: Vec<Axis> = t.shape().iter().zip(&strides).map(|(&d, &s)| Axis::even(d, s)).collect();
    let picked = indices(at, t.shape()[axis])?;
    axes[axis] = Axis::Listed(picked.into_iter().map(|i| i.saturating_mul(strides[axis])).collect());
    Plan { shape, base: 0, axes }.apply(t, None, ctx)
}

/// For GatherElements and ScatterElements: where in `data` each element of `at` points.
pub(super) fn pointed(data: &Tensor, at: &Tensor, axis: i64) -> Result<Vec<usize>> {
    let shape = data.shape();
    let axis = args::axis(axis, shape.len())?;
    let fits = at.shape().len() == shape.len() && (0..shape.len()).all(|i| i == axis || at.shape()[i] <= shape[i]);
    if !fits {
        return Err(Error::shape(format!("indices of shape {:?} into shape {shape:?} along axis {axis}", at.shape())));
    }
    let strides = strides(shape);
    let mut picked = indices(at, shape[axis])?;
    let mut index = vec![0; shape.len()];
    // Of the other axes together.
    let mut offset = 0;
    for p in &mut picked {
        *p = offset + *p * strides[axis];
        for d in (0..index.len()).rev() {
            let stride = if d == axis { 0 } else { strides[d] };
            index[d] += 1;
            offset += stride;
            if index[d] < at.shape()[d] {
                break;
            }
            offset -= index[d] * stride;
            index[d] = 0;
        }
    }
    Ok(picked)
}

pub(super) fn gather_elements(axis: i64, x: &Inputs) -> Result<Tensor> {
    let (t, at) = (args::need(x, 0, "data")?, args::need(x, 1, "indices")?);
    let axes = vec![Axis::Listed(pointed(t, at, axis)?)];
    Plan { shape: at.shape().to_vec(), base: 0, axes }.apply(t, None, &Ctx::new())
}

pub(super) fn gather_nd(batch: usize, x: &Inputs) -> Result<Tensor> {
    let (t, at) = (args::need(x, 0, "data")?, args::need(x, 1, "indices")?);
    let (shape, ashape) = (t.shape(), at.shape());
    let wrong = |why: &str| {
        Err(Error::shape(format!("GatherND of shape {shape:?} by {ashape:?} with {batch} batch dimensions: {why}")))
    };
    let Some(&depth) = ashape.last() else { return wrong("indices without a dimension") };
    if batch >= shape.len().min(ashape.len()) || shape[..batch] != ashape[..batch] {
        return wrong("the batch dimensions differ");
    }
    if depth == 0 || depth > shape.len() - batch {
        return wrong("an index must have 1 to as many numbers as there are dimensions");
    }
    let out = [&ashape[..ashape.len() - 1], &shape[batch + depth..]].concat();
    if room(&out)? == 0 {
        return Tensor::new(out, blank(t.dtype(), 0, &Ctx::new()));
    }
    let offsets = spots(shape, at, batch)?;
    let axes = vec![Axis::Listed(offsets), Axis::even(shape[batch + depth..].iter().product(), 1)];
    Plan { shape: out, base: 0, axes }.apply(t, None, &Ctx::new())
}

/// For GatherND and ScatterND: where in a tensor of this shape the slice of each index begins. The batch axes fit, and an index is no
/// longer than the axes behind them.
pub(super) fn spots(shape: &[usize], at: &Tensor, batch: usize) -> Result<Vec<usize>> {
    let depth = at.shape().last().copied().unwrap_or(0).max(1);
    let strides = strides(shape);
    let batches: usize = shape[..batch].iter().product();
    let per_batch = (at.len() / depth / batches.max(1)).max(1);
    let step = shape[batch..].iter().product::<usize>();
    let mut offsets = Vec::with_capacity(at.len() / depth);
    for (k, index) in at.to_i64s().map_err(|e| e.at("indices"))?.chunks(depth).enumerate() {
        let mut offset = k / per_batch * step;
        for (j, &i) in index.iter().enumerate() {
            let d = shape[batch + j] as i64;
            let i = if i < 0 { i + d } else { i };
            if i < 0 || i >= d {
                return Err(Error::value(format!("index {index:?} into {:?}", &shape[batch..])));
            }
            offset += i as usize * strides[batch + j];
        }
        offsets.push(offset);
    }
    Ok(offsets)
}

pub(super) fn non_zero(x: &Inputs) -> Result<Tensor> {
    let t = args::need(x, 0, "X")?;
    let set = args::need(&[Some(&unary::cast(DType::Bool, true, &[Some(t)], &Ctx::new())?)], 0, "X")?.to_i64s()?;
    let hits: Vec<usize> = (0..set.len()).filter(|&i| set[i] != 0).collect();
    let strides = strides(t.shape());
    let rows = t.shape().iter().zip(&strides);
    let places: Vec<i64> = rows.flat_map(|(&d, &s)| hits.iter().map(move |&i| (i / s % d) as i64)).collect();
    Ok(Tensor::of(&[t.shape().len(), hits.len()], places))
}

pub(super) fn compress(axis: Option<i64>, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let (t, keep) = (args::need(x, 0, "input")?, args::need(x, 1, "condition")?);
    if keep.dtype() != DType::Bool || keep.shape().len() != 1 {
        return Err(Error::shape(format!(
            "a condition of {} {:?}, expected a list of bool",
            keep.dtype(),
            keep.shape()
        )));
    }
    let picked: Vec<i64> = (0i64..).zip(keep.to_i64s()?).filter(|p| p.1 != 0).map(|p| p.0).collect();
    let picked = Tensor::of(&[picked.len()], picked);
    let (flat, axis) = match axis {
        Some(axis) => (None, axis),
        None => (Some(args::same(t, vec![t.len()], ctx)?), 0),
    };
    gather(axis, &[Some(flat.as_ref().unwrap_or(t)), Some(&picked)], ctx)
}

pub(super) fn reverse_sequence(batch: i64, time: i64, x: &Inputs) -> Result<Tensor> {
    let (t, lengths) = (args::need(x, 0, "input")?, args::need(x, 1, "sequence_lens")?);
    let rank = t.shape().len();
    let (batch, time) = (args::axis(batch, rank)?, args::axis(time, rank)?);
    if batch == time || lengths.shape() != [t.shape()[batch]] {
        return Err(Error::shape(format!(
            "axes {batch} (batch) and {time} (time) of {:?} with lengths of shape {:?}",
            t.shape(),
            lengths.shape()
        )));
    }
    let strides = strides(t.shape());
    let most = t.shape()[time] as i64;
    let lengths = lengths.to_i64s().map_err(|e| e.at("sequence_lens"))?;
    if let Some(n) = lengths.iter().find(|n| !(0..=most).contains(*n)) {
        return Err(Error::value(format!("a sequence of length {n} of {most} times")));
    }
    let from: Vec<usize> = (0..t.len())
        .map(|i| {
            let (b, at) = (i / strides[batch] % t.shape()[batch], i / strides[time] % t.shape()[time]);
            let n = lengths[b] as usize;
            if at < n { i + (n - 1 - at) * strides[time] - at * strides[time] } else { i }
        })
        .collect();
    Plan { shape: t.shape().to_vec(), base: 0, axes: vec![Axis::Listed(from)] }.apply(t, None, &Ctx::new())
}

pub(super) fn one_hot(axis: i64, x: &Inputs) -> Result<Tensor> {
    let (at, depth) = (args::need(x, 0, "indices")?, args::need(x, 1, "depth")?);
    let values = args::need(x, 2, "values")?;
    // Indices and depth may be floating-point numbers.
    let whole = |t: &Tensor| unary::cast(DType::I64, true, &[Some(t)], &Ctx::new());
    let depth = args::integer(&whole(depth)?, "depth")?;
    let size = usize::try_from(depth).map_err(|_| Error::value(format!("OneHot with a depth of {depth}")))?;
    if values.shape() != [2] {
        return Err(Error::shape(format!("the values must be two, off and on; found shape {:?}", values.shape())));
    }
    let axis = args::axis(axis, at.shape().len() + 1)?;
    let mut shape = at.shape().to_vec();
    shape.insert(axis, size);
    let n = room(&shape)?;
    let mut out = blank(values.dtype(), n, &Ctx::new());
    let inner = at.shape()[axis..].iter().fold(1usize, |n, &d| n.saturating_mul(d));
    let hot = whole(at)?.into_vec::<i64>()?;
    by_width!(values.dtype(), T => {
        let values: &[T] = bytemuck::cast_slice(values.data().as_bytes());
        let out: &mut [T] = bytemuck::cast_slice_mut(bytes_mut(&mut out));
        out.fill(values[0]);
        for (k, &i) in hot.iter().enumerate() {
            if (-depth..depth).contains(&i) {
                let i = if i < 0 { i + depth } else { i } as usize;
                out[(k / inner * size + i) * inner + k % inner] = values[1];
            }
        }
    });
    Tensor::new(shape, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{exec::float::scatter::elements, ir::op::Scatter};
    use proptest::prelude::*;

    fn counted(shape: &[usize]) -> Tensor {
        Tensor::of(shape, (0..shape.iter().product::<usize>() as i32).collect())
    }

    fn ints(shape: &[usize], v: &[i64]) -> Tensor {
        Tensor::of(shape, v.to_vec())
    }

    proptest! {
        #[test]
        fn gather_by_index_arithmetic(
            shape in prop::collection::vec(1usize..5, 3),
            axis in -3i64..3,
            picks in prop::collection::vec(-5i64..5, 6),
        ) {
            let t = counted(&shape);
            let a = axis.rem_euclid(3) as usize;
            let d = shape[a] as i64;
            let at = ints(&[2, 3], &picks);
            let y = gather(axis, &[Some(&t), Some(&at)], &Ctx::new());
            if picks.iter().any(|&p| p < -d || p >= d) {
                prop_assert!(y.is_err());
                return Ok(());
            }
            let y = y.unwrap();
            let inner: usize = shape[a + 1..].iter().product();
            let mut expected = vec![];
            for o in 0..shape[..a].iter().product::<usize>() {
                for &p in &picks {
                    for i in 0..inner {
                        expected.push(((o * shape[a] + p.rem_euclid(d) as usize) * inner + i) as i32);
                    }
                }
            }
            prop_assert_eq!(y.shape().len(), 4);
            prop_assert_eq!(y.into_vec::<i32>().unwrap(), expected);
        }

        #[test]
        fn scattering_what_was_gathered_changes_nothing(
            (shape, cut, axis) in (prop::collection::vec(1usize..5, 3), prop::collection::vec(1usize..5, 3), 0i64..3),
            seed in any::<u32>(),
        ) {
            let t = counted(&shape);
            let a = axis as usize;
            let ashape: Vec<usize> = (0..3).map(|i| if i == a { cut[i] } else { cut[i].min(shape[i]) }).collect();
            let n: usize = ashape.iter().product();
            let picks: Vec<i64> = (0..n).map(|i| i64::from(seed.wrapping_mul(i as u32 + 7) >> 8) % shape[a] as i64).collect();
            let at = ints(&ashape, &picks);
            let y = gather_elements(axis, &[Some(&t), Some(&at)]).unwrap();
            for (o, &v) in y.as_slice::<i32>().unwrap().iter().enumerate() {
                let mut i = [o / (ashape[1] * ashape[2]), o / ashape[2] % ashape[1], o % ashape[2]];
                i[a] = picks[o] as usize;
                prop_assert_eq!(v as usize, (i[0] * shape[1] + i[1]) * shape[2] + i[2]);
            }
            let back = elements(axis, Scatter::Replace, &[Some(&t), Some(&at), Some(&y)]).unwrap();
            prop_assert_eq!(back.as_slice::<i32>().unwrap(), t.as_slice::<i32>().unwrap());
            let marks = Tensor::of(&ashape, vec![-1i32; n]);
            let marked = elements(axis - 3, Scatter::Replace, &[Some(&t), Some(&at), Some(&marks)]).unwrap();
            for (i, &v) in marked.as_slice::<i32>().unwrap().iter().enumerate() {
                let hit = y.as_slice::<i32>().unwrap().contains(&(i as i32));
                prop_assert_eq!(v, if hit { -1 } else { i as i32 });
            }
        }
    }

    #[test]
    fn gather_nd_takes_slices_within_batches() {
        let t = counted(&[2, 2, 3]);
        let run = |batch, shape: &[usize], v: &[i64]| gather_nd(batch, &[Some(&t), Some(&ints(shape, v))]);
        let y = run(0, &[2, 2], &[0, 1, 1, -2]).unwrap();
        assert_eq!((y.shape(), y.as_slice::<i32>().unwrap()), (&[2, 3][..], &[3, 4, 5, 6, 7, 8][..]));
        let y = run(0, &[1, 3], &[1, 1, 2]).unwrap();
        assert_eq!((y.shape(), y.as_slice::<i32>().unwrap()), (&[1][..], &[11][..]));
        let y = run(1, &[2, 1], &[1, 0]).unwrap();
        assert_eq!((y.shape(), y.as_slice::<i32>().unwrap()), (&[2, 3][..], &[3, 4, 5, 6, 7, 8][..]));
        let y = run(2, &[2, 2, 2, 1], &[0, 2, 1, 1, 2, 0, -1, -3]).unwrap();
        assert_eq!((y.shape(), y.as_slice::<i32>().unwrap()), (&[2, 2, 2][..], &[0, 2, 4, 4, 8, 6, 11, 9][..]));
        assert!(run(0, &[1, 4], &[0; 4]).is_err() && run(0, &[1, 0], &[]).is_err() && run(0, &[], &[0]).is_err());
        assert!(run(0, &[1, 1], &[2]).is_err() && run(0, &[1, 1], &[i64::MIN]).is_err());
        assert!(run(1, &[1, 1], &[0]).is_err() && run(3, &[2, 2, 3], &[0; 12]).is_err());
    }

    #[test]
    fn one_hot_places_and_ignores() {
        let values = Tensor::of(&[2], vec![5u8, 9]);
        let run = |axis, at: &Tensor, depth: &Tensor| one_hot(axis, &[Some(at), Some(depth), Some(&values)]);
        let y = run(-1, &ints(&[3], &[1, -1, 7]), &Tensor::scalar(3f32)).unwrap();
        assert_eq!((y.shape(), y.as_slice::<u8>().unwrap()), (&[3, 3][..], &[5, 9, 5, 5, 5, 9, 5, 5, 5][..]));
        let y = run(0, &Tensor::of(&[2], vec![0f32, 1.9]), &ints(&[1], &[2])).unwrap();
        assert_eq!((y.shape(), y.as_slice::<u8>().unwrap()), (&[2, 2][..], &[9, 5, 5, 9][..]));
        assert!(run(2, &ints(&[3], &[0; 3]), &Tensor::scalar(3i64)).is_err());
        assert!(run(0, &ints(&[3], &[0; 3]), &Tensor::scalar(-1i64)).is_err());
        assert!(run(0, &ints(&[3], &[0; 3]), &Tensor::scalar(i64::MAX)).is_err());
    }

    #[test]
    fn indices_of_the_wrong_kind_are_errors() {
        let t = counted(&[2, 3]);
        let ctx = Ctx::new();
        assert!(gather(0, &[Some(&t), Some(&Tensor::scalar(0f32))], &ctx).is_err());
        assert!(gather(2, &[Some(&t), Some(&Tensor::scalar(0i64))], &ctx).is_err());
        assert!(gather(0, &[Some(&t), Some(&Tensor::scalar(i64::MIN))], &ctx).is_err());
        assert!(
            gather(0, &[Some(&Tensor::of(&[0, 3], Vec::<f32>::new())), Some(&Tensor::scalar(0i64))], &ctx).is_err()
        );
        let big = ints(&[3, 3], &[0; 9]);
        assert!(gather_elements(1, &[Some(&t), Some(&big)]).is_err());
        assert!(gather_elements(1, &[Some(&t), Some(&ints(&[2], &[0, 0]))]).is_err());
        assert!(
            elements(1, Scatter::Replace, &[Some(&t), Some(&ints(&[1, 1], &[0])), Some(&ints(&[1, 1], &[0]))]).is_err()
        );
        assert!(
            elements(1, Scatter::Replace, &[Some(&t), Some(&ints(&[1, 1], &[3])), Some(&counted(&[1, 1]))]).is_err()
        );
    }
}
