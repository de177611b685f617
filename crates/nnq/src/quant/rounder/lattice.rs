//! GPTQ (Frantar et al., 2023) as successive rounding in a triangular basis.
use super::{Curvature, Group, Rounder, Row, Task, needed};
use crate::error::{Error, Result};
use nalgebra::{Cholesky, DMatrix};

/// With `H = R R^T`, `R` upper triangular, the error is `|d R|^2`, and its component `i` is `d_i R_ii` and a sum over the weights before
/// it. They are rounded in order, each to the code that makes its component least. This is GPTQ: its updates of the weights that
/// are left, by the Cholesky factor of `H^-1`, are the same numbers without the inverse.
#[derive(Clone, Copy, Debug)]
pub struct Gptq {
    /// The weights whose inputs are largest come first ("act-order").
    pub largest_first: bool,
}

impl Default for Gptq {
    fn default() -> Self {
        Self { largest_first: true }
    }
}

/// `R` and the order that it is for.
pub(super) struct Basis {
    order: Vec<usize>,
    /// `[depth][depth]`, upper triangular, each row divided by its column's diagonal element.
    ratios: Vec<f32>,
}

impl Basis {
    /// # Errors
    /// When the moments are not positive definite.
    pub(super) fn new(group: &Group, depth: usize, largest_first: bool) -> Result<Self> {
        let mut order: Vec<usize> = (0..depth).collect();
        if largest_first {
            order.sort_by(|&a, &b| group.h[b * depth + b].total_cmp(&group.h[a * depth + a]));
        }
        // The factor of the reversed matrix, reversed, is upper triangular.
        let at = |i: usize| order[depth - 1 - i];
        let reversed = DMatrix::from_fn(depth, depth, |i, j| f64::from(group.h[at(i) * depth + at(j)]));
        let l = Cholesky::new(reversed)
            .ok_or_else(|| {
                Error::value("the moments of the layer's inputs are not positive definite")
                    .cure("calibrate on more samples")
            })?
            .unpack();
        let mut ratios = vec![0.0; depth * depth];
        for j in 0..depth {
            for i in j..depth {
                let (r, diagonal) = (l[(depth - 1 - j, depth - 1 - i)], l[(depth - 1 - i, depth - 1 - i)]);
                ratios[j * depth + i] = (r / diagonal) as f32;
            }
        }
        Ok(Self { order, ratios })
    }

    /// The codes of one row.
    pub(super) fn round(&self, row: Row<'_>) -> Vec<i32> {
        let depth = self.order.len();
        let (mut codes, mut pull) = (vec![0; depth], vec![0.0f32; depth]);
        for (i, &place) in self.order.iter().enumerate() {
            let q = row.code(place, row.weights[place] + pull[i]);
            codes[place] = q;
            let rest = row.rest(place, q);
            let line = &self.ratios[i * depth..][..depth];
            for (pull, ratio) in pull[i + 1..].iter_mut().zip(&line[i + 1..]) {
                *pull += rest * ratio;
            }
        }
        codes
    }
}

/// A basis for each group.
pub(super) fn bases(curvature: &Curvature, largest_first: bool) -> Result<Vec<Basis>> {
    curvature.groups.iter().map(|g| Basis::new(g, curvature.depth, largest_first)).collect()
}

impl Rounder for Gptq {
    /// Per row the better of this and rounding to nearest.
    fn round(&self, task: &Task, curvature: Option<&Curvature>) -> Result<Vec<i32>> {
        let curvature = needed(curvature)?;
        let bases = bases(curvature, self.largest_first)?;
        task.each(curvature, |row, g| better(row, &curvature.groups[g], bases[g].round(row)))
    }
}

/// `codes`, or those next to the weights where their error is less.
pub(super) fn better(row: Row<'_>, group: &Group, codes: Vec<i32>) -> Vec<i32> {
    let nearest = row.nearest();
    if row.error(group, &nearest) < row.error(group, &codes) { nearest } else { codes }
}
