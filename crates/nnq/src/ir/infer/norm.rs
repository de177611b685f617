//! Normalisations and softmax: the shape of the input.
use super::fact::{Args, Fact, axis, broadcast, one, show};
use crate::{
    error::{Error, Result},
    ir::{DType, Dim},
};

/// Batch, instance and group normalisation: every further input has one element per channel.
pub(super) fn per_channel(x: &Args) -> Result<Vec<Fact>> {
    let dims = x.dims(0)?;
    if let Some(d) = dims {
        if d.len() < 2 {
            return Err(Error::shape(format!("an input of rank {} has no channel axis", d.len())));
        }
        for (i, what) in [(1, "scale"), (2, "bias"), (3, "mean"), (4, "variance")] {
            x.vector(i, what, &d[1])?;
        }
    }
    one(x.dtype(0), dims.map(<[Dim]>::to_vec))
}

pub(super) fn layer(a: i64, x: &Args) -> Result<Vec<Fact>> {
    let dims = x.dims(0)?.map(<[Dim]>::to_vec);
    let mut stat = None;
    if let Some(d) = &dims {
        let a = axis(a, d.len())?;
        for i in [1, 2] {
            if let Some(s) = x.get(i).and_then(Fact::dims) {
                let b = broadcast(d, s)?;
                if b.len() != d.len() || b.iter().zip(d).any(|(b, d)| d.fixed().is_some() && b.fixed() != d.fixed()) {
                    return Err(Error::shape(format!("input {i} {} does not broadcast to {}", show(s), show(d))));
                }
            }
        }
        let mut s = d.clone();
        s[a..].fill(Dim::Fixed(1));
        stat = Some(s);
    }
    let stat = Fact::new(Some(DType::F32), stat);
    Ok(vec![Fact::new(x.dtype(0), dims), stat.clone(), stat])
}

pub(super) fn rms(a: i64, x: &Args) -> Result<Vec<Fact>> {
    layer(a, x).map(|mut out| {
        out.truncate(1);
        out
    })
}

pub(super) fn lrn(x: &Args) -> Result<Vec<Fact>> {
    let dims = x.dims(0)?;
    if let Some(d) = dims.filter(|d| d.len() < 2) {
        return Err(Error::shape(format!("an input of rank {} has no channel axis", d.len())));
    }
    one(x.dtype(0), dims.map(<[Dim]>::to_vec))
}

pub(super) fn softmax(a: i64, flat: bool, x: &Args) -> Result<Vec<Fact>> {
    let dims = x.dims(0)?;
    if let Some(d) = dims {
        // The old, flattening form takes the rank itself as an axis.
        if !(flat && usize::try_from(a) == Ok(d.len())) {
            axis(a, d.len())?;
        }
    }
    one(x.dtype(0), dims.map(<[Dim]>::to_vec))
}
