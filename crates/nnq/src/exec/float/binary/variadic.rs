//! Max, Min, Sum, Mean of any number of tensors; Where.
use super::{Number, Zip, plain, wide};
use crate::{
    error::{Error, Result},
    exec::float::{
        Ctx, Inputs,
        args::{self, blank, by_width, bytes_mut, not_on},
    },
    ir::{DType, Data, Tensor, op::Variadic},
};

pub(in crate::exec::float) fn variadic(v: Variadic, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let parts: Vec<&Tensor> = (0..x.len()).map(|i| args::need(x, i, "operand")).collect::<Result<_>>()?;
    let Some((first, rest)) = parts.split_first() else { return Err(Error::shape(format!("{v:?} of nothing"))) };
    args::same_type(&parts)?;
    let dtype = first.dtype();
    if dtype == DType::Bool || (matches!(v, Variadic::Sum | Variadic::Mean) && !dtype.is_float()) {
        return not_on(v, dtype);
    }
    // Refused before the sum of the first ones is made.
    args::broadcast(&parts.iter().map(|t| t.shape()).collect::<Vec<_>>())?;
    if let Some(y) = args::by_f32(x, |x| variadic(v, x, ctx)) {
        return y;
    }
    let mut sum: Option<Tensor> = None;
    for t in rest {
        let next = pair(v, sum.as_ref().unwrap_or(first), t, ctx)?;
        if let Some(old) = sum.replace(next) {
            ctx.recycle(old);
        }
    }
    let y = match sum {
        Some(y) => y,
        None => args::same(first, first.shape().to_vec(), ctx)?,
    };
    if v != Variadic::Mean {
        return Ok(y);
    }
    let shape = y.shape().to_vec();
    let n = parts.len();
    let data = match y.into_data() {
        Data::F32(b) => Data::F32(b.into_vec().into_iter().map(|x| x / n as f32).collect::<Vec<_>>().into()),
        Data::F64(b) => Data::F64(b.into_vec().into_iter().map(|x| x / n as f64).collect::<Vec<_>>().into()),
        other => other,
    };
    Tensor::new(shape, data)
}

fn pair(v: Variadic, a: &Tensor, b: &Tensor, ctx: &Ctx) -> Result<Tensor> {
    let zip = Zip::new([a.shape(), b.shape()])?;
    match (a.data(), b.data()) {
        (Data::F32(a), Data::F32(b)) => {
            let out = match v {
                Variadic::Max => wide(&zip, a, b, ctx, Number::larger),
                Variadic::Min => wide(&zip, a, b, ctx, Number::smaller),
                Variadic::Sum | Variadic::Mean => wide(&zip, a, b, ctx, |a, b| a + b),
            };
            Tensor::new(zip.shape, Data::F32(out.into()))
        }
        (Data::F64(a), Data::F64(b)) => plain(zip, a, b, function(v)),
        (Data::I8(a), Data::I8(b)) => plain(zip, a, b, function(v)),
        (Data::I16(a), Data::I16(b)) => plain(zip, a, b, function(v)),
        (Data::I32(a), Data::I32(b)) => plain(zip, a, b, function(v)),
        (Data::I64(a), Data::I64(b)) => plain(zip, a, b, function(v)),
        (Data::U8(a), Data::U8(b)) => plain(zip, a, b, function(v)),
        (Data::U16(a), Data::U16(b)) => plain(zip, a, b, function(v)),
        (Data::U32(a), Data::U32(b)) => plain(zip, a, b, function(v)),
        (Data::U64(a), Data::U64(b)) => plain(zip, a, b, function(v)),
        _ => not_on(v, a.dtype()),
    }
}

fn function<T: Number>(v: Variadic) -> fn(T, T) -> T {
    match v {
        Variadic::Max => T::larger,
        Variadic::Min => T::smaller,
        Variadic::Sum | Variadic::Mean => T::add,
    }
}

/// Where.
pub(in crate::exec::float) fn select(x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let condition = args::need(x, 0, "condition")?;
    let (a, b) = (args::need(x, 1, "X")?, args::need(x, 2, "Y")?);
    args::same_type(&[a, b])?;
    let Data::Bool(condition_data) = condition.data() else {
        return Err(Error::shape(format!("the condition must be bool, found {}", condition.dtype())));
    };
    let zip = Zip::new([condition.shape(), a.shape(), b.shape()])?;
    let mut out = blank(a.dtype(), zip.len, ctx);
    by_width!(a.dtype(), T => {
        let a: &[T] = bytemuck::cast_slice(a.data().as_bytes());
        let b: &[T] = bytemuck::cast_slice(b.data().as_bytes());
        zip.chunks(bytemuck::cast_slice_mut::<u8, T>(bytes_mut(&mut out)), |start, out| {
            zip.segments(start, out.len(), |s| {
                for (i, o) in out[s.at..][..s.len].iter_mut().enumerate() {
                    let [c, a_at, b_at] = std::array::from_fn(|k| s.from[k] + i * s.step[k]);
                    *o = if condition_data[c] != 0 { a[a_at] } else { b[b_at] };
                }
            });
        });
    });
    Tensor::new(zip.shape, out)
}
