//! Transpose and what is a transposition under another name: DepthToSpace, SpaceToDepth; and repetition: Expand, Tile.
use super::{
    super::{Ctx, Inputs, args},
    Axis, Plan, strides,
};
use crate::{
    error::{Error, Result},
    ir::Tensor,
};

/// Views `t` as `shape` (same number of elements), permutes the axes and gives the result the shape `out`.
fn permuted(t: &Tensor, shape: &[usize], perm: &[usize], out: Vec<usize>, ctx: &Ctx) -> Result<Tensor> {
    let strides = strides(shape);
    let axes = perm.iter().map(|&p| Axis::even(shape[p], strides[p])).collect();
    Plan { shape: out, base: 0, axes }.apply(t, None, ctx)
}

pub(in crate::exec::float) fn transpose(perm: &[usize], x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "data")?;
    let rank = t.shape().len();
    let reversed: Vec<usize> = (0..rank).rev().collect();
    let perm = if perm.is_empty() { &reversed } else { perm };
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..rank) {
        return Err(Error::shape(format!("perm {perm:?} is no permutation of the axes of shape {:?}", t.shape())));
    }
    permuted(t, t.shape(), perm, perm.iter().map(|&p| t.shape()[p]).collect(), ctx)
}

pub(in crate::exec::float) fn depth_to_space(block: usize, crd: bool, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "input")?;
    let &[n, c, h, w] = t.shape() else { return not_four(t) };
    let Some(depth) = block.checked_mul(block).filter(|&b| b > 0 && c % b == 0).map(|b| c / b) else {
        return Err(Error::shape(format!("{c} channels cannot be spread over blocks of {block} x {block}")));
    };
    let out = vec![n, depth, times(h, block)?, times(w, block)?];
    if crd {
        permuted(t, &[n, depth, block, block, h, w], &[0, 1, 4, 2, 5, 3], out, ctx)
    } else {
        permuted(t, &[n, block, block, depth, h, w], &[0, 3, 4, 1, 5, 2], out, ctx)
    }
}

pub(in crate::exec::float) fn space_to_depth(block: usize, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "input")?;
    let &[n, c, h, w] = t.shape() else { return not_four(t) };
    if block == 0 || h % block != 0 || w % block != 0 {
        return Err(Error::shape(format!("a plane of {h} x {w} has no whole blocks of {block} x {block}")));
    }
    let (h, w) = (h / block, w / block);
    let out = vec![n, times(times(c, block)?, block)?, h, w];
    permuted(t, &[n, c, h, block, w, block], &[0, 3, 5, 1, 2, 4], out, ctx)
}

fn not_four(t: &Tensor) -> Result<Tensor> {
    Err(Error::shape(format!("expected a tensor of rank 4, found shape {:?}", t.shape())))
}

fn times(a: usize, b: usize) -> Result<usize> {
    a.checked_mul(b).ok_or_else(|| Error::shape(format!("{a} times {b} is too large")))
}

pub(in crate::exec::float) fn expand(x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "input")?;
    let wanted = args::sizes(&args::list(args::need(x, 1, "shape")?, "shape")?, "shape")?;
    let shape = args::broadcast(&[t.shape(), &wanted])?;
    let axes = args::spread(t.shape(), &shape);
    let axes = axes.into_iter().zip(&shape).map(|(stride, &d)| Axis::even(d, stride)).collect();
    Plan { shape, base: 0, axes }.apply(t, None, ctx)
}

