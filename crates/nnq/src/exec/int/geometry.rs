//! The sizes of convolutions and pools, once shapes are known.
use crate::{
    error::{Error, Result},
    exec::lower::{Form, Product},
    ir::op::Window,
};
use nnq_kernels::{conv::ConvGeom, pool::PoolGeom};

/// The sizes of a product of `x` to `y`, from those that its weights fix.
///
/// # Errors
/// When the shapes do not fit the weights.
pub(super) fn product(p: &Product, fixed: ConvGeom, x: &[usize], y: &[usize]) -> Result<ConvGeom> {
    let mut g = fixed;
    match &p.form {
        Form::Matrix { .. } => {
            let k = x.last().copied().unwrap_or(0);
            if k != g.c_in {
                return Err(Error::shape(format!("rows of {k} values by a weight of {} rows", g.c_in)));
            }
            g.batch = x[..x.len() - 1].iter().product();
        }
        Form::Conv(a) => {
            if x.len() != p.weight.shape().len() || x[1] != g.c_in {
                return Err(Error::shape(format!("input {x:?} by a weight {:?}", p.weight.shape())));
            }
            let w = a.resolve(&x[2..], &p.weight.shape()[2..])?;
            let (d2, pad) = (w.input.len() == 2, |i: usize| w.begin[i]);
            // A one-dimensional convolution is a row of height 1.
            let pick = |v: &[usize], default: usize| if d2 { (v[0], v[1]) } else { (default, v[0]) };
            g.batch = x[0];
            (g.in_h, g.in_w) = pick(&w.input, 1);
            (g.out_h, g.out_w) = pick(&y[2..], 1);
            (g.stride_h, g.stride_w) = pick(&w.strides, 1);
            (g.dil_h, g.dil_w) = pick(&w.dilations, 1);
            let (top, left) = if d2 { (pad(0), pad(1)) } else { (0, pad(0)) };
            let fits = |p: i64| {
                usize::try_from(p).map_err(|_| {
                    Error::unsupported(format!("a convolution with negative padding {p}"))
                        .cure("run the model through simplify, or crop before")
                })
            };
            (g.pad_top, g.pad_left) = (fits(top)?, fits(left)?);
        }
    }
    Ok(g)
}

/// The sizes of a pool over a value of shape `[n, c, spatial...]`.
///
/// # Errors
/// When a padding is negative.
pub(super) fn pool(shape: &[usize], w: &Window) -> Result<PoolGeom> {
    let d2 = w.kernel.len() == 2;
    let pick = |v: &[usize]| if d2 { (v[0], v[1]) } else { (1, v[0]) };
    let pads = |v: &[i64]| -> Result<(usize, usize)> {
        let fit =
            |p: i64| usize::try_from(p).map_err(|_| Error::unsupported(format!("a pool with negative padding {p}")));
        Ok(if d2 { (fit(v[0])?, fit(v[1])?) } else { (0, fit(v[0])?) })
    };
    let (in_h, in_w) = pick(&w.input);
    let (out_h, out_w) = pick(&w.output);
    let (k_h, k_w) = pick(&w.kernel);
    let (stride_h, stride_w) = pick(&w.strides);
    let (dil_h, dil_w) = pick(&w.dilations);
    let (pad_top, pad_left) = pads(&w.begin)?;
    let (pad_bottom, pad_right) = pads(&w.end)?;
    Ok(PoolGeom {
        batch: shape[0],
        c: shape[1],
        in_h,
        in_w,
        out_h,
        out_w,
        k_h,
        k_w,
        stride_h,
        stride_w,
        dil_h,
        dil_w,
        pad_top,
        pad_left,
        pad_bottom,
        pad_right,
    })
}
