//! Gather, scatter, one-hot.
use super::fact::{Args, Fact, Int, axis, one};
use crate::{
    error::{Error, Result},
    ir::Dim,
};

pub(super) fn gather(a: i64, x: &Args) -> Result<Vec<Fact>> {
    let (data, index) = (x.need(0)?, x.need(1)?);
    let (Some(d), Some(i)) = (data.dims(), index.dims()) else { return one(data.dtype, None) };
    let a = axis(a, d.len())?;
    let mut out = d[..a].to_vec();
    out.extend_from_slice(i);
    out.extend_from_slice(&d[a + 1..]);
    if let (Some(n), Some(list)) = (d[a].fixed().and_then(|n| i64::try_from(n).ok()), index.known_ints())
        && let Some(bad) = list.iter().find(|&&i| i < -n || i >= n)
    {
        return Err(Error::shape(format!("index {bad} of an axis of {n}")));
    }
    let ints = match (&data.ints, index.known_ints()) {
        (Some(v), Some(list)) if d.len() == 1 => list
            .iter()
            .map(|&i| {
                let n = i64::try_from(v.len()).unwrap_or(i64::MAX);
                let i = if i < 0 { i.saturating_add(n) } else { i };
                usize::try_from(i).ok().and_then(|i| v.get(i).cloned())
            })
            .collect::<Option<Vec<Int>>>(),
        _ => None,
    };
    Ok(vec![Fact::new(data.dtype, Some(out)).with_ints(ints)])
}

fn same_rank(a: i64, x: &Args) -> Result<()> {
    if let (Some(d), Some(i)) = (x.dims(0)?, x.dims(1)?) {
        axis(a, d.len())?;
        if d.len() != i.len() {
            return Err(Error::shape(format!("indices of rank {} into data of rank {}", i.len(), d.len())));
        }
    }
    Ok(())
}

pub(super) fn gather_elements(a: i64, x: &Args) -> Result<Vec<Fact>> {
    same_rank(a, x)?;
    one(x.dtype(0), x.dims(1)?.map(<[Dim]>::to_vec))
}

pub(super) fn gather_nd(batch: usize, x: &Args) -> Result<Vec<Fact>> {
    let (Some(d), Some(i)) = (x.dims(0)?, x.dims(1)?) else { return one(x.dtype(0), None) };
    let Some((last, lead)) = i.split_last() else { return Err(Error::shape("indices of rank 0")) };
    let Some(k) = last.fixed() else { return one(x.dtype(0), None) };
    let used = batch.checked_add(k).filter(|&n| n <= d.len() && batch <= lead.len());
    let Some(used) = used else {
        let (d, i) = (d.len(), i.len());
        return Err(Error::shape(format!(
            "{k} indices after {batch} batch axes: data of rank {d}, indices of rank {i}"
        )));
    };
    let mut out = lead.to_vec();
    out.extend_from_slice(&d[used..]);
    one(x.dtype(0), Some(out))
}

pub(super) fn scatter_elements(a: i64, x: &Args) -> Result<Vec<Fact>> {
    same_rank(a, x)?;
    one(x.same_dtype([0, 2])?, x.dims(0)?.map(<[Dim]>::to_vec))
}

pub(super) fn one_hot(a: i64, x: &Args) -> Result<Vec<Fact>> {
    let dtype = x.dtype(2);
    let Some(d) = x.dims(0)? else { return one(dtype, None) };
    let a = axis(a, d.len() + 1)?;
    let depth = match x.need(1)?.ints.as_deref() {
        Some([n]) => n.dim()?,
        Some(_) => return Err(Error::shape("the depth is no single number")),
        None => Dim::Unknown,
    };
    let mut out = d.to_vec();
    out.insert(a, depth);
    one(dtype, Some(out))
}
