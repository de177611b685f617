//! ConstantOfShape, Range, Trilu.
use super::{
    super::{
        Ctx, Inputs,
        args::{self, by_width, bytes_mut},
    },
    Axis, Plan,
};
use crate::{
    error::{Error, Result},
    ir::{DType, Element, Tensor},
};

pub(in crate::exec::float) fn constant_of_shape(value: &Tensor, x: &Inputs) -> Result<Tensor> {
    let shape = args::sizes(&args::list(args::need(x, 0, "shape")?, "shape")?, "shape")?;
    if value.len() != 1 {
        return Err(Error::shape(format!("the value must be one element, found shape {:?}", value.shape())));
    }
    let axes = shape.iter().map(|&d| Axis::even(d, 0)).collect();
    Plan { shape, base: 0, axes }.apply(value, None, &Ctx::new())
}

pub(in crate::exec::float) fn range(x: &Inputs) -> Result<Tensor> {
    let [a, b, d] = [(0, "start"), (1, "limit"), (2, "delta")].map(|(i, what)| args::need(x, i, what));
    let (start, limit, delta) = (a?, b?, d?);
    args::same_type(&[start, limit, delta])?;
    if [start, limit, delta].iter().any(|t| t.len() != 1) {
        return Err(Error::shape("start, limit and delta must be one number each"));
    }
    match start.dtype() {
        DType::F32 => real::<f32>(start, limit, delta),
        DType::F64 => real::<f64>(start, limit, delta),
        DType::I16 | DType::I32 | DType::I64 => whole(start, limit, delta),
        other => args::not_on("Range", other),
    }
}

fn steps(n: f64) -> Result<usize> {
    if n.is_nan() {
        return Err(Error::value("Range with a delta of 0 or a bound that is not a number"));
    }
    args::room(&[n.ceil().max(0.0) as usize])
}

fn real<T>(start: &Tensor, limit: &Tensor, delta: &Tensor) -> Result<Tensor>
where
    T: Element + num::Real,
{
    let [a, b, d] = [start, limit, delta].map(|t| t.as_slice::<T>().map(|s| s[0]));
    let (a, b, d) = (a?, b?, d?);
    let n = if d.wide() == 0.0 { f64::NAN } else { (b.wide() - a.wide()) / d.wide() };
    let n = steps(n)?;
    Ok(Tensor::of(&[n], (0..n).map(|i| a.step(i, d)).collect()))
}

mod num {
    /// The two floating-point types of Range.
    pub trait Real: Copy {
        fn wide(self) -> f64;
        /// `self + i * delta` in the type itself.
        fn step(self, i: usize, delta: Self) -> Self;
    }
    impl Real for f32 {
        fn wide(self) -> f64 {
            self.into()
        }
        fn step(self, i: usize, delta: Self) -> Self {
            self + i as f32 * delta
        }
    }
    impl Real for f64 {
        fn wide(self) -> f64 {
            self
        }
        fn step(self, i: usize, delta: Self) -> Self {
            self + i as f64 * delta
        }
    }
}

fn whole(start: &Tensor, limit: &Tensor, delta: &Tensor) -> Result<Tensor> {
    let [a, b, d] = [start, limit, delta].map(|t| t.to_i64s().map(|v| i128::from(v[0])));
    let (a, b, d) = (a?, b?, d?);
    let n = match d {
        0 => return Err(Error::value("Range with a delta of 0")),
        1.. => (b - a + d - 1).max(0) / d,
        _ => (a - b - d - 1).max(0) / -d,
    };
    let n = args::room(&[usize::try_from(n).unwrap_or(usize::MAX)])?;
    // All elements lie between start and limit, so they fit the type.
    let at = |i: usize| a + i as i128 * d;
    Ok(match start.dtype() {
        DType::I16 => Tensor::of(&[n], (0..n).map(|i| at(i) as i16).collect()),
        DType::I32 => Tensor::of(&[n], (0..n).map(|i| at(i) as i32).collect()),
        _ => Tensor::of(&[n], (0..n).map(|i| at(i) as i64).collect()),
    })
}

