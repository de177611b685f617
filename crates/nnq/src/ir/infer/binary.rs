//! Element-wise functions of several tensors, with broadcasting.
use super::fact::{Args, Fact, Int, broadcast, one, show};
use crate::{
    error::{Error, Result},
    ir::{
        DType, Dim,
        op::{Binary, Variadic},
    },
};

pub(super) fn run(b: Binary, x: &Args) -> Result<Vec<Fact>> {
    let dtype = match b {
        Binary::Pow => x.dtype(0),
        _ => x.same_dtype(0..2)?,
    };
    let (fa, fb) = (x.need(0)?, x.need(1)?);
    let dims = match (fa.dims(), fb.dims()) {
        (Some(p), Some(q)) => {
            let out = broadcast(p, q)?;
            if b == Binary::PRelu && (out.len() != p.len() || grows(p, &out)) {
                return Err(Error::shape(format!("the slope {} does not broadcast to {}", show(q), show(p))));
            }
            Some(out)
        }
        _ => None,
    };
    let compares =
        matches!(b, Binary::Equal | Binary::Greater | Binary::GreaterOrEqual | Binary::Less | Binary::LessOrEqual);
    if matches!(b, Binary::And | Binary::Or | Binary::Xor) && dtype.is_some_and(|d| d != DType::Bool) {
        return Err(Error::shape(format!("{} of {}, expected bool", b.name(), dtype.map_or("?", DType::name))));
    }
    let float = dtype.is_none_or(DType::is_float);
    let ints = elementwise(fa, fb, |p, q| match b {
        Binary::Add => p.add(q),
        Binary::Sub => p.sub(q),
        Binary::Mul => p.mul(q),
        Binary::Div => p.div(q, float),
        Binary::Equal => p.equal(q),
        _ => Int::Unknown,
    });
    Ok(vec![Fact::new(if compares { Some(DType::Bool) } else { dtype }, dims).with_ints(ints)])
}

fn grows(from: &[Dim], to: &[Dim]) -> bool {
    from.iter().zip(to).any(|(f, t)| f.fixed().is_some() && f.fixed() != t.fixed())
}

fn elementwise(a: &Fact, b: &Fact, f: impl Fn(&Int, &Int) -> Int) -> Option<Vec<Int>> {
    let (a, b) = (a.ints.as_ref()?, b.ints.as_ref()?);
    let n = if a.len() == 1 { b.len() } else { a.len() };
    if b.len() != 1 && b.len() != n {
        return None;
    }
    Some((0..n).map(|i| f(&a[if a.len() == 1 { 0 } else { i }], &b[if b.len() == 1 { 0 } else { i }])).collect())
}

pub(super) fn variadic(_: Variadic, x: &Args) -> Result<Vec<Fact>> {
    if x.x.is_empty() {
        return Err(Error::shape("no inputs"));
    }
    let dtype = x.same_dtype(0..x.x.len())?;
    let mut dims = Some(Vec::new());
    for i in 0..x.x.len() {
        dims = match (dims, x.dims(i)?) {
            (Some(d), Some(e)) => Some(broadcast(&d, e)?),
            _ => None,
        };
    }
    one(dtype, dims)
}

pub(super) fn select(x: &Args) -> Result<Vec<Fact>> {
    if x.dtype(0).is_some_and(|d| d != DType::Bool) {
        return Err(Error::shape("the condition is not bool"));
    }
    let dtype = x.same_dtype(1..3)?;
    let (c, a, b) = (x.need(0)?, x.need(1)?, x.need(2)?);
    let dims = match (c.dims(), a.dims(), b.dims()) {
        (Some(c), Some(a), Some(b)) => Some(broadcast(c, &broadcast(a, b)?)?),
        _ => None,
    };
    let ints = match (&c.ints, &a.ints, &b.ints) {
        (Some(c), Some(a), Some(b)) => {
            let n = [c.len(), a.len(), b.len()].into_iter().find(|&n| n != 1).unwrap_or(1);
            let at = |v: &[Int], i: usize| if v.len() == 1 { v.first().cloned() } else { v.get(i).cloned() };
            (0..n)
                .map(|i| {
                    Some(match at(c, i)? {
                        Int::Known(0) => at(b, i)?,
                        Int::Known(_) => at(a, i)?,
                        Int::Sym(_) | Int::Unknown => Int::Unknown,
                    })
                })
                .collect()
        }
        _ => None,
    };
    Ok(vec![Fact::new(dtype, dims).with_ints(ints)])
}
