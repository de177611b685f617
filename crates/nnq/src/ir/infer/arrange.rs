//! Operators that move elements.
use super::fact::{Args, Fact, Int, axes, axis, broadcast, one, same};
use crate::{
    error::{At, Error, Result},
    ir::{DType, Dim},
};

/// From here on, a bound of Slice means "to the end" whatever the size.
const FAR: i64 = i32::MAX as i64;

pub(super) fn concat(a: i64, x: &Args) -> Result<Vec<Fact>> {
    let n = x.x.len();
    if n == 0 {
        return Err(Error::shape("no inputs"));
    }
    let dtype = x.same_dtype(0..n)?;
    let Some(rank) = (0..n).find_map(|i| x.get(i).and_then(Fact::rank)) else { return one(dtype, None) };
    let a = axis(a, rank)?;
    let mut out = vec![Dim::Unknown; rank];
    let mut total = Int::Known(0);
    for i in 0..n {
        let Some(d) = x.dims(i)? else {
            total = Int::Unknown;
            continue;
        };
        if d.len() != rank {
            return Err(Error::shape(format!("ranks {rank} and {} cannot be concatenated", d.len())));
        }
        for k in (0..rank).filter(|&k| k != a) {
            out[k] = same(&out[k], &d[k]).at(|| format!("axis {k} of input {i}"))?;
        }
        total = total.add(&(&d[a]).into());
    }
    out[a] = total.dim()?;
    let ints: Option<Vec<Int>> = if rank == 1 {
        (0..n).map(|i| x.get(i)?.ints.clone()).collect::<Option<Vec<_>>>().map(|v| v.concat())
    } else {
        None
    };
    Ok(vec![Fact::new(dtype, Some(out)).with_ints(ints)])
}

pub(super) fn split(a: i64, x: &Args) -> Result<Vec<Fact>> {
    let dtype = x.dtype(0);
    let n = x.outputs;
    let Some(d) = x.dims(0)? else { return Ok(vec![Fact::new(dtype, None); n]) };
    let a = axis(a, d.len())?;
    let sizes: Vec<Dim> = match x.get(1) {
        Some(f) => match &f.ints {
            Some(v) if v.len() != n => {
                return Err(Error::shape(format!("{} sizes for {n} outputs", v.len())));
            }
            Some(v) => {
                let sizes: Vec<Dim> = v.iter().map(Int::dim).collect::<Result<_>>()?;
                let sum = v.iter().fold(Int::Known(0), |s, i| s.add(i)).dim()?;
                same(&sum, &d[a])
                    .map_err(|_| Error::shape(format!("pieces of {sum} in all, the axis has {}", d[a])))?;
                sizes
            }
            None => vec![Dim::Unknown; n],
        },
        None => match d[a].fixed() {
            // Equal pieces, the last one smaller where it does not divide.
            Some(size) if n > 0 => {
                let piece = size.div_ceil(n);
                let last = size.checked_sub(piece * (n - 1)).ok_or_else(|| {
                    Error::shape(format!("{size} elements cannot be split into {n} pieces of {piece}"))
                })?;
                (0..n).map(|i| Dim::Fixed(if i + 1 == n { last } else { piece })).collect()
            }
            _ if n == 1 => vec![d[a].clone()],
            _ => vec![Dim::Unknown; n],
        },
    };
    let mut at = Some(0usize);
    let mut out = Vec::with_capacity(n);
    for size in sizes {
        let mut dims = d.to_vec();
        let end = at.zip(size.fixed()).and_then(|(at, n)| at.checked_add(n));
        let ints = match (&x.need(0)?.ints, at, end) {
            (Some(v), Some(from), Some(to)) if d.len() == 1 => v.get(from..to).map(<[Int]>::to_vec),
            _ => None,
        };
        at = end;
        dims[a] = size;
        out.push(Fact::new(dtype, Some(dims)).with_ints(ints));
    }
    Ok(out)
}

/// First index and number of elements of a slice of an axis of `n`.
fn span(n: usize, start: i64, end: i64, step: i64) -> (i128, i128) {
    let n = i128::try_from(n).unwrap_or(i128::MAX >> 2);
    let (start, end, step) = (i128::from(start), i128::from(end), i128::from(step));
    let wrap = |p: i128| if p < 0 { p + n } else { p };
    let (start, end) = if step > 0 {
        (wrap(start).clamp(0, n), wrap(end).clamp(0, n))
    } else {
        (wrap(start).clamp(0, (n - 1).max(0)), wrap(end).clamp(-1, n - 1))
    };
    let len = if step > 0 { (end - start + step - 1) / step } else { (start - end - step - 1) / -step };
    (start, if n == 0 { 0 } else { len.max(0) })
}

