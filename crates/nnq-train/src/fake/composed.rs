//! Fake quantization composed of burn's operations, for every backend.
use super::{Estimator, Grid, ScaleRule, estimator};
use burn::backend::{Backend, Scalar, Shape, TensorData, TensorMetadata, tensor::FloatTensor};

/// Scales and limits as tensors that spread over `[outer, groups, inner]`.
struct Spread<B: Backend> {
    shape: Shape,
    scale: FloatTensor<B>,
    lo: FloatTensor<B>,
    hi: FloatTensor<B>,
}

fn spread<B: Backend>(x: &FloatTensor<B>, scale: &FloatTensor<B>, grid: &Grid) -> Spread<B> {
    let (groups, inner) = (grid.groups.max(1), grid.inner.max(1));
    let shape = Shape::from([x.shape().num_elements() / (groups * inner), groups, inner]);
    let ends = |k: usize| {
        let all: Vec<f32> = (0..groups).map(|g| grid.limit(g)[k]).collect();
        B::float_from_data(TensorData::new(all, vec![1, groups, 1]), &x.device())
    };
    let scale = B::float_reshape(scale.clone(), Shape::from([1, groups, 1]));
    Spread { shape, scale, lo: ends(0), hi: ends(1) }
}

/// The larger of both; what is no number becomes `end`.
fn at_least<B: Backend>(v: FloatTensor<B>, end: &FloatTensor<B>) -> FloatTensor<B> {
    let end = B::float_expand(end.clone(), v.shape());
    let above = B::float_greater(v.clone(), end.clone(), bools::<B>(&v));
    B::float_mask_where(end, above, v)
}

fn at_most<B: Backend>(v: FloatTensor<B>, end: &FloatTensor<B>) -> FloatTensor<B> {
    let end = B::float_expand(end.clone(), v.shape());
    let below = B::float_lower(v.clone(), end.clone(), bools::<B>(&v));
    B::float_mask_where(end, below, v)
}

fn bools<B: Backend>(x: &FloatTensor<B>) -> burn::backend::BoolDType {
    burn::backend::get_or_init_device_settings::<B>(&x.device()).bool_dtype
}

/// As [`crate::backend::Kernels::fake`].
pub fn fake<B: Backend>(x: FloatTensor<B>, scale: FloatTensor<B>, grid: &Grid) -> FloatTensor<B> {
    let of = spread::<B>(&x, &scale, grid);
    let shape = x.shape();
    let v = B::float_div(B::float_reshape(x, of.shape), of.scale.clone());
    let r = B::float_round(at_most::<B>(at_least::<B>(v, &of.lo), &of.hi));
    B::float_reshape(B::float_mul(r, of.scale), shape)
}

/// As [`crate::backend::Kernels::fake_backward`].
pub fn fake_backward<B: Backend>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    grad: FloatTensor<B>,
    grid: &Grid,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let of = spread::<B>(&x, &scale, grid);
    let (shape, groups) = (x.shape(), grid.groups.max(1));
    let g = B::float_reshape(grad, of.shape.clone());
    let v = B::float_div(B::float_reshape(x, of.shape.clone()), of.scale.clone());
    let c = at_most::<B>(at_least::<B>(v.clone(), &of.lo), &of.hi);
    let r = B::float_round(c.clone());
    let inside = B::float_equal(v.clone(), c.clone(), bools::<B>(&v));
    let zeros = B::float_zeros(v.shape(), &v.device(), v.dtype().into());
    let off = B::float_sub(r.clone(), v.clone());
    let within = |y: FloatTensor<B>| B::float_mask_where(zeros.clone(), inside.clone(), y);
    let to_x = match grid.estimator {
        Estimator::Ste => g.clone(),
        Estimator::Clipped => within(g.clone()),
        Estimator::Ewgs { delta } => {
            let range = B::float_sub(of.hi.clone(), of.lo.clone());
            let share = B::float_mul_scalar(B::float_div(off.clone(), range), Scalar::Float(-f64::from(delta)));
            let more = B::float_mul(B::float_abs(g.clone()), share);
            within(B::float_add(g.clone(), more))
        }
        Estimator::Dsq { alpha } => {
            let k = f64::from((2.0 / alpha - 1.0).ln());
            let m = B::float_sub_scalar(B::float_sub(v.clone(), B::float_floor(v.clone())), Scalar::Float(0.5));
            let t = B::float_tanh(B::float_mul_scalar(m, Scalar::Float(k)));
            let slope = B::float_add_scalar(B::float_neg(B::float_mul(t.clone(), t)), Scalar::Float(1.0));
            let slope = B::float_mul_scalar(slope, Scalar::Float(0.5 * k / (0.5 * k).tanh()));
            within(B::float_mul(g.clone(), slope))
        }
        Estimator::Reste { o } => {
            let [flat, end] = estimator::RESTE;
            let last = B::float_sub_scalar(of.hi.clone(), Scalar::Float(1.0));
            let cell = at_most::<B>(at_least::<B>(B::float_floor(v.clone()), &of.lo), &last);
            let z = B::float_mul_scalar(B::float_sub(v.clone(), cell), Scalar::Float(2.0));
            let far = B::float_abs(B::float_sub_scalar(z, Scalar::Float(1.0)));
            let power = Scalar::Float(f64::from(1.0 / o - 1.0));
            let slope = B::float_powf_scalar(B::float_clamp_min(far.clone(), Scalar::Float(f64::from(flat))), power);
            let near = B::float_lower_equal_elem(far.clone(), Scalar::Float(f64::from(flat)), bools::<B>(&v));
            let beyond = B::float_greater_elem(far, Scalar::Float(f64::from(end)), bools::<B>(&v));
            let outer = B::float_mul_scalar(slope.clone(), Scalar::Float(f64::from(1.0 / o)));
            let slope = B::float_mask_where(B::float_mask_where(outer, near, slope), beyond, zeros.clone());
            B::float_mul(g.clone(), slope)
        }
    };
    // The ends themselves count as clipped.
    let above = B::float_greater(v.clone(), B::float_expand(of.lo.clone(), v.shape()), bools::<B>(&v));
    let below = B::float_lower(v.clone(), B::float_expand(of.hi.clone(), v.shape()), bools::<B>(&v));
    let between = B::bool_and(above, below);
    let by = match grid.rule {
        ScaleRule::Lsq => B::float_mask_where(r, between, off),
        ScaleRule::Pact => B::float_mask_where(r, between, zeros),
        ScaleRule::Fixed => zeros,
    };
    let sum = B::float_sum_dim(B::float_sum_dim(B::float_mul(g, by), 2), 0);
    let sum = B::float_mul_scalar(B::float_reshape(sum, Shape::from([groups])), Scalar::Float(f64::from(grid.gain)));
    (B::float_reshape(to_x, shape), B::float_reshape(sum, scale.shape()))
}
