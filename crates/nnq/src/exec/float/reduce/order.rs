//! ArgMax, ArgMin, TopK: by order alone. NaN counts as larger than every number for the largest and smaller than every
//! number for the smallest, so that it is found first; among equals the lower index goes first.
use super::{last, rows};
use crate::{
    error::{Error, Result},
    exec::float::{
        Ctx, Inputs,
        args::{self, not_on},
        select,
    },
    ir::{Data, Tensor},
};
use std::cmp::Ordering;

/// A key to sort by.
trait Key: Copy + Sync + PartialOrd {
    /// Of a number with itself: false for NaN.
    fn nan(self) -> bool {
        self.partial_cmp(&self).is_none()
    }
    /// The better one is `Less`.
    fn rank(self, other: Self, largest: bool) -> Ordering {
        match self.partial_cmp(&other) {
            Some(o) if largest => o.reverse(),
            Some(o) => o,
            None => other.nan().cmp(&self.nan()),
        }
    }
}
impl<T: Copy + Sync + PartialOrd> Key for T {}

/// Calls `$body` with the elements as a slice of something ordered.
macro_rules! with_keys {
    ($t:expr, $v:ident => $body:expr, $what:expr) => {
        match $t.data() {
            Data::F32($v) => $body,
            Data::F64($v) => $body,
            Data::F16(_) | Data::BF16(_) => {
                let $v = &$t.to_f32s()[..];
                $body
            }
            Data::I8($v) => $body,
            Data::I16($v) => $body,
            Data::I32($v) => $body,
            Data::I64($v) => $body,
            Data::U8($v) => $body,
            Data::U16($v) => $body,
            Data::U32($v) => $body,
            Data::U64($v) => $body,
            Data::Bool(_) => not_on($what, $t.dtype()),
        }
    };
}

/// The tensor with `axis` moved to the end, and the other axes.
fn lines(t: &Tensor, axis: usize) -> Result<(Option<Tensor>, Vec<usize>)> {
    let rank = t.shape().len();
    let others: Vec<usize> = (0..rank).filter(|&i| i != axis).collect();
    let moved = if axis + 1 == rank { None } else { Some(last(t, &others, &[axis], &Ctx::new())?) };
    Ok((moved, others))
}

pub(in crate::exec::float) fn arg(max: bool, axis: i64, keepdims: bool, last: bool, x: &Inputs) -> Result<Tensor> {
    let t = args::need(x, 0, "data")?;
    // A single number has its place on an axis that is not there.
    let wide;
    let (t, scalar) = if t.shape().is_empty() {
        wide = t.clone().reshaped(vec![1])?;
        (&wide, true)
    } else {
        (t, false)
    };
    let axis = args::axis(axis, t.shape().len())?;
    let n = t.shape()[axis];
    let (moved, others) = lines(t, axis)?;
    let mut shape = t.shape().to_vec();
    shape[axis] = 1;
    if !keepdims || scalar {
        shape.remove(axis);
    }
    let count = others.iter().map(|&i| t.shape()[i]).fold(1usize, usize::saturating_mul);
    if n == 0 && count > 0 {
        return Err(Error::value(format!("the extreme of nothing: axis {axis} of shape {:?}", t.shape())));
    }
    let t = moved.as_ref().unwrap_or(t);
    let found = with_keys!(t, v => Ok(rows(v, n, count, |v| best(v, max, last))), "an arg-reduction")?;
    Tensor::new(shape, Data::I64(found.into()))
}

fn best<T: Key>(v: &[T], max: bool, last: bool) -> i64 {
    let mut at = 0;
    for (i, &x) in v.iter().enumerate().skip(1) {
        match x.rank(v[at], max) {
            Ordering::Less => at = i,
            Ordering::Equal if last => at = i,
            _ => {}
        }
    }
    at as i64
}

/// Sorted whether or not `_sorted` asks for it: without it any order is right.
pub(in crate::exec::float) fn top_k(axis: i64, largest: bool, _sorted: bool, x: &Inputs) -> Result<Vec<Tensor>> {
    let t = args::need(x, 0, "X")?;
    let k = args::integer(args::need(x, 1, "K")?, "K")?;
    let rank = t.shape().len();
    let front = args::axis(axis, rank)?;
    let n = t.shape()[front];
    let k = usize::try_from(k)
        .ok()
        .filter(|&k| k <= n)
        .ok_or_else(|| Error::shape(format!("the {k} best of {n} elements along axis {axis}")))?;
    let (moved, others) = lines(t, front)?;
    let count = others.iter().map(|&i| t.shape()[i]).fold(1usize, usize::saturating_mul);
    let keys = moved.as_ref().unwrap_or(t);
    let lists = if k == 0 || t.is_empty() {
        vec![]
    } else {
        with_keys!(keys, v => Ok(rows(v, n, count, |v| first(v, k, largest))), "TopK")?
    };
    let mut shape: Vec<usize> = others.iter().map(|&i| t.shape()[i]).chain([k]).collect();
    let mut indices = Tensor::new(shape.clone(), Data::I64(lists.concat().into()))?;
    if moved.is_some() {
        // Back: the last axis goes to its place.
        let perm: Vec<usize> = (0..front).chain([rank - 1]).chain(front..rank - 1).collect();
        indices = crate::exec::float::arrange::transpose(&perm, &[Some(&indices)], &Ctx::new())?;
        shape = indices.shape().to_vec();
    }
    debug_assert_eq!(shape.len(), rank);
    Ok(vec![select::gather_elements(axis, &[Some(t), Some(&indices)])?, indices])
}

fn first<T: Key>(v: &[T], k: usize, largest: bool) -> Vec<i64> {
    let mut order: Vec<usize> = (0..v.len()).collect();
    // A strict order, the index being the last word: which of the equal ones stay does not depend on the algorithm.
    let by = |&a: &usize, &b: &usize| v[a].rank(v[b], largest).then(a.cmp(&b));
    if k < order.len() {
        order.select_nth_unstable_by(k, by);
        order.truncate(k);
    }
    order.sort_unstable_by(by);
    order.into_iter().map(|i| i as i64).collect()
}
