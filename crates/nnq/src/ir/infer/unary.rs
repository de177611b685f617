//! Element-wise functions of one tensor.
use super::fact::{Args, Fact, one};
use crate::{
    error::{Error, Result},
    ir::{DType, Dim, op::Unary},
};

pub(super) fn run(u: Unary, x: &Args) -> Result<Vec<Fact>> {
    let f = x.need(0)?;
    let mut out = Fact::new(f.dtype, f.dims().map(<[Dim]>::to_vec));
    match u {
        Unary::IsInf { .. } | Unary::IsNaN => out.dtype = Some(DType::Bool),
        Unary::Not if f.dtype.is_some_and(|d| d != DType::Bool) => {
            return Err(Error::shape(format!("Not of {}, expected bool", f.dtype.map_or("?", DType::name))));
        }
        // Whole numbers stay what they are.
        Unary::Floor | Unary::Ceil | Unary::Round => out = out.with_ints(f.ints.clone()),
        _ => {}
    }
    Ok(vec![out])
}

pub(super) fn clip(x: &Args) -> Result<Vec<Fact>> {
    let dtype = x.same_dtype(0..3)?;
    for i in [1, 2] {
        if let Some(d) = x.get(i).and_then(Fact::dims)
            && d.iter().any(|d| d.fixed().is_some_and(|n| n != 1))
        {
            return Err(Error::shape("a bound that is no scalar"));
        }
    }
    one(dtype, x.dims(0)?.map(<[Dim]>::to_vec))
}

pub(super) fn cast(to: DType, x: &Args) -> Result<Vec<Fact>> {
    let f = x.need(0)?;
    // Sizes survive in every type that holds them exactly; narrow integers would wrap.
    let wide = matches!(to, DType::I32 | DType::I64 | DType::U32 | DType::U64 | DType::F32 | DType::F64);
    let small = |i: &super::fact::Int| i.known().is_none_or(|n| (0..1 << 24).contains(&n) || to == DType::I64);
    let ints = f.ints.clone().filter(|v| wide && v.iter().all(small));
    Ok(vec![Fact::new(Some(to), f.dims().map(<[Dim]>::to_vec)).with_ints(ints)])
}

pub(super) fn cast_like(x: &Args) -> Result<Vec<Fact>> {
    one(x.dtype(1), x.dims(0)?.map(<[Dim]>::to_vec))
}