fn sliced(d: &Dim, start: &Int, end: &Int, step: i64) -> Dim {
    if let (Dim::Fixed(n), Int::Known(s), Int::Known(e)) = (d, start, end) {
        return usize::try_from(span(*n, *s, *e, step).1).map_or(Dim::Unknown, Dim::Fixed);
    }
    let to_end = match end {
        Int::Known(e) => *e >= FAR,
        Int::Sym(s) => *d == Dim::Sym(s.clone()),
        Int::Unknown => false,
    };
    let forward = step == 1 && *start == Int::Known(0) && to_end;
    let backward =
        step == -1 && start.known().is_some_and(|s| s == -1 || s >= FAR) && end.known().is_some_and(|e| e <= -FAR);
    if forward || backward { d.clone() } else { Dim::Unknown }
}

pub(super) fn slice(x: &Args) -> Result<Vec<Fact>> {
    let f = x.need(0)?;
    let Some(d) = f.dims() else { return one(f.dtype, None) };
    let (starts, ends) = (x.need(1)?, x.need(2)?);
    let count = [Some(starts), Some(ends), x.get(3), x.get(4)]
        .into_iter()
        .flatten()
        .find_map(|f| f.dims().and_then(|d| d.first()).and_then(Dim::fixed));
    let Some(n) = count else { return one(f.dtype, Some(vec![Dim::Unknown; d.len()])) };
    let which = match x.get(3) {
        None => Some((0..i64::try_from(n).unwrap_or(0)).collect()),
        Some(a) => a.known_ints(),
    };
    let Some(which) = which else { return one(f.dtype, Some(vec![Dim::Unknown; d.len()])) };
    let which = axes(&which, d.len())?;
    let list = |f: &Fact, what: &str| match &f.ints {
        Some(v) if v.len() != which.len() => Err(Error::shape(format!("{} {what} for {} axes", v.len(), which.len()))),
        Some(v) => Ok(v.clone()),
        None => Ok(vec![Int::Unknown; which.len()]),
    };
    let (starts, ends) = (list(starts, "starts")?, list(ends, "ends")?);
    let steps = match x.get(4) {
        None => vec![Int::Known(1); which.len()],
        Some(s) => list(s, "steps")?,
    };
    let mut out = d.to_vec();
    let mut ints = None;
    for (i, &a) in which.iter().enumerate() {
        out[a] = match steps[i] {
            Int::Known(0) => return Err(Error::shape("a step of 0")),
            Int::Known(step) => sliced(&d[a], &starts[i], &ends[i], step),
            Int::Sym(_) | Int::Unknown => Dim::Unknown,
        };
    }
    if let (Some(v), [0], [Int::Known(s)], [Int::Known(e)], [Int::Known(t)]) =
        (&f.ints, which.as_slice(), starts.as_slice(), ends.as_slice(), steps.as_slice())
    {
        let (from, len) = span(v.len(), *s, *e, *t);
        ints =
            (0..len).map(|i| usize::try_from(from + i * i128::from(*t)).ok().and_then(|i| v.get(i).cloned())).collect();
    }
    Ok(vec![Fact::new(f.dtype, Some(out)).with_ints(ints)])
}

pub(super) fn pad(x: &Args) -> Result<Vec<Fact>> {
    let dtype = x.same_dtype([0, 2])?;
    let Some(d) = x.dims(0)? else { return one(dtype, None) };
    let which = match x.get(3) {
        None => Some((0..d.len()).collect()),
        Some(a) => a.known_ints().map(|l| axes(&l, d.len())).transpose()?,
    };
    let Some(which) = which else { return one(dtype, Some(vec![Dim::Unknown; d.len()])) };
    let mut out = d.to_vec();
    match &x.need(1)?.ints {
        None => which.iter().for_each(|&a| out[a] = Dim::Unknown),
        Some(p) if p.len() != 2 * which.len() => {
            return Err(Error::shape(format!("{} pads for {} axes", p.len(), which.len())));
        }
        Some(p) => {
            for (i, &a) in which.iter().enumerate() {
                let by = p[i].add(&p[which.len() + i]);
                out[a] = Int::from(&d[a]).add(&by).dim().at(|| format!("axis {a}"))?;
            }
        }
    }
    one(dtype, Some(out))
}

pub(super) fn transpose(perm: &[usize], x: &Args) -> Result<Vec<Fact>> {
    let dims = match x.dims(0)? {
        None => None,
        Some(d) if perm.is_empty() => Some(d.iter().rev().cloned().collect()),
        Some(d) => {
            let mut seen = vec![false; d.len()];
            let fresh = |&p: &usize| seen.get_mut(p).is_some_and(|s| !std::mem::replace(s, true));
            if perm.len() != d.len() || !perm.iter().all(fresh) {
                return Err(Error::shape(format!("{perm:?} is no permutation of {} axes", d.len())));
            }
            Some(perm.iter().map(|&p| d[p].clone()).collect())
        }
    };
    one(x.dtype(0), dims)
}

