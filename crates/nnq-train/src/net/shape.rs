//! Shapes that are checked before burn, which panics on those that do not fit, sees them.
use crate::backend::{self, Kernels, Var};
use burn::backend::{Autodiff, Shape, ops::FloatTensorOps as _};
use nnq::{Error, Result};

/// An axis counted from the front.
///
/// # Errors
/// When there is no such axis.
pub fn axis(axis: i64, rank: usize) -> Result<usize> {
    let n = i64::try_from(rank).unwrap_or(i64::MAX);
    usize::try_from(if axis < 0 { axis + n } else { axis })
        .ok()
        .filter(|&a| a < rank)
        .ok_or_else(|| Error::shape(format!("axis {axis} of {rank}")))
}

/// Both with as many axes, of which those that spread have length 1.
///
/// # Errors
/// When the shapes do not fit each other.
pub fn aligned<B: Kernels>(a: Var<B>, b: Var<B>) -> Result<(Var<B>, Var<B>)> {
    let (sa, sb) = (backend::dims::<B>(&a), backend::dims::<B>(&b));
    let rank = sa.len().max(sb.len()).max(1);
    let wide = |s: &[usize]| [vec![1; rank - s.len()], s.to_vec()].concat();
    let (wa, wb) = (wide(&sa), wide(&sb));
    if wa.iter().zip(&wb).any(|(x, y)| x != y && *x != 1 && *y != 1) {
        return Err(Error::shape(format!("shapes {sa:?} and {sb:?} do not spread over each other")));
    }
    Ok((backend::reshaped::<B>(a, &wa), backend::reshaped::<B>(b, &wb)))
}

/// The sizes that a Reshape asks for: 0 keeps one (unless it stands for itself), -1 is what is left.
///
/// # Errors
/// When they do not hold the elements.
pub fn resolve(wanted: &[i64], from: &[usize], allow_zero: bool) -> Result<Vec<usize>> {
    let fault = || Error::shape(format!("a shape {from:?} cannot become {wanted:?}"));
    let total: usize = from.iter().product();
    let mut free = None;
    let mut shape = Vec::with_capacity(wanted.len());
    for (i, &d) in wanted.iter().enumerate() {
        shape.push(match d {
            0 if !allow_zero => *from.get(i).ok_or_else(fault)?,
            -1 if free.is_none() => {
                free = Some(i);
                1
            }
            d => usize::try_from(d).map_err(|_| fault())?,
        });
    }
    let known = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(fault)?;
    if let Some(i) = free {
        shape[i] = total.checked_div(known).ok_or_else(fault)?;
    }
    if shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) == Some(total) { Ok(shape) } else { Err(fault()) }
}

/// Images of one axis as such of two, of height 1.
pub fn planes<B: Kernels>(x: Var<B>) -> Var<B> {
    let s = backend::dims::<B>(&x);
    if s.len() == 3 { Autodiff::<B>::float_reshape(x, Shape::from([s[0], s[1], 1, s[2]])) } else { x }
}

/// The reverse of [`planes`] for an image that had `rank` axes.
pub fn lines<B: Kernels>(x: Var<B>, rank: usize) -> Var<B> {
    let s = backend::dims::<B>(&x);
    if rank == 3 { Autodiff::<B>::float_reshape(x, Shape::from([s[0], s[1], s[3]])) } else { x }
}