pub(in crate::exec::float) fn tile(x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "input")?;
    let repeats = args::sizes(&args::list(args::need(x, 1, "repeats")?, "repeats")?, "repeats")?;
    if repeats.len() != t.shape().len() {
        return Err(Error::shape(format!("repeats {repeats:?} for shape {:?}", t.shape())));
    }
    let shape = t.shape().iter().zip(&repeats).map(|(&d, &r)| times(d, r)).collect::<Result<Vec<_>>>()?;
    let strides = strides(t.shape());
    // Each axis twice: the repeats, which go nowhere, and the axis itself.
    let axes = (0..repeats.len()).flat_map(|i| [Axis::even(repeats[i], 0), Axis::even(t.shape()[i], strides[i])]);
    Plan { shape, base: 0, axes: axes.collect() }.apply(t, None, ctx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{exec::float::eval, ir::Op};
    use proptest::prelude::*;

    fn counted(shape: &[usize]) -> Tensor {
        Tensor::of(shape, (0..shape.iter().product::<usize>() as u32).collect())
    }

    /// Transposition one element at a time.
    fn slow(t: &Tensor, perm: &[usize]) -> Vec<u32> {
        let s = t.shape();
        let out: Vec<usize> = perm.iter().map(|&p| s[p]).collect();
        let data = t.as_slice::<u32>().unwrap();
        (0..t.len())
            .map(|mut o| {
                let mut at = vec![0; s.len()];
                for d in (0..out.len()).rev() {
                    at[perm[d]] = o % out[d];
                    o /= out[d];
                }
                data[at.iter().zip(s).fold(0, |n, (&i, &d)| n * d + i)]
            })
            .collect()
    }

    proptest! {
        #[test]
        fn every_permutation(
            shape in prop::collection::vec(1usize..6, 1..6),
            seed in any::<prop::sample::Index>(),
        ) {
            let mut perm: Vec<usize> = (0..shape.len()).collect();
            let mut k = seed.index(720);
            for i in (1..perm.len()).rev() {
                perm.swap(i, k % (i + 1));
                k /= i + 1;
            }
            let t = counted(&shape);
            let y = transpose(&perm, &[Some(&t)], &Ctx::new()).unwrap();
            prop_assert_eq!(y.into_vec::<u32>().unwrap(), slow(&t, &perm));
        }
    }

    #[test]
    fn large_transpositions_go_through_tiles_and_threads() {
        let cases: [(&[usize], &[usize]); 6] = [
            (&[2, 67, 131], &[0, 2, 1]),
            (&[1, 33, 20, 40], &[0, 2, 3, 1]),
            (&[2, 20, 31, 33], &[0, 3, 1, 2]),
            (&[70, 5, 130], &[2, 1, 0]),
            (&[3, 200, 3, 70], &[3, 0, 2, 1]),
            (&[300, 90], &[1, 0]),
        ];
        for (shape, perm) in cases {
            let t = counted(shape);
            let y = transpose(perm, &[Some(&t)], &Ctx::new()).unwrap();
            assert_eq!(y.into_vec::<u32>().unwrap(), slow(&t, perm), "{shape:?} by {perm:?}");
        }
    }

    #[test]
    fn wrong_permutations_are_errors() {
        let t = counted(&[2, 3]);
        for perm in [&[0, 0][..], &[0], &[0, 2], &[0, 1, 2]] {
            assert!(transpose(perm, &[Some(&t)], &Ctx::new()).is_err(), "{perm:?}");
        }
    }

    #[test]
    fn depth_to_space_places_each_channel() {
        let (ctx, t) = (Ctx::new(), counted(&[2, 12, 2, 3]));
        let data = t.as_slice::<u32>().unwrap();
        for crd in [false, true] {
            let y = eval(&Op::DepthToSpace { block: 2, crd }, &[Some(&t)], 1, &ctx).unwrap().remove(0);
            assert_eq!(y.shape(), [2, 3, 4, 6]);
            for (o, &v) in y.as_slice::<u32>().unwrap().iter().enumerate() {
                let (n, d, h, w) = (o / 72, o / 24 % 3, o / 6 % 4, o % 6);
                let cell = (h % 2) * 2 + w % 2;
                let c = if crd { d * 4 + cell } else { cell * 3 + d };
                assert_eq!(v, data[((n * 12 + c) * 2 + h / 2) * 3 + w / 2]);
            }
            if !crd {
                let back = space_to_depth(2, &[Some(&y)], &ctx).unwrap();
                assert_eq!((back.shape(), back.as_slice::<u32>().unwrap()), (t.shape(), data));
            }
        }
        assert!(depth_to_space(5, false, &[Some(&t)], &ctx).is_err());
        assert!(depth_to_space(0, false, &[Some(&t)], &ctx).is_err());
        assert!(space_to_depth(0, &[Some(&t)], &ctx).is_err());
        assert!(space_to_depth(4, &[Some(&t)], &ctx).is_err());
    }

    #[test]
    fn expand_and_tile() {
        let ctx = Ctx::new();
        let t = Tensor::of(&[2, 1], vec![5u8, 6]);
        let ints = |v: &[i64]| Tensor::of(&[v.len()], v.to_vec());
        let y = expand(&[Some(&t), Some(&ints(&[2, 1, 3]))], &ctx).unwrap();
        assert_eq!(
            (y.shape(), y.as_slice::<u8>().unwrap()),
            (&[2, 2, 3][..], &[5, 5, 5, 6, 6, 6, 5, 5, 5, 6, 6, 6][..])
        );
        // 1 in the wanted shape keeps the tensor's size.
        assert_eq!(expand(&[Some(&t), Some(&ints(&[1, 1]))], &ctx).unwrap().shape(), [2, 1]);
        assert_eq!(expand(&[Some(&t), Some(&ints(&[0]))], &ctx).unwrap().shape(), [2, 0]);
        assert!(expand(&[Some(&t), Some(&ints(&[3, 1]))], &ctx).is_err());
        assert!(expand(&[Some(&t), Some(&ints(&[-1, 1]))], &ctx).is_err());
        assert!(expand(&[Some(&t), Some(&ints(&[1 << 40, 1, 1]))], &ctx).is_err());
        let t = Tensor::of(&[2, 2], vec![1u8, 2, 3, 4]);
        let y = tile(&[Some(&t), Some(&ints(&[2, 3]))], &ctx).unwrap();
        let rows = [[1, 2, 1, 2, 1, 2], [3, 4, 3, 4, 3, 4]];
        assert_eq!(y.as_slice::<u8>().unwrap(), [rows[0], rows[1], rows[0], rows[1]].concat());
        assert_eq!(tile(&[Some(&t), Some(&ints(&[0, 3]))], &ctx).unwrap().shape(), [0, 6]);
        assert!(tile(&[Some(&t), Some(&ints(&[i64::MAX, i64::MAX]))], &ctx).is_err());
        assert!(tile(&[Some(&t), Some(&ints(&[2]))], &ctx).is_err());
    }
}
