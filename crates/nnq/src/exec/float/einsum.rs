//! Einsum: operands one after the other, each pair as a batch of matrix products.
use super::{
    Ctx, Inputs, args,
    arrange::{Axis, Plan, strides},
    product, reduce,
};
use crate::{
    error::{Error, Result},
    ir::{
        Tensor,
        op::{Equation, Label, Reduction},
    },
};

pub(super) fn run(equation: &str, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    if let Some(y) = args::by_f32(x, |x| run(equation, x, ctx)) {
        return y;
    }
    let operands: Vec<&Tensor> = (0..x.len()).map(|i| args::need(x, i, "operand")).collect::<Result<_>>()?;
    if operands.is_empty() {
        return Err(Error::shape("Einsum of nothing"));
    }
    args::same_type(&operands)?;
    let e = Equation::new(equation, &operands.iter().map(|t| t.shape().len()).collect::<Vec<_>>())?;
    let mut sizes: Vec<(Label, usize)> = Vec::new();
    for (labels, t) in e.operands.iter().zip(&operands) {
        for (&label, &d) in labels.iter().zip(t.shape()) {
            match sizes.iter_mut().find(|s| s.0 == label) {
                None => sizes.push((label, d)),
                Some((_, size)) if *size == 1 => *size = d,
                Some((_, size)) if d != 1 && d != *size => {
                    let shapes: Vec<_> = operands.iter().map(|t| t.shape()).collect();
                    return Err(Error::shape(format!("'{equation}' of shapes {shapes:?}: sizes {size} and {d}")));
                }
                _ => {}
            }
        }
    }
    let mut terms = e.operands.iter().zip(&operands).map(|(labels, t)| Term::new(t, labels, &sizes, ctx));
    let mut sum = match terms.next() {
        Some(term) => term?,
        None => return Err(Error::internal("an equation without operands")),
    };
    for (i, term) in terms.enumerate() {
        let later = e.operands[i + 2..].iter().flatten();
        let needed: Vec<Label> = e.result.iter().chain(later).copied().collect();
        sum = sum.times(term?, &needed, ctx)?;
    }
    sum.without(&e.result, ctx)?.turned(&e.result, ctx)
}

/// A tensor with a name for each axis, none twice.
struct Term {
    t: Tensor,
    labels: Vec<Label>,
}

impl Term {
    /// Diagonals taken, axes of size 1 stretched.
    fn new(t: &Tensor, labels: &[Label], sizes: &[(Label, usize)], ctx: &Ctx) -> Result<Self> {
        let all = strides(t.shape());
        let size = |l: Label| sizes.iter().find(|s| s.0 == l).map_or(1, |s| s.1);
        let (mut names, mut steps): (Vec<Label>, Vec<usize>) = (Vec::new(), Vec::new());
        for ((&label, &d), &stride) in labels.iter().zip(t.shape()).zip(&all) {
            let step = if d == 1 { 0 } else { stride };
            match names.iter().position(|&n| n == label) {
                Some(i) => steps[i] += step,
                None => {
                    names.push(label);
                    steps.push(step);
                }
            }
        }
        let shape: Vec<usize> = names.iter().map(|&l| size(l)).collect();
        let axes = shape.iter().zip(&steps).map(|(&d, &s)| Axis::even(d, s)).collect();
        Ok(Self { t: Plan { shape, base: 0, axes }.apply(t, None, ctx)?, labels: names })
    }
    fn size(&self, label: Label) -> usize {
        self.labels.iter().position(|&l| l == label).map_or(1, |i| self.t.shape()[i])
    }
    /// Summed over the axes that nobody needs.
    fn without(self, needed: &[Label], ctx: &Ctx) -> Result<Self> {
        let gone: Vec<i64> = (0i64..).zip(&self.labels).filter(|(_, l)| !needed.contains(l)).map(|(i, _)| i).collect();
        if gone.is_empty() {
            return Ok(self);
        }
        let axes = Tensor::of(&[gone.len()], gone);
        let t = reduce::run(Reduction::Sum, false, true, &[Some(&self.t), Some(&axes)], ctx)?;
        Ok(Self { t, labels: self.labels.into_iter().filter(|l| needed.contains(l)).collect() })
    }
    /// With the axes in this order.
    fn turned(&self, order: &[Label], ctx: &Ctx) -> Result<Tensor> {
        let all = strides(self.t.shape());
        let at = |l: &Label| self.labels.iter().position(|m| m == l).ok_or_else(|| Error::internal("an axis is gone"));
        let places = order.iter().map(at).collect::<Result<Vec<_>>>()?;
        let shape = places.iter().map(|&i| self.t.shape()[i]).collect();
        let axes = places.iter().map(|&i| Axis::even(self.t.shape()[i], all[i])).collect();
        Plan { shape, base: 0, axes }.apply(&self.t, None, ctx)
    }
    /// The product, summed over the axes that both have and nobody else needs.
    fn times(self, other: Self, needed: &[Label], ctx: &Ctx) -> Result<Self> {
        let kept = |a: &Self, b: &Self| {
            [&b.labels[..], needed].concat().iter().filter(|l| a.labels.contains(l)).copied().collect::<Vec<_>>()
        };
        let (a_kept, b_kept) = (kept(&self, &other), kept(&other, &self));
        let (a, b) = (self.without(&a_kept, ctx)?, other.without(&b_kept, ctx)?);
        let shared = |wanted: bool| -> Vec<Label> {
            a.labels.iter().filter(|l| b.labels.contains(l) && needed.contains(l) == wanted).copied().collect()
        };
        let (batch, inner) = (shared(true), shared(false));
        let alone = |a: &Self, b: &Self| a.labels.iter().filter(|l| !b.labels.contains(l)).copied().collect::<Vec<_>>();
        let (rows, columns) = (alone(&a, &b), alone(&b, &a));
        let many = |term: &Self, labels: &[Label]| -> Result<usize> {
            crate::ir::count(&labels.iter().map(|&l| term.size(l)).collect::<Vec<_>>())
        };
        let [n, m, k, c] = [many(&a, &batch)?, many(&a, &rows)?, many(&a, &inner)?, many(&b, &columns)?];
        let left = a.turned(&[&batch[..], &rows, &inner].concat(), ctx)?.reshaped(vec![n, m, k])?;
        let right = b.turned(&[&batch[..], &inner, &columns].concat(), ctx)?.reshaped(vec![n, k, c])?;
        let y = product::matmul(&[Some(&left), Some(&right)], ctx)?;
        let labels = [batch, rows, columns].concat();
        let shape = labels.iter().map(|&l| if a.labels.contains(&l) { a.size(l) } else { b.size(l) }).collect();
        ctx.recycle(left);
        ctx.recycle(right);
        Ok(Self { t: y.reshaped(shape)?, labels })
    }
}
