//! Convolution, transposed convolution, Gemm, MatMul.
use super::{
    fact::{Args, Fact, broadcast, one, same, show},
    pool::window,
};
use crate::{
    error::{Error, Result},
    ir::{
        Dim,
        op::{AutoPad, ConvAttrs, ConvTransposeAttrs, PoolAttrs},
    },
};

pub(super) fn conv(a: &ConvAttrs, x: &Args) -> Result<Vec<Fact>> {
    let dtype = x.same_dtype(0..3)?;
    one(dtype, conv_dims(a, x, 0, 1, 2)?)
}

/// The output of a convolution of input `xi` with weight `wi` and bias `bi` (which may be absent).
pub(super) fn conv_dims(a: &ConvAttrs, x: &Args, xi: usize, wi: usize, bi: usize) -> Result<Option<Vec<Dim>>> {
    let (xd, wd) = (x.dims(xi)?, x.dims(wi)?);
    let rank = xd.or(wd).map(<[Dim]>::len);
    let Some(rank) = rank else { return Ok(None) };
    if rank < 3 || xd.is_some_and(|d| d.len() != rank) || wd.is_some_and(|d| d.len() != rank) {
        return Err(Error::shape("input and weight need equal ranks of at least 3"));
    }
    let unknown = vec![Dim::Unknown; rank];
    let (xd, wd) = (xd.unwrap_or(&unknown), wd.unwrap_or(&unknown));
    let group = a.group;
    if group == 0 {
        return Err(Error::shape("group 0"));
    }
    if let (Dim::Fixed(c), Dim::Fixed(per)) = (&xd[1], &wd[1])
        && per.checked_mul(group) != Some(*c)
    {
        return Err(Error::shape(format!(
            "the input has {c} channels, the weight takes {per} in each of {group} groups"
        )));
    }
    if let Dim::Fixed(m) = wd[0]
        && m % group != 0
    {
        return Err(Error::shape(format!("{m} output channels in {group} groups")));
    }
    let m = x.vector(bi, "the bias", &wd[0])?;
    let mut kernel = Vec::with_capacity(rank - 2);
    for i in 0..rank - 2 {
        let given = a.kernel.get(i).map_or(Dim::Unknown, |&k| Dim::Fixed(k));
        kernel.push(same(&wd[i + 2], &given).map_err(|_| {
            Error::shape(format!("kernel_shape {:?}, but the weight has {}", a.kernel, show(&wd[2..])))
        })?);
    }
    let attrs = PoolAttrs {
        kernel: Vec::new(),
        strides: a.strides.clone(),
        dilations: a.dilations.clone(),
        pads: a.pads.clone(),
        auto_pad: a.auto_pad,
        ceil_mode: false,
    };
    let mut out = vec![xd[0].clone(), m];
    out.extend(window(&attrs, &kernel, &xd[2..])?);
    Ok(Some(out))
}

