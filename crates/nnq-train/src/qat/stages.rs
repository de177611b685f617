//! Bits in stages: a network learns to be rounded to many bits before it has to do with few.
use super::{Plan, PlannedGrid};
use crate::{
    backend::{self, Device, Kernels},
    fake::ScaleRule,
    params::{Of, Parameters},
};
use nnq::{
    Error, Result,
    ir::{QParams, QType},
};
use nnq_kernels::round::rne_f64;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Bits of weights and activations of one stage after the other, each of as many steps; written as `w8a8,w4a4`. Empty: those of the recipe throughout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BitsSchedule(Vec<(u8, u8)>);

impl BitsSchedule {
    /// The bits that are left in the end.
    pub fn last(&self) -> Option<(u8, u8)> {
        self.0.last().copied()
    }
    /// The stages of a plan, the plan itself the last one.
    pub fn plans(&self, plan: &Plan) -> Vec<Plan> {
        let before = self.0.split_last().map_or(&[][..], |(_, before)| before);
        before.iter().map(|&bits| plan.widened(bits)).chain([plan.clone()]).collect()
    }
}

impl Plan {
    /// The plan with at least so many bits for weights and activations.
    fn widened(&self, (weights, activations): (u8, u8)) -> Self {
        let each = |grid: &PlannedGrid| {
            let bits = if grid.values.is_empty() { weights } else { activations };
            if bits <= grid.fitted.qtype.bits {
                return grid.clone();
            }
            let fitted = widened(&grid.fitted, bits);
            let choice = match grid.values.is_empty() {
                true => self.rules.weights.choose(&fitted),
                false => self.rules.activations.choose(&fitted),
            };
            PlannedGrid { fitted, params: choice.params, rule: choice.rule, levels: choice.levels, ..grid.clone() }
        };
        Self { grids: self.grids.iter().map(each).collect(), ..self.clone() }
    }
}

/// A grid of more bits over the same range.
fn widened(params: &QParams, bits: u8) -> QParams {
    let (old, new) = (params.qtype, QType { bits, ..params.qtype });
    let steps = |q: QType| f64::from(q.max() - q.min());
    let of = |(&scale, &zero): (&f32, &i32)| {
        let middle = old.signed && zero == 0;
        let ratio = match middle {
            true => f64::from(new.max()) / f64::from(old.max()),
            false => steps(new) / steps(old),
        };
        let moved = f64::from(new.min()) + rne_f64(f64::from(zero - old.min()) * ratio);
        ((f64::from(scale) / ratio) as f32, if middle { 0 } else { moved as i32 })
    };
    let (scale, zero_point) = params.scale.iter().zip(&params.zero_point).map(of).unzip();
    QParams { qtype: new, scale, zero_point, ..params.clone() }
}

/// Scales that were trained on the grids of one plan, for those of another: what training made of the first plan's scales it would have made of the other's.
///
/// # Errors
/// When the device cannot be read.
pub fn convert<B: Kernels>(parameters: &mut Parameters<B>, from: &Plan, to: &Plan, device: &Device<B>) -> Result<()> {
    for (parameter, value) in parameters.list.iter().zip(&mut parameters.values) {
        let Of::Grid(g) = parameter.of else { continue };
        let (old, new) = (&from.grids[g], &to.grids[g]);
        if old.params == new.params {
            continue;
        }
        let scales = match new.rule {
            ScaleRule::Fixed => new.params.scale.clone(),
            _ => {
                let trained = backend::numbers::<B>(value.clone())?;
                let ratios = new.params.scale.iter().zip(&old.params.scale).map(|(n, o)| n / o);
                trained.iter().zip(ratios).map(|(t, r)| t * r).collect()
            }
        };
        *value = backend::tensor::<B>(scales, &parameter.shape, device);
    }
    Ok(())
}

impl fmt::Display for BitsSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(w, a)| format!("w{w}a{a}")).collect();
        f.write_str(&all.join(","))
    }
}

impl FromStr for BitsSchedule {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let one = |part: &str| {
            let (w, a) = part.strip_prefix('w')?.split_once('a')?;
            let bits = |x: &str| x.parse::<u8>().ok().filter(|b| (2..=16).contains(b));
            Some((bits(w)?, bits(a)?))
        };
        let wrong = |part: &str| {
            Error::usage(format!("'{part}' names no bits of weights and activations, as w4a8 does"))
                .cure("use a list such as w8a8,w4a4,w2a2, of 2 to 16 bits")
        };
        let all: Vec<(u8, u8)> =
            s.split(',').filter(|p| !p.is_empty()).map(|p| one(p).ok_or_else(|| wrong(p))).collect::<Result<_>>()?;
        match all.windows(2).find(|w| w[1].0 > w[0].0 || w[1].1 > w[0].1) {
            Some(w) => Err(Error::usage(format!("w{}a{} after w{}a{}", w[1].0, w[1].1, w[0].0, w[0].1))
                .cure("let bits become fewer from stage to stage")),
            None => Ok(Self(all)),
        }
    }
}

impl TryFrom<String> for BitsSchedule {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<BitsSchedule> for String {
    fn from(schedule: BitsSchedule) -> Self {
        schedule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for text in ["", "w8a8", "w8a8,w4a4,w2a3"] {
            assert_eq!(text.parse::<BitsSchedule>().unwrap().to_string(), text);
        }
        for text in ["8", "w8", "w1a8", "w8a17", "w4a4,w8a4", "w4a4;w2a2"] {
            assert!(text.parse::<BitsSchedule>().is_err(), "{text}");
        }
    }

    /// The ends of the range stay where they were.
    #[test]
    fn more_bits_over_the_same_range() {
        let grids = [
            (QType { bits: 2, signed: true, narrow: true }, 0),
            (QType { bits: 4, signed: false, narrow: false }, 0),
            (QType { bits: 4, signed: false, narrow: false }, 5),
            (QType { bits: 3, signed: true, narrow: false }, -4),
        ];
        for (qtype, zero) in grids {
            let old = QParams::tensor(qtype, 0.3, zero);
            let new = widened(&old, 8);
            new.check(None).unwrap();
            let ends = |p: &QParams| {
                let (s, z) = p.as_tensor().unwrap();
                [p.qtype.min(), p.qtype.max()].map(|c| (c - z) as f32 * s)
            };
            let (a, b) = (ends(&old), ends(&new));
            // The zero point of the wider grid is rounded: half a step of it.
            assert!((0..2).all(|i| (a[i] - b[i]).abs() <= 0.51 * new.scale[0]), "{qtype} {zero}: {a:?} {b:?}");
            assert_eq!(new.qtype.bits, 8);
        }
    }
}
