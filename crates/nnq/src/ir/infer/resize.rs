//! Resize: sizes from scales or given sizes.
use super::fact::{Args, Fact, Int, axes, one};
use crate::{
    error::{Error, Result},
    ir::{
        Dim,
        op::{AspectPolicy, ResizeAttrs},
    },
};

pub(super) fn run(a: &ResizeAttrs, x: &Args) -> Result<Vec<Fact>> {
    let dtype = x.dtype(0);
    let Some(d) = x.dims(0)? else { return one(dtype, None) };
    let which = if a.axes.is_empty() { (0..d.len()).collect() } else { axes(&a.axes, d.len())? };
    let count = |what: &str, n: usize| match n == which.len() {
        true => Ok(()),
        false => Err(Error::shape(format!("{n} {what} for {} axes", which.len()))),
    };
    // An empty tensor is as good as none: older opsets could not leave inputs out.
    let present = |i: usize| x.get(i).filter(|f| f.dims() != Some(&[Dim::Fixed(0)]));
    let mut out = d.to_vec();
    match (present(2), present(3)) {
        (Some(_), Some(_)) => return Err(Error::shape("both scales and sizes are given")),
        (None, None) => return Err(Error::shape("neither scales nor sizes are given")),
        (Some(scales), None) => {
            let list = match (&scales.constant, &scales.ints) {
                (Some(t), _) => Some(t.to_f32s().into_iter().map(Some).collect::<Vec<_>>()),
                (None, Some(v)) => Some(v.iter().map(|i| i.known().map(to_f32)).collect()),
                (None, None) => None,
            };
            let Some(list) = list else {
                which.iter().for_each(|&i| out[i] = Dim::Unknown);
                return one(dtype, Some(out));
            };
            count("scales", list.len())?;
            for (&i, s) in which.iter().zip(list) {
                out[i] = match s {
                    Some(s) if !(s.is_finite() && s > 0.0) => return Err(Error::shape(format!("a scale of {s}"))),
                    Some(1.0) => d[i].clone(),
                    Some(s) => d[i].fixed().map_or(Dim::Unknown, |n| Dim::Fixed(scaled(n, s))),
                    None => Dim::Unknown,
                };
            }
        }
        (None, Some(sizes)) => {
            let Some(list) = &sizes.ints else {
                which.iter().for_each(|&i| out[i] = Dim::Unknown);
                return one(dtype, Some(out));
            };
            count("sizes", list.len())?;
            match a.aspect {
                AspectPolicy::Stretch => {
                    for (&i, n) in which.iter().zip(list) {
                        out[i] = n.dim()?;
                    }
                }
                AspectPolicy::NotLarger | AspectPolicy::NotSmaller => keep_aspect(a.aspect, &which, list, d, &mut out)?,
            }
        }
    }
    one(dtype, Some(out))
}

/// `floor(n * scale)` with the product in binary32.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn scaled(n: usize, scale: f32) -> usize {
    (n as f32 * scale) as usize
}

#[allow(clippy::cast_precision_loss)]
fn to_f32(n: i64) -> f32 {
    n as f32
}

/// One scale for all axes: the smallest or largest of size / input; sizes are rounded half up.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn keep_aspect(policy: AspectPolicy, which: &[usize], list: &[Int], d: &[Dim], out: &mut [Dim]) -> Result<()> {
    let mut scale: Option<f64> = None;
    for (&i, n) in which.iter().zip(list) {
        let (Some(n), Some(size)) = (n.known(), d[i].fixed()) else {
            which.iter().for_each(|&i| out[i] = Dim::Unknown);
            return Ok(());
        };
        if n < 0 || size == 0 {
            return Err(Error::shape(format!("a size of {n} for an axis of {size}")));
        }
        let s = n as f64 / size as f64;
        scale = Some(scale.map_or(s, |t| if policy == AspectPolicy::NotLarger { t.min(s) } else { t.max(s) }));
    }
    let scale = scale.unwrap_or(1.0);
    for &i in which {
        // Adding a half and truncating is the specification's rounding of sizes; no quantization is involved.
        out[i] = d[i].fixed().map_or(Dim::Unknown, |n| Dim::Fixed((n as f64 * scale + 0.5) as usize));
    }
    Ok(())
}
