//! Reductions, positions of extremes, cumulative sums, top-k.
use super::fact::{Args, Fact, Int, axes, axis, one};
use crate::{
    error::{Error, Result},
    ir::{DType, Dim, op::Reduction},
};

pub(super) fn run(kind: Reduction, keepdims: bool, noop: bool, x: &Args) -> Result<Vec<Fact>> {
    let f = x.need(0)?;
    let Some(d) = f.dims() else { return one(f.dtype, None) };
    let list = match x.get(1) {
        None => Some(Vec::new()),
        Some(a) => a.known_ints(),
    };
    let Some(list) = list else {
        return one(f.dtype, keepdims.then(|| vec![Dim::Unknown; d.len()]));
    };
    if list.is_empty() && noop {
        return one(f.dtype, Some(d.to_vec()));
    }
    let which = if list.is_empty() { (0..d.len()).collect() } else { axes(&list, d.len())? };
    let mut out = Vec::with_capacity(d.len());
    for (i, size) in d.iter().enumerate() {
        if !which.contains(&i) {
            out.push(size.clone());
        } else if keepdims {
            out.push(Dim::Fixed(1));
        }
    }
    let ints = match (kind, &f.ints) {
        (Reduction::Prod, Some(v)) => Some(vec![v.iter().fold(Int::Known(1), |p, i| p.mul(i))]),
        (Reduction::Sum, Some(v)) => Some(vec![v.iter().fold(Int::Known(0), |p, i| p.add(i))]),
        _ => None,
    };
    Ok(vec![Fact::new(f.dtype, Some(out)).with_ints(ints)])
}

pub(super) fn arg(a: i64, keepdims: bool, x: &Args) -> Result<Vec<Fact>> {
    let dims = match x.dims(0)? {
        None => None,
        Some(d) => {
            let a = axis(a, d.len())?;
            let mut out = d.to_vec();
            if keepdims {
                out[a] = Dim::Fixed(1);
            } else {
                out.remove(a);
            }
            Some(out)
        }
    };
    one(Some(DType::I64), dims)
}

pub(super) fn cumsum(x: &Args) -> Result<Vec<Fact>> {
    let dims = x.dims(0)?.map(<[Dim]>::to_vec);
    if let (Some(d), Some([a])) = (&dims, x.need(1)?.known_ints().as_deref()) {
        axis(*a, d.len())?;
    }
    one(x.dtype(0), dims)
}

pub(super) fn top_k(a: i64, x: &Args) -> Result<Vec<Fact>> {
    let dims = match x.dims(0)? {
        None => None,
        Some(d) => {
            let a = axis(a, d.len())?;
            let k = match x.need(1)?.ints.as_deref() {
                Some([k]) => k.dim()?,
                Some(_) => return Err(Error::shape("K is no single number")),
                None => Dim::Unknown,
            };
            if let (Some(k), Some(n)) = (k.fixed(), d[a].fixed())
                && k > n
            {
                return Err(Error::shape(format!("the {k} greatest of {n}")));
            }
            let mut out = d.to_vec();
            out[a] = k;
            Some(out)
        }
    };
    Ok(vec![Fact::new(x.dtype(0), dims.clone()), Fact::new(Some(DType::I64), dims)])
}
