//! Local search in the codes.
use super::{
    Curvature, Group, Rounder, Row, Task,
    lattice::{self, better},
    needed,
};
use crate::error::Result;

/// GPTQ's codes (or the nearest, where those are better), then coordinate descent: a code moves by one where that lowers the layer's
/// error, and again, until none does. Moving code `i` by `m` changes the error by `(m s_i)^2 H_ii - 2 m s_i (d H)_i`.
#[derive(Clone, Copy, Debug)]
pub struct Descent {
    /// Most times that all codes are looked at.
    pub sweeps: usize,
}

impl Default for Descent {
    fn default() -> Self {
        Self { sweeps: 64 }
    }
}

impl Descent {
    /// Descends from `codes`; the error never rises.
    pub(super) fn improve(self, row: Row<'_>, group: &Group, codes: &mut [i32]) {
        let k = codes.len();
        let rest: Vec<f32> = codes.iter().enumerate().map(|(i, &q)| row.rest(i, q)).collect();
        let mut slope = vec![0.0f32; k];
        for (i, d) in rest.iter().enumerate() {
            axpy(&mut slope, *d, &group.h[i * k..][..k]);
        }
        for _ in 0..self.sweeps {
            let mut moved = false;
            for i in 0..k {
                let (s, h) = (row.scale[i], group.h[i * k + i]);
                let step = if slope[i] > 0.0 { 1 } else { -1 };
                let q = codes[i] + step;
                // Less than the rounding of the slope itself is no gain.
                let gain = 2.0 * slope[i].abs() * s - s * s * h;
                if gain > 1e-6 * s * s * h && (row.lo..=row.hi).contains(&q) {
                    codes[i] = q;
                    axpy(&mut slope, -(step as f32) * s, &group.h[i * k..][..k]);
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
    }
}

/// `y += a x`.
fn axpy(y: &mut [f32], a: f32, x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}

impl Rounder for Descent {
    fn round(&self, task: &Task, curvature: Option<&Curvature>) -> Result<Vec<i32>> {
        let curvature = needed(curvature)?;
        let bases = lattice::bases(curvature, true)?;
        task.each(curvature, |row, g| {
            let group = &curvature.groups[g];
            let start = better(row, group, bases[g].round(row));
            let mut codes = start.clone();
            self.improve(row, group, &mut codes);
            // In binary32 a long way down may have gone astray.
            if row.error(group, &codes) <= row.error(group, &start) { codes } else { start }
        })
    }
}
