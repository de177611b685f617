//! Operators that change or read the shape.
use super::{
    arrange::target,
    fact::{Args, Fact, Int, axes, axis, one, product, show},
};
use crate::{
    error::{Error, Result},
    ir::{DType, Dim, Tensor},
};
use std::sync::Arc;

/// A product of sizes: a number, symbols, and whether something unknown is in it.
struct Count {
    number: Option<usize>,
    symbols: Vec<Arc<str>>,
    unknown: usize,
}

impl Count {
    fn of<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Self {
        let mut c = Self { number: Some(1), symbols: Vec::new(), unknown: 0 };
        for d in dims {
            match d {
                Dim::Fixed(n) => c.number = c.number.and_then(|p| p.checked_mul(*n)),
                Dim::Sym(s) => c.symbols.push(s.clone()),
                Dim::Unknown => c.unknown += 1,
            }
        }
        c
    }
    /// Divides by the symbols of `o`; false when one of them is not in here.
    fn cancel(&mut self, o: &mut Self) -> bool {
        o.symbols.retain(|s| match self.symbols.iter().position(|t| t == s) {
            Some(i) => {
                self.symbols.swap_remove(i);
                false
            }
            None => true,
        });
        o.symbols.is_empty()
    }
}

pub(super) fn reshape(allowzero: bool, x: &Args) -> Result<Vec<Fact>> {
    let (f, want) = (x.need(0)?, x.need(1)?);
    let dims = f.dims();
    let Some(want) = want.ints.clone().or_else(|| Some(vec![Int::Unknown; target(want).ok()??.len()])) else {
        return one(f.dtype, None);
    };
    let mut from: Vec<Dim> = dims.unwrap_or_default().to_vec();
    // The size to be found, and the sizes that are given (without those copied from the input).
    let mut free = None;
    let mut to = Vec::new();
    let mut out = Vec::with_capacity(want.len());
    for (i, n) in want.iter().enumerate() {
        out.push(match n {
            Int::Known(-1) => {
                if free.replace(i).is_some() {
                    return Err(Error::shape(format!("two free dimensions in the shape {want:?}")));
                }
                Dim::Unknown
            }
            Int::Known(0) if !allowzero => match dims {
                None => Dim::Unknown,
                Some(d) => {
                    let copied = d.get(i).ok_or_else(|| {
                        Error::shape(format!("dimension {i} is to be copied, the input has rank {}", d.len()))
                    })?;
                    from[i] = Dim::Fixed(1);
                    copied.clone()
                }
            },
            n => {
                let d = n.dim()?;
                to.push((i, d.clone()));
                d
            }
        });
    }
    if dims.is_none() {
        return one(f.dtype, Some(out));
    }
    // A given size that is not known can be found like a free one, when it is the only one.
    let strict = free.is_some();
    let open: Vec<usize> = to.iter().filter(|(_, d)| *d == Dim::Unknown).map(|(i, _)| *i).collect();
    let free = match (free, open.as_slice()) {
        (Some(i), []) => Some(i),
        (None, [i]) => Some(*i),
        _ => None,
    };
    let (mut have, mut given) =
        (Count::of(&from), Count::of(to.iter().filter(|(i, _)| Some(*i) != free).map(|t| &t.1)));
    let cancelled = have.cancel(&mut given);
    let comparable = cancelled && have.unknown == 0 && given.unknown == 0;
    if let (true, Some(a), Some(b)) = (comparable, have.number, given.number) {
        let refuse = || {
            Err(Error::shape(format!("{} cannot take the shape {}", show(dims.unwrap_or_default()), show_ints(&want))))
        };
        match (free, have.symbols.as_slice()) {
            (Some(i), []) if b > 0 && a % b == 0 => out[i] = Dim::Fixed(a / b),
            (Some(_), []) if strict && b > 0 => return refuse(),
            (Some(i), [s]) if a == b && b > 0 => out[i] = Dim::Sym(s.clone()),
            (None, []) if a != b => return refuse(),
            _ => {}
        }
    }
    let ints = f.ints.clone().filter(|v| out.len() == 1 || v.len() == 1);
    Ok(vec![Fact::new(f.dtype, Some(out)).with_ints(ints)])
}

fn show_ints(v: &[Int]) -> String {
    let text: Vec<String> = v
        .iter()
        .map(|i| match i {
            Int::Known(n) => n.to_string(),
            Int::Sym(s) => s.to_string(),
            Int::Unknown => "?".into(),
        })
        .collect();
    format!("[{}]", text.join(", "))
}

pub(super) fn flatten(a: i64, x: &Args) -> Result<Vec<Fact>> {
    let dims = match x.dims(0)? {
        None => vec![Dim::Unknown, Dim::Unknown],
        Some(d) => {
            // The rank itself is an axis here: everything goes into the first dimension.
            let a = if usize::try_from(a) == Ok(d.len()) { d.len() } else { axis(a, d.len())? };
            vec![product(&d[..a]), product(&d[a..])]
        }
    };
    one(x.dtype(0), Some(dims))
}

