//! Einsum.
use super::fact::{Args, Fact, one, show};
use crate::{
    error::{Error, Result},
    ir::{Dim, op::Equation},
};

pub(super) fn run(equation: &str, x: &Args) -> Result<Vec<Fact>> {
    let dtype = x.same_dtype(0..x.x.len())?;
    let dims: Option<Vec<&[Dim]>> = (0..x.x.len()).map(|i| x.dims(i)).collect::<Result<_>>()?;
    let Some(dims) = dims else { return one(dtype, None) };
    let ranks: Vec<usize> = dims.iter().map(|d| d.len()).collect();
    let e = Equation::new(equation, &ranks)?;
    let mut out = Vec::with_capacity(e.result.len());
    for label in &e.result {
        let mut size = Dim::Fixed(1);
        for (labels, dims) in e.operands.iter().zip(&dims) {
            for (_, d) in labels.iter().zip(*dims).filter(|(l, _)| *l == label) {
                size = match (&size, d) {
                    (Dim::Fixed(1), d) => d.clone(),
                    (s, Dim::Fixed(1)) => s.clone(),
                    (Dim::Fixed(a), Dim::Fixed(b)) if a != b => {
                        let all: Vec<String> = dims_text(&ranks, x)?;
                        return Err(Error::shape(format!(
                            "the equation '{equation}' for {}: sizes {a} and {b}",
                            all.join(", ")
                        )));
                    }
                    (s @ Dim::Fixed(_), _) => s.clone(),
                    (_, d @ Dim::Fixed(_)) => d.clone(),
                    (s, d) if s == d => s.clone(),
                    _ => Dim::Unknown,
                };
            }
        }
        out.push(size);
    }
    one(dtype, Some(out))
}

fn dims_text(ranks: &[usize], x: &Args) -> Result<Vec<String>> {
    (0..ranks.len()).map(|i| Ok(show(x.dims(i)?.unwrap_or_default()))).collect()
}