/// The dimensions that a shape tensor asks for; `None` when not even their number is known.
pub(super) fn target(f: &Fact) -> Result<Option<Vec<Dim>>> {
    if let Some(v) = &f.ints {
        return v.iter().map(Int::dim).collect::<Result<_>>().map(Some);
    }
    let n = f.dims().and_then(|d| d.first()).and_then(Dim::fixed);
    Ok(n.filter(|&n| n <= 64).map(|n| vec![Dim::Unknown; n]))
}

pub(super) fn expand(x: &Args) -> Result<Vec<Fact>> {
    let f = x.need(0)?;
    let dims = match (f.dims(), target(x.need(1)?)?) {
        (Some(d), Some(t)) => Some(broadcast(d, &t)?),
        _ => None,
    };
    let ints = match (&f.ints, dims.as_deref()) {
        (Some(v), Some([Dim::Fixed(n)])) if v.len() == 1 && *n <= 1024 => Some(vec![v[0].clone(); *n]),
        (Some(v), Some([Dim::Fixed(n)])) if v.len() == *n => Some(v.clone()),
        _ => None,
    };
    Ok(vec![Fact::new(f.dtype, dims).with_ints(ints)])
}

pub(super) fn tile(x: &Args) -> Result<Vec<Fact>> {
    let Some(d) = x.dims(0)? else { return one(x.dtype(0), None) };
    let out = match &x.need(1)?.ints {
        None => vec![Dim::Unknown; d.len()],
        Some(r) if r.len() != d.len() => {
            return Err(Error::shape(format!("{} repeats for rank {}", r.len(), d.len())));
        }
        Some(r) => d.iter().zip(r).map(|(d, r)| Int::from(d).mul(r).dim()).collect::<Result<_>>()?,
    };
    one(x.dtype(0), Some(out))
}

fn four<'a>(x: &'a Args, block: usize) -> Result<Option<&'a [Dim]>> {
    if block == 0 {
        return Err(Error::shape("a block size of 0"));
    }
    match x.dims(0)? {
        Some(d) if d.len() != 4 => Err(Error::shape(format!("an input of rank {}, expected 4", d.len()))),
        d => Ok(d),
    }
}

fn divide(d: &Dim, by: usize, what: &str) -> Result<Dim> {
    match d.fixed() {
        Some(n) if by == 0 || n % by != 0 => Err(Error::shape(format!("{n} {what} do not divide by {by}"))),
        Some(n) => Ok(Dim::Fixed(n / by)),
        None if by == 1 => Ok(d.clone()),
        None => Ok(Dim::Unknown),
    }
}

fn times(d: &Dim, by: usize) -> Result<Dim> {
    Int::from(d).mul(&Int::from(&Dim::Fixed(by))).dim()
}

pub(super) fn depth_to_space(block: usize, x: &Args) -> Result<Vec<Fact>> {
    let Some(d) = four(x, block)? else { return one(x.dtype(0), None) };
    let square = block.checked_mul(block).ok_or_else(|| Error::shape(format!("a block of {block}")))?;
    let out = vec![d[0].clone(), divide(&d[1], square, "channels")?, times(&d[2], block)?, times(&d[3], block)?];
    one(x.dtype(0), Some(out))
}

pub(super) fn space_to_depth(block: usize, x: &Args) -> Result<Vec<Fact>> {
    let Some(d) = four(x, block)? else { return one(x.dtype(0), None) };
    let square = block.checked_mul(block).ok_or_else(|| Error::shape(format!("a block of {block}")))?;
    let out =
        vec![d[0].clone(), times(&d[1], square)?, divide(&d[2], block, "rows")?, divide(&d[3], block, "columns")?];
    one(x.dtype(0), Some(out))
}

pub(super) fn identity(x: &Args) -> Result<Vec<Fact>> {
    let f = x.need(0)?;
    Ok(vec![Fact::new(f.dtype, f.dims().map(<[Dim]>::to_vec)).with_ints(f.ints.clone())])
}

pub(super) fn dropout(x: &Args) -> Result<Vec<Fact>> {
    let f = x.need(0)?;
    let dims = f.dims().map(<[Dim]>::to_vec);
    Ok(vec![Fact::new(f.dtype, dims.clone()), Fact::new(Some(DType::Bool), dims)])
}

pub(super) fn trilu(x: &Args) -> Result<Vec<Fact>> {
    let dims = x.dims(0)?;
    if let Some(d) = dims.filter(|d| d.len() < 2) {
        return Err(Error::shape(format!("a triangle of a tensor of rank {}", d.len())));
    }
    one(x.dtype(0), dims.map(<[Dim]>::to_vec))
}
