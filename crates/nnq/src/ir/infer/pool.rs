//! Pooling, and the sliding window that convolution shares.
use super::fact::{Args, Fact, one};
use crate::{
    error::{At, Error, Result},
    ir::{DType, Dim, op::AutoPad, op::PoolAttrs},
};

/// The spatial sizes after a window. `kernel` takes the place of the attribute. An axis of unknown size stays symbolic only where
/// the window keeps every size.
pub(super) fn window(a: &PoolAttrs, kernel: &[Dim], input: &[Dim]) -> Result<Vec<Dim>> {
    let n = input.len();
    for (what, len, want) in [
        ("the kernel", kernel.len(), n),
        ("strides", a.strides.len(), n),
        ("dilations", a.dilations.len(), n),
        ("pads", a.pads.len(), 2 * n),
    ] {
        if len != want && (len != 0 || what == "the kernel") {
            return Err(Error::shape(format!("{what} has {len} entries, expected {want}")));
        }
    }
    let mut out = Vec::with_capacity(n);
    for i in 0..n {
        let Some(k) = kernel[i].fixed() else {
            out.push(Dim::Unknown);
            continue;
        };
        let pads = if a.pads.is_empty() { vec![0, 0] } else { vec![a.pads[i], a.pads[n + i]] };
        let stride = a.strides.get(i).copied().unwrap_or(1);
        let dilation = a.dilations.get(i).copied().unwrap_or(1);
        let axis = PoolAttrs {
            kernel: vec![k],
            strides: vec![stride],
            dilations: vec![dilation],
            pads: pads.clone(),
            auto_pad: a.auto_pad,
            ceil_mode: a.ceil_mode,
        };
        out.push(match &input[i] {
            Dim::Fixed(s) => Dim::Fixed(axis.resolve(&[*s]).at(|| format!("spatial axis {i}"))?.output[0]),
            d => {
                let shrink = i64::try_from(k.saturating_sub(1).saturating_mul(dilation)).unwrap_or(i64::MAX);
                let keeps = match a.auto_pad {
                    AutoPad::NotSet => pads[0].checked_add(pads[1]) == Some(shrink),
                    AutoPad::Valid => shrink == 0,
                    AutoPad::SameUpper | AutoPad::SameLower => true,
                };
                if stride == 1 && keeps { d.clone() } else { Dim::Unknown }
            }
        });
    }
    Ok(out)
}

fn pooled(a: &PoolAttrs, x: &Args) -> Result<Option<Vec<Dim>>> {
    let Some(d) = x.dims(0)? else { return Ok(None) };
    if d.len() < 3 {
        return Err(Error::shape(format!("pooling a tensor of rank {}, expected at least 3", d.len())));
    }
    let kernel: Vec<Dim> = a.kernel.iter().map(|&k| Dim::Fixed(k)).collect();
    let mut out = d[..2].to_vec();
    out.extend(window(a, &kernel, &d[2..])?);
    Ok(Some(out))
}

pub(super) fn max(a: &PoolAttrs, x: &Args) -> Result<Vec<Fact>> {
    let dims = pooled(a, x)?;
    Ok(vec![Fact::new(x.dtype(0), dims.clone()), Fact::new(Some(DType::I64), dims)])
}

pub(super) fn average(a: &PoolAttrs, x: &Args) -> Result<Vec<Fact>> {
    one(x.dtype(0), pooled(a, x)?)
}

pub(super) fn global(x: &Args) -> Result<Vec<Fact>> {
    let dims = match x.dims(0)? {
        None => None,
        Some(d) if d.len() < 3 => {
            return Err(Error::shape(format!("pooling a tensor of rank {}, expected at least 3", d.len())));
        }
        Some(d) => {
            let mut out = d[..2].to_vec();
            out.resize(d.len(), Dim::Fixed(1));
            Some(out)
        }
    };
    one(x.dtype(0), dims)
}