pub(super) fn conv_transpose(t: &ConvTransposeAttrs, x: &Args) -> Result<Vec<Fact>> {
    let dtype = x.same_dtype(0..3)?;
    let (Some(xd), Some(wd)) = (x.dims(0)?, x.dims(1)?) else { return one(dtype, None) };
    let rank = xd.len();
    if rank < 3 || wd.len() != rank {
        return Err(Error::shape("input and weight need equal ranks of at least 3"));
    }
    let (a, n) = (&t.conv, rank - 2);
    let c = same(&xd[1], &wd[0])
        .map_err(|_| Error::shape(format!("the input has {} channels, the weight takes {}", xd[1], wd[0])))?;
    if a.group == 0 || c.fixed().is_some_and(|c| c % a.group != 0) {
        return Err(Error::shape(format!("{c} input channels in {} groups", a.group)));
    }
    let m = match &wd[1] {
        Dim::Fixed(m) => Dim::Fixed(m.checked_mul(a.group).ok_or_else(|| Error::shape("channel overflow"))?),
        d if a.group == 1 => d.clone(),
        _ => Dim::Unknown,
    };
    let m = x.vector(2, "the bias", &m)?;
    let list = |v: &[usize], default: usize, what: &str| match v.len() {
        0 => Ok(vec![default; n]),
        l if l == n => Ok(v.to_vec()),
        l => Err(Error::shape(format!("{what} has {l} entries, expected {n}"))),
    };
    let strides = list(&a.strides, 1, "strides")?;
    let dilations = list(&a.dilations, 1, "dilations")?;
    let extra = list(&t.output_padding, 0, "output_padding")?;
    if !matches!(t.output_shape.len(), 0) && t.output_shape.len() != n {
        return Err(Error::shape(format!("output_shape has {} entries, expected {n}", t.output_shape.len())));
    }
    if !matches!(a.pads.len(), 0) && a.pads.len() != 2 * n {
        return Err(Error::shape(format!("pads has {} entries, expected {}", a.pads.len(), 2 * n)));
    }
    let mut out = vec![xd[0].clone(), m];
    for i in 0..n {
        if strides[i] == 0 || dilations[i] == 0 {
            return Err(Error::shape("a stride or dilation of 0"));
        }
        let given = a.kernel.get(i).map_or(Dim::Unknown, |&k| Dim::Fixed(k));
        let k = same(&wd[i + 2], &given)
            .map_err(|_| Error::shape(format!("kernel_shape {:?}, but the weight has {}", a.kernel, show(&wd[2..]))))?;
        let pad = |j: usize| i128::from(a.pads.get(j).copied().unwrap_or(0));
        let wide = |v: usize| i128::try_from(v).unwrap_or(i128::MAX >> 70);
        let size = match (t.output_shape.get(i), a.auto_pad, &xd[i + 2]) {
            (Some(&s), _, _) => Some(wide(s)),
            (None, AutoPad::SameUpper | AutoPad::SameLower, Dim::Fixed(s)) => wide(*s).checked_mul(wide(strides[i])),
            (None, mode, Dim::Fixed(s)) => k.fixed().map(|k| {
                let pads = if mode == AutoPad::NotSet { pad(i) + pad(n + i) } else { 0 };
                let (steps, taps) = (wide(*s) - 1, wide(k) - 1);
                let spread = steps.saturating_mul(wide(strides[i]));
                spread.saturating_add(taps.saturating_mul(wide(dilations[i]))).saturating_add(wide(extra[i]) + 1 - pads)
            }),
            (None, _, Dim::Sym(_) | Dim::Unknown) => None,
        };
        out.push(match size {
            None => Dim::Unknown,
            Some(s) => Dim::Fixed(
                usize::try_from(s).map_err(|_| Error::shape(format!("spatial axis {i}: an output of size {s}")))?,
            ),
        });
    }
    one(dtype, Some(out))
}

pub(super) fn gemm(trans_a: bool, trans_b: bool, x: &Args) -> Result<Vec<Fact>> {
    let dtype = x.same_dtype(0..3)?;
    let side = |i: usize, trans: bool| -> Result<(Dim, Dim)> {
        match x.dims(i)? {
            None => Ok((Dim::Unknown, Dim::Unknown)),
            Some([p, q]) => Ok(if trans { (q.clone(), p.clone()) } else { (p.clone(), q.clone()) }),
            Some(d) => Err(Error::shape(format!("input {i} has rank {}, expected 2", d.len()))),
        }
    };
    let ((m, k), (k2, n)) = (side(0, trans_a)?, side(1, trans_b)?);
    same(&k, &k2).map_err(|_| Error::shape(format!("the inner sizes {k} and {k2} differ")))?;
    let out = vec![m, n];
    if let Some(c) = x.get(2).and_then(Fact::dims) {
        let b = broadcast(&out, c)?;
        let grows = b.len() != 2 || b.iter().zip(&out).any(|(b, o)| b.fixed() != o.fixed() && o.fixed().is_some());
        if grows {
            return Err(Error::shape(format!("C {} does not broadcast to {}", show(c), show(&out))));
        }
    }
    one(dtype, Some(out))
}

pub(super) fn matmul(x: &Args) -> Result<Vec<Fact>> {
    one(x.same_dtype(0..2)?, matmul_dims(x, 0, 1)?)
}

/// NumPy's `matmul` of inputs `ai` and `bi`.
pub(super) fn matmul_dims(x: &Args, ai: usize, bi: usize) -> Result<Option<Vec<Dim>>> {
    let (Some(a), Some(b)) = (x.dims(ai)?, x.dims(bi)?) else { return Ok(None) };
    if a.is_empty() || b.is_empty() {
        return Err(Error::shape("a matrix product of a scalar"));
    }
    let (a_vector, b_vector) = (a.len() == 1, b.len() == 1);
    let inner_a = &a[a.len() - 1];
    let inner_b = if b_vector { &b[0] } else { &b[b.len() - 2] };
    same(inner_a, inner_b).map_err(|_| Error::shape(format!("the inner sizes {inner_a} and {inner_b} differ")))?;
    let mut out = broadcast(&a[..a.len().saturating_sub(2)], &b[..b.len().saturating_sub(2)])?;
    if !a_vector {
        out.push(a[a.len() - 2].clone());
    }
    if !b_vector {
        out.push(b[b.len() - 1].clone());
    }
    Ok(Some(out))
}
