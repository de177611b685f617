//! Gather, scatter, one-hot.
use super::fact::{Args, Fact, Int, axis, one, same, show};
use crate::{
    error::{Error, Result},
    ir::{DType, Dim},
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

pub(super) fn scatter_nd(x: &Args) -> Result<Vec<Fact>> {
    let dtype = x.same_dtype([0, 2])?;
    let (Some(d), Some(i)) = (x.dims(0)?, x.dims(1)?) else { return one(dtype, x.dims(0)?.map(<[Dim]>::to_vec)) };
    let Some((last, lead)) = i.split_last() else { return Err(Error::shape("indices of rank 0")) };
    if let Some(k) = last.fixed() {
        if k > d.len() {
            return Err(Error::shape(format!("{k} indices into data of rank {}", d.len())));
        }
        let want = [lead, &d[k..]].concat();
        if let Some(u) = x.dims(2)?
            && (u.len() != want.len() || u.iter().zip(&want).any(|(a, b)| same(a, b).is_err()))
        {
            return Err(Error::shape(format!("updates {}, expected {}", show(u), show(&want))));
        }
    }
    one(dtype, Some(d.to_vec()))
}

pub(super) fn non_zero(x: &Args) -> Result<Vec<Fact>> {
    let rank = x.dims(0)?.map_or(Dim::Unknown, |d| Dim::Fixed(d.len()));
    one(Some(DType::I64), Some(vec![rank, Dim::Unknown]))
}

pub(super) fn compress(a: Option<i64>, x: &Args) -> Result<Vec<Fact>> {
    let dims = match (x.dims(0)?, a) {
        (_, None) => Some(vec![Dim::Unknown]),
        (None, Some(_)) => None,
        (Some(d), Some(a)) => {
            let mut out = d.to_vec();
            out[axis(a, d.len())?] = Dim::Unknown;
            Some(out)
        }
    };
    one(x.dtype(0), dims)
}

pub(super) fn reverse_sequence(batch: i64, time: i64, x: &Args) -> Result<Vec<Fact>> {
    let dims = x.dims(0)?.map(<[Dim]>::to_vec);
    if let Some(d) = &dims {
        let (batch, time) = (axis(batch, d.len())?, axis(time, d.len())?);
        if batch == time {
            return Err(Error::shape(format!("axis {batch} is both batch and time")));
        }
        x.vector(1, "the list of lengths", &d[batch])?;
    }
    one(x.dtype(0), dims)
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
