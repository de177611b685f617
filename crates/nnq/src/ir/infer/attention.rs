//! Attention, rotary embedding.
use super::fact::{Args, Fact, Int, one, same, show};
use crate::{
    error::{Error, Result},
    ir::{DType, Dim, op::AttentionAttrs},
};

/// `d` cut into `n` equal parts.
fn part(d: &Dim, n: usize, what: &str) -> Result<Dim> {
    match d {
        Dim::Fixed(d) if n > 0 && d % n == 0 => Ok(Dim::Fixed(d / n)),
        Dim::Fixed(d) => Err(Error::shape(format!("{what} of size {d} for {n} heads"))),
        _ => Ok(Dim::Unknown),
    }
}

/// `[batch, heads, length, size]` of a tensor in either form.
fn heads(x: &Args, i: usize, n: usize, what: &str) -> Result<Option<[Dim; 4]>> {
    Ok(match x.dims(i)? {
        None => None,
        Some([b, h, l, d]) => Some([b.clone(), h.clone(), l.clone(), d.clone()]),
        Some([b, l, d]) => {
            if n == 0 {
                return Err(Error::shape(format!("{what} of rank 3 without a number of heads")));
            }
            Some([b.clone(), Dim::Fixed(n), l.clone(), part(d, n, what)?])
        }
        Some(d) => return Err(Error::shape(format!("{what} {}, expected 3 or 4 axes", show(d)))),
    })
}

pub(super) fn attention(a: &AttentionAttrs, x: &Args) -> Result<Vec<Fact>> {
    let dtype = x.same_dtype([0, 1, 4])?;
    let value = x.same_dtype([2, 5])?;
    let (q, k, v) = (
        heads(x, 0, a.q_heads, "the queries")?,
        heads(x, 1, a.kv_heads, "the keys")?,
        heads(x, 2, a.kv_heads, "the values")?,
    );
    let (Some(q), Some(k), Some(v)) = (q, k, v) else {
        return Ok([dtype, dtype, value, dtype].map(|d| Fact::new(d, None)).to_vec());
    };
    let differ = |what: &str, a: &Dim, b: &Dim| same(a, b).map_err(|_| Error::shape(format!("{what}: {a} and {b}")));
    let batch = differ("batches of queries and keys", &q[0], &k[0])?;
    let batch = differ("batches of keys and values", &batch, &v[0])?;
    differ("sizes of queries and keys", &q[3], &k[3])?;
    let kv = differ("heads of keys and values", &k[1], &v[1])?;
    let length = differ("numbers of keys and values", &k[2], &v[2])?;
    if let (Dim::Fixed(q), Dim::Fixed(k)) = (&q[1], &kv)
        && (*k == 0 || q % k != 0)
    {
        return Err(Error::shape(format!("{q} heads of queries share {k} heads of keys")));
    }
    let past = match x.get(4) {
        None => Int::Known(0),
        Some(f) => match f.dims() {
            Some([_, _, past, _]) => Int::from(past),
            Some(d) => return Err(Error::shape(format!("past keys {}, expected 4 axes", show(d)))),
            None => Int::Unknown,
        },
    };
    let total = Int::from(&length).add(&past).dim()?;
    let y = if x.dims(0)?.is_some_and(|d| d.len() == 3) {
        let size = Int::from(&q[1]).mul(&Int::from(&v[3])).dim()?;
        vec![batch.clone(), q[2].clone(), size]
    } else {
        vec![batch.clone(), q[1].clone(), q[2].clone(), v[3].clone()]
    };
    Ok(vec![
        Fact::new(dtype, Some(y)),
        Fact::new(dtype, Some(vec![batch.clone(), kv.clone(), total.clone(), k[3].clone()])),
        Fact::new(value, Some(vec![batch.clone(), kv, total.clone(), v[3].clone()])),
        Fact::new(dtype, Some(vec![batch, q[1].clone(), q[2].clone(), total])),
    ])
}

pub(super) fn rotary(heads: usize, x: &Args) -> Result<Vec<Fact>> {
    let dtype = x.same_dtype([0, 1, 2])?;
    if let Some(d) = x.dtype(3).filter(|d| *d != DType::I64) {
        return Err(Error::shape(format!("position_ids of {d}, expected i64")));
    }
    let dims = x.dims(0)?;
    match dims {
        Some([_, _, d]) => drop(part(d, heads, "an input of rank 3")?),
        Some(d) if d.len() != 4 => return Err(Error::shape(format!("an input {}, expected 3 or 4 axes", show(d)))),
        _ => {}
    }
    one(dtype, dims.map(<[Dim]>::to_vec))
}