pub(in crate::exec::float) fn trilu(upper: bool, x: &Inputs) -> Result<Tensor> {
    let t = args::need(x, 0, "input")?;
    let k = args::optional(x, 1).map_or(Ok(0), |k| args::integer(k, "k"))?;
    let &[.., rows, columns] = t.shape() else {
        return Err(Error::shape(format!("Trilu of shape {:?}: expected at least rank 2", t.shape())));
    };
    let mut data = t.data().clone();
    if t.is_empty() {
        return Tensor::new(t.shape().to_vec(), data);
    }
    by_width!(t.dtype(), T => {
        let data: &mut [T] = bytemuck::cast_slice_mut(bytes_mut(&mut data));
        for (i, row) in data.chunks_mut(columns).enumerate() {
            // Column `i + k` is the diagonal.
            let diagonal = (i % rows) as i128 + i128::from(k);
            if upper {
                row[..diagonal.clamp(0, columns as i128) as usize].fill(0);
            } else {
                row[(diagonal + 1).clamp(0, columns as i128) as usize..].fill(0);
            }
        }
    });
    Tensor::new(t.shape().to_vec(), data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let run = |a: i64, b: i64, d: i64| {
            range(&[Some(&Tensor::scalar(a)), Some(&Tensor::scalar(b)), Some(&Tensor::scalar(d))])
                .and_then(Tensor::into_vec::<i64>)
        };
        assert_eq!(run(3, 9, 3).unwrap(), [3, 6]);
        assert_eq!(run(3, 10, 3).unwrap(), [3, 6, 9]);
        assert_eq!(run(10, 4, -2).unwrap(), [10, 8, 6]);
        assert_eq!(run(10, 5, -2).unwrap(), [10, 8, 6]);
        assert!(run(1, 1, 1).unwrap().is_empty() && run(1, 5, -1).unwrap().is_empty());
        assert!(run(0, 1, 0).is_err() && run(i64::MIN, i64::MAX, 1).is_err());
        assert_eq!(run(i64::MIN, i64::MAX, i64::MAX).unwrap(), [i64::MIN, -1, i64::MAX - 1]);
        let run = |a: f32, b: f32, d: f32| {
            range(&[Some(&Tensor::scalar(a)), Some(&Tensor::scalar(b)), Some(&Tensor::scalar(d))])
                .and_then(Tensor::into_vec::<f32>)
        };
        assert_eq!(run(0.0, 1.0, 0.25).unwrap(), [0.0, 0.25, 0.5, 0.75]);
        assert!(
            run(0.0, 1.0, 0.0).is_err() && run(0.0, f32::NAN, 1.0).is_err() && run(0.0, f32::INFINITY, 1.0).is_err()
        );
        let mixed = range(&[Some(&Tensor::scalar(1i64)), Some(&Tensor::scalar(2i32)), Some(&Tensor::scalar(1i64))]);
        assert!(mixed.is_err());
    }

    #[test]
    fn triangles_by_index() {
        let t = Tensor::of(&[2, 3, 4], (1..25i16).collect());
        for k in [i64::MIN, -3, -1, 0, 1, 2, 5, i64::MAX] {
            for upper in [false, true] {
                let y = trilu(upper, &[Some(&t), Some(&Tensor::scalar(k))]).unwrap();
                for (o, &v) in y.as_slice::<i16>().unwrap().iter().enumerate() {
                    let over = (o % 4) as i128 - (o / 4 % 3) as i128 - i128::from(k);
                    let kept = if upper { over >= 0 } else { over <= 0 };
                    assert_eq!(v, if kept { o as i16 + 1 } else { 0 }, "k {k}, upper {upper}, element {o}");
                }
            }
        }
        assert!(trilu(true, &[Some(&Tensor::of(&[3], vec![0f32; 3]))]).is_err());
    }

    #[test]
    fn constants_of_a_shape() {
        let ints = |v: &[i64]| Tensor::of(&[v.len()], v.to_vec());
        let value = Tensor::of(&[1], vec![7u16]);
        let y = constant_of_shape(&value, &[Some(&ints(&[2, 3]))]).unwrap();
        assert_eq!((y.shape(), y.as_slice::<u16>().unwrap()), (&[2, 3][..], &[7; 6][..]));
        assert_eq!(constant_of_shape(&value, &[Some(&ints(&[]))]).unwrap().as_slice::<u16>().unwrap(), [7]);
        assert!(constant_of_shape(&value, &[Some(&ints(&[1 << 20, 1 << 20]))]).is_err());
        assert!(constant_of_shape(&value, &[Some(&ints(&[i64::MAX, i64::MAX]))]).is_err());
        assert!(constant_of_shape(&value, &[Some(&ints(&[-1]))]).is_err());
    }
}
