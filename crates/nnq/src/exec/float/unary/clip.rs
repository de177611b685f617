//! Clip.
use super::{args, each};
use crate::{
    error::{Error, Result},
    exec::float::{Ctx, Inputs},
    ir::{Data, Element, Tensor},
};
use nnq_kernels::widest;

/// Bounds that are absent do not bind, not even infinities. Where min is above max, everything becomes max.
pub(in crate::exec::float) fn clip(x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    if let Some(y) = args::by_f32(x, |x| clip(x, ctx)) {
        return y;
    }
    let t = args::need(x, 0, "input")?;
    match t.data() {
        Data::F32(v) => {
            let (low, high) = bounds::<f32>(x)?;
            let mut out = ctx.take(v.len());
            each(&mut out, v, |dst, src| {
                widest(
                    #[inline(always)]
                    || clamp(dst, src, low, high),
                );
            });
            Tensor::new(t.shape().to_vec(), Data::F32(out.into()))
        }
        Data::F64(v) => on(t, v, x),
        Data::I8(v) => on(t, v, x),
        Data::I16(v) => on(t, v, x),
        Data::I32(v) => on(t, v, x),
        Data::I64(v) => on(t, v, x),
        Data::U8(v) => on(t, v, x),
        Data::U16(v) => on(t, v, x),
        Data::U32(v) => on(t, v, x),
        Data::U64(v) => on(t, v, x),
        _ => args::not_on("Clip", t.dtype()),
    }
}

fn bounds<T: Element>(x: &Inputs) -> Result<(Option<T>, Option<T>)> {
    let bound = |i: usize, what: &str| match args::optional(x, i) {
        None => Ok(None),
        Some(t) => match *t.as_slice::<T>().map_err(|e| e.at(what))? {
            [v] => Ok(Some(v)),
            _ => Err(Error::shape(format!("{what} must be one number, found shape {:?}", t.shape()))),
        },
    };
    Ok((bound(1, "min")?, bound(2, "max")?))
}

#[inline(always)]
fn clamp<T: Copy + PartialOrd>(dst: &mut [T], src: &[T], low: Option<T>, high: Option<T>) {
    dst.copy_from_slice(src);
    if let Some(low) = low {
        dst.iter_mut().for_each(|d| *d = if *d < low { low } else { *d });
    }
    if let Some(high) = high {
        dst.iter_mut().for_each(|d| *d = if *d > high { high } else { *d });
    }
}

fn on<T: Element + PartialOrd>(t: &Tensor, v: &[T], x: &Inputs) -> Result<Tensor> {
    let (low, high) = bounds::<T>(x)?;
    let mut out = vec![T::default(); v.len()];
    clamp(&mut out, v, low, high);
    Ok(Tensor::of(t.shape(), out))
}
