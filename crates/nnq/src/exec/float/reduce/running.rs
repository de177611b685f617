//! CumSum.
use crate::{
    error::Result,
    exec::float::{
        Inputs,
        args::{self, not_on},
        arrange::around,
    },
    ir::{Data, Element, Tensor},
};

pub(in crate::exec::float) fn cumsum(exclusive: bool, reverse: bool, x: &Inputs) -> Result<Tensor> {
    if let Some(y) = args::by_f32(x, |x| cumsum(exclusive, reverse, x)) {
        return y;
    }
    let t = args::need(x, 0, "x")?;
    let axis = args::axis(args::integer(args::need(x, 1, "axis")?, "axis")?, t.shape().len())?;
    let how = (axis, exclusive, reverse);
    match t.data() {
        // Sums in f64, each rounded to f32 once.
        Data::F32(v) => run::<f32, f64>(t, v, how, |s, x| s + f64::from(x), |s| s as f32),
        Data::F64(v) => run::<f64, f64>(t, v, how, |s, x| s + x, |s| s),
        Data::I32(v) => run::<i32, i32>(t, v, how, i32::wrapping_add, |s| s),
        Data::I64(v) => run::<i64, i64>(t, v, how, i64::wrapping_add, |s| s),
        Data::U32(v) => run::<u32, u32>(t, v, how, u32::wrapping_add, |s| s),
        Data::U64(v) => run::<u64, u64>(t, v, how, u64::wrapping_add, |s| s),
        _ => not_on("CumSum", t.dtype()),
    }
}

fn run<T: Element, S: Copy + Default>(
    t: &Tensor,
    v: &[T],
    (axis, exclusive, reverse): (usize, bool, bool),
    add: fn(S, T) -> S,
    round: fn(S) -> T,
) -> Result<Tensor> {
    let mut out = vec![T::default(); v.len()];
    let (_, n, inner) = around(t.shape(), axis);
    if !v.is_empty() {
        let mut sums = vec![S::default(); inner];
        for (src, dst) in v.chunks(n * inner).zip(out.chunks_mut(n * inner)) {
            sums.fill(S::default());
            for i in 0..n {
                let at = if reverse { n - 1 - i } else { i } * inner;
                for ((s, &x), d) in sums.iter_mut().zip(&src[at..]).zip(&mut dst[at..]) {
                    let before = *s;
                    *s = add(*s, x);
                    *d = round(if exclusive { before } else { *s });
                }
            }
        }
    }
    Ok(Tensor::of(t.shape(), out))
}
