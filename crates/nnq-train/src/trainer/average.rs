//! A moving average of what is trained.
//!
//! After step `t` (from 1) each number of the average is `a <- d a + (1 - d) x`, with `x` what is trained and `d = min(decay, t / (t + 9))`: a short memory
//! first, so that what training began with is soon forgotten. Polyak and Juditsky (SIAM J. Control Optim. 30, 1992) average the steps' noise away so; with few bits it is above all weights that
//! jump between two codes which it keeps from ending on one of them by chance (Nagel et al., arXiv:2203.11086).
use crate::{backend::Kernels, params::Parameters};
use burn::backend::{Scalar, tensor::FloatTensor};
use nnq::{Error, Result};

/// The average, and how long it remembers.
pub struct Average<B: Kernels> {
    decay: f64,
    /// Parameters and running statistics, averaged.
    pub parameters: Parameters<B>,
}

impl<B: Kernels> Average<B> {
    /// Of what training begins with.
    ///
    /// # Errors
    /// When the decay is not between 0 and 1.
    pub fn new(decay: f64, parameters: &Parameters<B>) -> Result<Self> {
        if !(decay > 0.0 && decay < 1.0) {
            return Err(Error::usage(format!("an average that keeps {decay} of itself"))
                .cure("use a --average above 0 and below 1, such as 0.99"));
        }
        Ok(Self { decay, parameters: parameters.clone() })
    }
    /// Takes in what `step` steps came to.
    pub fn update(&mut self, step: u64, from: &Parameters<B>) {
        let t = step as f64;
        let keep = self.decay.min(t / (t + 9.0));
        let mix = |old: &mut FloatTensor<B>, new: &FloatTensor<B>| {
            let old_part = B::float_mul_scalar(old.clone(), Scalar::Float(keep));
            *old = B::float_add(old_part, B::float_mul_scalar(new.clone(), Scalar::Float(1.0 - keep)));
        };
        self.parameters.values.iter_mut().zip(&from.values).for_each(|(a, x)| mix(a, x));
        self.parameters.statistics.values_mut().zip(from.statistics.values()).for_each(|(a, x)| mix(a, x));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        params::{Of, Parameter, Role},
        testing::{numbers, tensor},
    };
    use burn::backend::Flex;

    fn one(x: f32) -> Parameters<Flex> {
        let parameter = Parameter { name: String::new(), role: Role::Weight, of: Of::Grid(0), shape: vec![1] };
        Parameters::loose([(parameter, tensor(vec![x], &[1]))].into_iter())
    }

    /// By hand: 8 keeps 1/10 of itself, then 2/11 with a memory that is longer than that, then the decay.
    #[test]
    fn memory_is_short_at_first() {
        for (decay, want) in [(0.99, [0.8, 0.8 * 2.0 / 11.0 + 9.0 / 11.0]), (0.125, [0.8, 0.975])] {
            let mut average = Average::new(decay, &one(8.0)).unwrap();
            for (step, (x, want)) in [(0.0, want[0]), (1.0, want[1])].into_iter().enumerate() {
                average.update(step as u64 + 1, &one(x));
                let got = numbers(average.parameters.values[0].clone())[0];
                assert!((f64::from(got) - want).abs() < 1e-6, "{decay} {got} {want}");
            }
        }
    }

    #[test]
    fn what_is_no_average_is_an_error() {
        for decay in [0.0, 1.0, -0.5, f64::NAN] {
            let e = Average::new(decay, &one(1.0)).err().unwrap().to_string();
            assert!(e.contains("--average"), "{e}");
        }
    }
}