pub(super) fn squeeze(x: &Args) -> Result<Vec<Fact>> {
    let f = x.need(0)?;
    let Some(d) = f.dims() else { return one(f.dtype, None) };
    let which = match x.get(1) {
        Some(a) => match a.known_ints() {
            Some(a) => axes(&a, d.len())?,
            None => return one(f.dtype, None),
        },
        // Without axes every 1 goes; whether an unknown size is one cannot be told.
        None if d.iter().any(|d| d.fixed().is_none()) => return one(f.dtype, None),
        None => (0..d.len()).filter(|&i| d[i] == Dim::Fixed(1)).collect(),
    };
    for &a in &which {
        if d[a].fixed().is_some_and(|n| n != 1) {
            return Err(Error::shape(format!("axis {a} has size {}, not 1", d[a])));
        }
    }
    let out = d.iter().enumerate().filter(|(i, _)| !which.contains(i)).map(|(_, d)| d.clone()).collect();
    Ok(vec![Fact::new(f.dtype, Some(out)).with_ints(f.ints.clone())])
}

pub(super) fn unsqueeze(x: &Args) -> Result<Vec<Fact>> {
    let f = x.need(0)?;
    let (Some(d), Some(a)) = (f.dims(), x.need(1)?.known_ints()) else { return one(f.dtype, None) };
    let rank = d.len() + a.len();
    let which = axes(&a, rank)?;
    let mut rest = d.iter();
    let out = (0..rank)
        .map(|i| if which.contains(&i) { Dim::Fixed(1) } else { rest.next().cloned().unwrap_or(Dim::Unknown) })
        .collect();
    Ok(vec![Fact::new(f.dtype, Some(out)).with_ints(f.ints.clone())])
}

pub(super) fn shape(start: i64, end: Option<i64>, x: &Args) -> Result<Vec<Fact>> {
    let Some(d) = x.dims(0)? else { return one(Some(DType::I64), Some(vec![Dim::Unknown])) };
    let n = i64::try_from(d.len()).unwrap_or(i64::MAX);
    let clip = |p: i64| usize::try_from(if p < 0 { p.saturating_add(n) } else { p }.clamp(0, n)).unwrap_or(0);
    let (from, to) = (clip(start), end.map_or(d.len(), clip));
    let part = d.get(from..to).unwrap_or_default();
    let ints = part.iter().map(Int::from).collect();
    Ok(vec![Fact::new(Some(DType::I64), Some(vec![Dim::Fixed(part.len())])).with_ints(Some(ints))])
}

pub(super) fn size(x: &Args) -> Result<Vec<Fact>> {
    let ints = x.dims(0)?.map(|d| vec![Int::from(&product(d))]);
    Ok(vec![Fact::new(Some(DType::I64), Some(Vec::new())).with_ints(ints)])
}

pub(super) fn constant_of_shape(value: &Tensor, x: &Args) -> Result<Vec<Fact>> {
    let dims = target(x.need(0)?)?;
    let element = match value.to_i64s().as_deref() {
        Ok([v]) => Some(Int::Known(*v)),
        _ => None,
    };
    let ints = match (element, dims.as_deref()) {
        (Some(v), Some([])) => Some(vec![v]),
        (Some(v), Some([Dim::Fixed(n)])) if *n <= 1024 => Some(vec![v; *n]),
        _ => None,
    };
    Ok(vec![Fact::new(Some(value.dtype()), dims).with_ints(ints)])
}

pub(super) fn range(x: &Args) -> Result<Vec<Fact>> {
    let dtype = x.same_dtype(0..3)?;
    let element = |i: usize| x.get(i).and_then(|f| f.ints.as_ref()).and_then(|v| v.first().cloned());
    let (mut size, mut ints) = (Dim::Unknown, None);
    match (element(0), element(1), element(2)) {
        (_, _, Some(Int::Known(0))) => return Err(Error::shape("a step of 0")),
        (Some(Int::Known(a)), Some(Int::Known(b)), Some(Int::Known(s))) => {
            let (a, b, s) = (i128::from(a), i128::from(b), i128::from(s));
            let n = ((b - a + s - s.signum()) / s).max(0);
            size = usize::try_from(n).map_or(Dim::Unknown, Dim::Fixed);
            if n <= 1024 {
                ints = (0..n).map(|i| i64::try_from(a + i * s).ok().map(Int::Known)).collect();
            }
        }
        (Some(Int::Known(0)), Some(end), Some(Int::Known(1))) => size = end.dim()?,
        _ => {}
    }
    Ok(vec![Fact::new(dtype, Some(vec![size])).with_ints(ints)])
}
