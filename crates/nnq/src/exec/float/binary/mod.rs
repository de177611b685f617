//! Element-wise functions of several tensors, with broadcasting.
mod number;
mod pow;
mod variadic;
mod zip;

pub(super) use variadic::{select, variadic};

use super::{
    Ctx, Inputs,
    args::{self, not_on},
};
use crate::{
    error::{Error, Result},
    ir::{Data, Tensor, op::Binary},
};
use nnq_kernels::widest;
pub(super) use number::Number;
use number::Whole;
use zip::Zip;

pub(super) fn run(b: Binary, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let (a, c) = (args::need(x, 0, "first operand")?, args::need(x, 1, "second operand")?);
    if b == Binary::Pow {
        return pow::run(a, c, ctx);
    }
    args::same_type(&[a, c])?;
    if let Some(y) = args::by_f32(x, |x| run(b, x, ctx)) {
        return y;
    }
    let zip = Zip::new([a.shape(), c.shape()])?;
    if b == Binary::PRelu && zip.shape != a.shape() {
        return Err(Error::shape(format!("slopes of shape {:?} for a tensor of {:?}", c.shape(), a.shape())));
    }
    match (a.data(), c.data()) {
        (Data::F32(a), Data::F32(c)) => match f32_loop(b, &zip, a, c, ctx) {
            Some(out) => Tensor::new(zip.shape, Data::F32(out.into())),
            None => compare(b, zip, a, c),
        },
        (Data::F64(a), Data::F64(c)) => match arithmetic(b) {
            Some(f) => plain(zip, a, c, f),
            None => compare(b, zip, a, c),
        },
        (Data::I8(a), Data::I8(c)) => whole(b, zip, a, c),
        (Data::I16(a), Data::I16(c)) => whole(b, zip, a, c),
        (Data::I32(a), Data::I32(c)) => whole(b, zip, a, c),
        (Data::I64(a), Data::I64(c)) => whole(b, zip, a, c),
        (Data::U8(a), Data::U8(c)) => whole(b, zip, a, c),
        (Data::U16(a), Data::U16(c)) => whole(b, zip, a, c),
        (Data::U32(a), Data::U32(c)) => whole(b, zip, a, c),
        (Data::U64(a), Data::U64(c)) => whole(b, zip, a, c),
        (Data::Bool(a), Data::Bool(c)) => {
            let f: fn(u8, u8) -> bool = match b {
                Binary::And => |a, c| a != 0 && c != 0,
                Binary::Or => |a, c| a != 0 || c != 0,
                Binary::Xor => |a, c| (a != 0) != (c != 0),
                Binary::Equal => |a, c| (a != 0) == (c != 0),
                _ => return not_on(b, crate::ir::DType::Bool),
            };
            truth(zip, a, c, f)
        }
        _ => not_on(b, a.dtype()),
    }
}

/// f32 in a loop of its own for each function and instruction set. `None`: the result is no f32.
fn f32_loop(b: Binary, zip: &Zip<2>, a: &[f32], c: &[f32], ctx: &Ctx) -> Option<Vec<f32>> {
    Some(match b {
        Binary::Add => wide(zip, a, c, ctx, |a, c| a + c),
        Binary::Sub => wide(zip, a, c, ctx, |a, c| a - c),
        Binary::Mul => wide(zip, a, c, ctx, |a, c| a * c),
        Binary::Div => wide(zip, a, c, ctx, |a, c| a / c),
        Binary::PRelu => wide(zip, a, c, ctx, |a, c| if a < 0.0 { a * c } else { a }),
        Binary::Mod { fmod: true } => wide(zip, a, c, ctx, |a, c| a % c),
        _ => return None,
    })
}

/// The same operations in wider registers; products and sums are never fused, so the results are the same bits.
fn wide(zip: &Zip<2>, a: &[f32], c: &[f32], ctx: &Ctx, f: impl Fn(f32, f32) -> f32 + Sync) -> Vec<f32> {
    let mut out = ctx.take(zip.len);
    zip.chunks(&mut out, |start, out| {
        widest(
            #[inline(always)]
            || zip.pairs(a, c, start, out, &f),
        );
    });
    out
}

/// One loop for each type, with the function behind a pointer: these types are rare in large tensors.
fn plain<T: Number>(zip: Zip<2>, a: &[T], c: &[T], f: fn(T, T) -> T) -> Result<Tensor> {
    let mut out = vec![T::default(); zip.len];
    zip.chunks(&mut out, |start, out| zip.pairs(a, c, start, out, f));
    Tensor::new(zip.shape, T::wrap(out.into()))
}

fn truth<T: Copy + Sync>(zip: Zip<2>, a: &[T], c: &[T], f: fn(T, T) -> bool) -> Result<Tensor> {
    let mut out = vec![0u8; zip.len];
    zip.chunks(&mut out, |start, out| zip.pairs(a, c, start, out, |a, c| u8::from(f(a, c))));
    Tensor::new(zip.shape, Data::Bool(out.into()))
}

fn arithmetic<T: Number>(b: Binary) -> Option<fn(T, T) -> T> {
    Some(match b {
        Binary::Add => T::add,
        Binary::Sub => T::sub,
        Binary::Mul => T::mul,
        Binary::Div => T::div,
        Binary::Mod { fmod: true } => T::fmod,
        Binary::PRelu => T::prelu,
        _ => return None,
    })
}

fn compare<T: Number>(b: Binary, zip: Zip<2>, a: &[T], c: &[T]) -> Result<Tensor> {
    let f: fn(T, T) -> bool = match b {
        Binary::Equal => |a, c| a == c,
        Binary::Greater => |a, c| a > c,
        Binary::GreaterOrEqual => |a, c| a >= c,
        Binary::Less => |a, c| a < c,
        Binary::LessOrEqual => |a, c| a <= c,
        Binary::Mod { fmod: false } if !T::WHOLE => {
            return Err(Error::shape("Mod of floating-point numbers needs the attribute fmod = 1"));
        }
        _ => return not_on(b, T::DTYPE),
    };
    truth(zip, a, c, f)
}

fn whole<T: Whole>(b: Binary, zip: Zip<2>, a: &[T], c: &[T]) -> Result<Tensor> {
    if matches!(b, Binary::Div | Binary::Mod { .. }) && zip.len > 0 && c.contains(&T::default()) {
        return Err(Error::value("an integer divided by zero"));
    }
    let f: fn(T, T) -> T = match b {
        Binary::Mod { fmod: false } => T::modulo,
        Binary::BitwiseAnd => T::and,
        Binary::BitwiseOr => T::or,
        Binary::BitwiseXor => T::xor,
        Binary::BitShift { left: true } if T::UNSIGNED => T::left,
        Binary::BitShift { left: false } if T::UNSIGNED => T::right,
        _ => match arithmetic(b) {
            Some(f) => f,
            None => return compare(b, zip, a, c),
        },
    };
    plain(zip, a, c, f)
}

#[cfg(test)]
mod tests;
