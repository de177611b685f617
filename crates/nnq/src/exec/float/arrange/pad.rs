//! Pad.
use super::{
    super::{Ctx, Inputs, args},
    Axis, HOLE, Plan, strides,
};
use crate::{
    error::{Error, Result},
    ir::{Tensor, op::PadMode},
};

pub(in crate::exec::float) fn pad(mode: PadMode, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "data")?;
    let pads = args::list(args::need(x, 1, "pads")?, "pads")?;
    let rank = t.shape().len();
    let axes = match args::optional(x, 3) {
        Some(a) => args::axes(&args::list(a, "axes")?, rank)?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(Error::shape(format!("{} pads for {} axes: a begin and an end each", pads.len(), axes.len())));
    }
    let mut around = vec![(0, 0); rank];
    for (i, &a) in axes.iter().enumerate() {
        around[a] = (pads[i], pads[axes.len() + i]);
    }
    let mut shape = Vec::with_capacity(rank);
    for (&(begin, end), &d) in around.iter().zip(t.shape()) {
        let len = d as i128 + begin as i128 + end as i128;
        let len = usize::try_from(len)
            .map_err(|_| Error::shape(format!("pads {pads:?} make shape {:?} negative", t.shape())))?;
        shape.push(len);
    }
    if args::room(&shape)? == 0 {
        return Tensor::new(shape, args::blank(t.dtype(), 0, ctx));
    }
    let mut out = Vec::with_capacity(rank);
    for (i, (&(begin, end), stride)) in around.iter().zip(strides(t.shape())).enumerate() {
        let d = t.shape()[i];
        out.push(if (begin, end) == (0, 0) {
            Axis::even(d, stride)
        } else {
            let steps = sources(mode, d, begin, end, shape[i])
                .ok_or_else(|| Error::shape(format!("axis {i} of shape {:?} has nothing to pad with", t.shape())))?;
            Axis::Listed(steps.into_iter().map(|i| if i == HOLE { HOLE } else { i * stride }).collect())
        });
    }
    let value = args::optional(x, 2).filter(|_| mode == PadMode::Constant);
    Plan { shape, base: 0, axes: out }.apply(t, value, ctx)
}

/// Where each element of a padded axis comes from. Negative pads crop first; what is left is then padded. `None`: there is
/// nothing to repeat.
fn sources(mode: PadMode, dim: usize, begin: i64, end: i64, len: usize) -> Option<Vec<usize>> {
    let cropped = begin.min(0).unsigned_abs() as usize;
    let kept = (dim as i64 + begin.min(0) + end.min(0)) as isize;
    let begin = begin.max(0) as isize;
    if kept <= 0 && mode != PadMode::Constant {
        return (len == 0).then(Vec::new);
    }
    let last = kept - 1;
    let source = |o: usize| {
        let i = o as isize - begin;
        let i = match mode {
            PadMode::Constant if i < 0 || i >= kept => return HOLE,
            PadMode::Constant => i,
            PadMode::Edge => i.clamp(0, last),
            PadMode::Wrap => i.rem_euclid(kept),
            PadMode::Reflect if last == 0 => 0,
            PadMode::Reflect => {
                let i = i.rem_euclid(2 * last);
                i.min(2 * last - i)
            }
        };
        i as usize + cropped
    };
    Some((0..len).map(source).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn padded(mode: PadMode, t: &Tensor, pads: &[i64], value: Option<&Tensor>, axes: Option<&[i64]>) -> Result<Tensor> {
        let p = Tensor::of(&[pads.len()], pads.to_vec());
        let a = axes.map(|a| Tensor::of(&[a.len()], a.to_vec()));
        pad(mode, &[Some(t), Some(&p), value, a.as_ref()], &Ctx::new())
    }

    #[test]
    fn modes_on_a_line() {
        let t = Tensor::of(&[4], vec![1u8, 2, 3, 4]);
        let run = |mode, pads: &[i64]| padded(mode, &t, pads, None, None).unwrap().into_vec::<u8>().unwrap();
        assert_eq!(run(PadMode::Constant, &[2, 1]), [0, 0, 1, 2, 3, 4, 0]);
        assert_eq!(run(PadMode::Edge, &[2, 1]), [1, 1, 1, 2, 3, 4, 4]);
        assert_eq!(run(PadMode::Reflect, &[2, 1]), [3, 2, 1, 2, 3, 4, 3]);
        assert_eq!(run(PadMode::Reflect, &[7, 0]), [2, 1, 2, 3, 4, 3, 2, 1, 2, 3, 4]);
        assert_eq!(run(PadMode::Wrap, &[2, 5]), [3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1]);
        assert_eq!(run(PadMode::Constant, &[-1, -1]), [2, 3]);
        assert_eq!(run(PadMode::Constant, &[-2, 1]), [3, 4, 0]);
        assert_eq!(run(PadMode::Edge, &[-1, 2]), [2, 3, 4, 4, 4]);
        assert_eq!(run(PadMode::Constant, &[-6, 4]), [0, 0]);
    }

    #[test]
    fn hostile_pads_are_errors() {
        let t = Tensor::of(&[2, 3], vec![0f32; 6]);
        let wrong = |pads: &[i64]| padded(PadMode::Constant, &t, pads, None, None).is_err();
        assert!(wrong(&[0, 0, 0]));
        assert!(wrong(&[-3, 0, 0, 0]));
        assert!(wrong(&[i64::MAX, 0, i64::MAX, 0]));
        assert!(wrong(&[i64::MIN, 0, i64::MIN, 0]));
        let cancelled = padded(PadMode::Constant, &t, &[i64::MIN, 0, i64::MAX, 0], None, None).unwrap();
        assert_eq!((cancelled.shape(), cancelled.to_f32s()), (&[1, 3][..], vec![0.0; 3]));
        assert!(wrong(&[1 << 40, 0, 0, -2]));
        let empty = Tensor::of(&[0], Vec::<f32>::new());
        assert!(padded(PadMode::Edge, &empty, &[1, 0], None, None).is_err());
        let value = Tensor::scalar(1i32);
        assert!(padded(PadMode::Constant, &t, &[1, 1], Some(&value), Some(&[1])).is_err());
        assert!(padded(PadMode::Constant, &t, &[1, 1], None, Some(&[2])).is_err());
    }

    proptest! {
        #[test]
        fn constant_pads_by_index_arithmetic(
            shape in prop::collection::vec(1usize..5, 3),
            pads in prop::collection::vec(-1i64..4, 6),
        ) {
            let n = shape.iter().product::<usize>();
            let t = Tensor::of(&shape, (0..n as i64).collect());
            let value = Tensor::scalar(-7i64);
            match padded(PadMode::Constant, &t, &pads, Some(&value), None) {
                Err(_) => prop_assert!((0..3).any(|i| shape[i] as i64 + pads[i] + pads[i + 3] < 0)),
                Ok(y) => {
                    let s = y.shape().to_vec();
                    for (o, &v) in y.as_slice::<i64>().unwrap().iter().enumerate() {
                        let at = [o / (s[1] * s[2]), o / s[2] % s[1], o % s[2]];
                        let from: Vec<i64> = (0..3).map(|i| at[i] as i64 - pads[i]).collect();
                        let inside = (0..3).all(|i| from[i] >= 0 && from[i] < shape[i] as i64);
                        let wanted = if inside {
                            (from[0] * shape[1] as i64 + from[1]) * shape[2] as i64 + from[2]
                        } else {
                            -7
                        };
                        prop_assert_eq!(v, wanted);
                    }
                }
            }
        }
    }
}
