//! What of a part is learned, and in which units.
//!
//! Adam's steps are as long as its rate, whatever gradients are. So everything is learned in units in which one rate suits all: roundings as AdaRound's variable, biases as shares of
//! what their channel answers, scales as shares of themselves. A network whose channels differ in range by orders of magnitude learns as another does.
use super::{Block, Codes, part::Work, rounding::Rounding, straight::Straight};
use crate::{
    backend::{self, Kernels},
    fake::Grid,
    params::{Parameter, Parameters, Role},
    qat::PlannedProduct,
};
use burn::backend::tensor::FloatTensor;
use nnq::{Error, Result};

/// The unit of biases, as a share of what their channel answers.
const BIAS: f32 = 0.05;

/// How numbers follow from what is learned.
pub(super) enum How {
    /// Weights on the grid, by their rounding.
    Rounded(usize, Rounding),
    /// Weights on the grid, by what is added to them.
    Straight {
        /// The grid.
        grid: usize,
        /// From what is added to weights.
        straight: Straight,
        /// Where among all that is learned its scales are, if they are.
        scales: Option<usize>,
    },
    /// `base + unit * variable`.
    Line {
        /// With variables of 0.
        base: Vec<f32>,
        /// How much 1 is.
        unit: Vec<f32>,
    },
}

/// Something that is learned.
pub(super) struct Learned {
    /// Its place among the network's parameters.
    pub parameter: usize,
    /// From variables to numbers.
    pub how: How,
}

impl How {
    /// Numbers from variables; `scales`: those of the grid, `done`: all decisions are made.
    fn numbers(&self, variables: &[f32], scales: Option<&[f32]>, done: bool) -> Vec<f32> {
        match self {
            Self::Rounded(_, rounding) if done => rounding.hard(variables),
            Self::Rounded(_, rounding) => rounding.soft(variables),
            Self::Straight { straight, .. } => straight.weights(variables, scales.unwrap_or(&straight.scales)),
            Self::Line { base, unit } => {
                base.iter().zip(unit).zip(variables).map(|((base, unit), v)| base + unit * v).collect()
            }
        }
    }
    /// The gradient of the variables from that of the numbers.
    fn gradient(
        &self,
        variables: &[f32],
        scales: Option<&[f32]>,
        numbers: &[f32],
        decide: Option<(f32, f32)>,
    ) -> Vec<f32> {
        match self {
            Self::Rounded(_, rounding) => rounding.gradient(variables, numbers, decide),
            Self::Straight { straight, .. } => {
                straight.gradient(variables, scales.unwrap_or(&straight.scales), numbers)
            }
            Self::Line { unit, .. } => unit.iter().zip(numbers).map(|(unit, g)| unit * g).collect(),
        }
    }
}

/// The scales that something stands on, where they are learned, too.
fn scales(all: &[Learned], variables: &[Vec<f32>], of: usize) -> Option<Vec<f32>> {
    let How::Straight { scales: Some(s), .. } = all[of].how else { return None };
    Some(all[s].how.numbers(&variables[s], None, false))
}

/// The numbers of all that is learned; `done`: with all decisions made.
pub(super) fn numbers(all: &[Learned], variables: &[Vec<f32>], done: bool) -> Vec<Vec<f32>> {
    let one = |(i, v): (usize, &Vec<f32>)| all[i].how.numbers(v, scales(all, variables, i).as_deref(), done);
    variables.iter().enumerate().map(one).collect()
}

/// The gradients of all variables from those of the numbers, where there are some. `decide`: strength and exponent of the term that makes roundings decide.
pub(super) fn gradients(
    all: &[Learned],
    variables: &[Vec<f32>],
    mut of: Vec<Option<Vec<f32>>>,
    decide: Option<(f32, f32)>,
) -> Vec<Option<Vec<f32>>> {
    for (i, l) in all.iter().enumerate() {
        if let (How::Straight { straight, scales: Some(scales), .. }, Some(g)) = (&l.how, &of[i]) {
            of[*scales] = Some(straight.of_scales(&variables[i], g));
        }
    }
    let one = |(i, g): (usize, Option<Vec<f32>>)| {
        g.map(|g| all[i].how.gradient(&variables[i], scales(all, variables, i).as_deref(), &g, decide))
    };
    of.into_iter().enumerate().map(one).collect()
}

impl<B: Kernels> Work<'_, B> {
    /// What of a part is learned, with the variables to begin with.
    pub(super) fn learned(&self, part: &Block, first: bool) -> Result<(Vec<Learned>, Parameters<B>)> {
        let own = self.own(part, first);
        let (mut learned, mut loose) = (Vec::new(), Vec::new());
        let mut add = |parameter: usize, role: Role, how: How, variables: Vec<f32>| {
            let Parameter { name, of, shape, .. } = self.parameters.list[parameter].clone();
            let variables: FloatTensor<B> = backend::tensor::<B>(variables, &shape, self.device);
            learned.push(Learned { parameter, how });
            loose.push((Parameter { name, role, of, shape }, variables));
            learned.len() - 1
        };
        for &id in &part.nodes {
            let Some(planned) = self.plan.products.get(&id) else { continue };
            let node = self.graph.node(id);
            let find = |i: usize| node.input(i).and_then(|v| self.parameters.of_value(v));
            let weight = find(1).ok_or_else(|| Error::internal("weights that are no parameter"))?;
            let numbers = backend::numbers::<B>(self.parameters.values[weight].clone())?;
            let params = &self.plan.grids[planned.weight].params;
            let grid = Grid::new(params, &self.parameters.list[weight].shape, 1)?;
            let (how, variables) = match self.settings.codes {
                Codes::Sigmoid => {
                    let (rounding, variables) = Rounding::new(&numbers, &params.scale, &grid);
                    (How::Rounded(planned.weight, rounding), variables)
                }
                Codes::Ste => {
                    let straight = Straight::new(&numbers, &params.scale, grid.clone());
                    let of = self.parameters.of_grid(planned.weight).filter(|_| self.settings.scale_rate > 0.0);
                    let scales = of.map(|of| {
                        let how = How::Line { base: vec![0.0; grid.groups], unit: params.scale.clone() };
                        add(of, Role::Scale, how, vec![1.0; grid.groups])
                    });
                    (How::Straight { grid: planned.weight, straight, scales }, vec![0.0; numbers.len()])
                }
            };
            if let Some(bias) = find(2) {
                let base = backend::numbers::<B>(self.parameters.values[bias].clone())?;
                let unit = self.answers(planned, &numbers, &grid, base.len()).into_iter().map(|x| x * BIAS).collect();
                let variables = vec![0.0; base.len()];
                add(bias, Role::Other, How::Line { base, unit }, variables);
            }
            add(weight, Role::Weight, how, variables);
        }
        for (g, grid) in self.plan.grids.iter().enumerate() {
            // A grid that another part rounds to, too, stays.
            if self.settings.scale_rate > 0.0
                && !grid.values.is_empty()
                && grid.values.iter().all(|v| own.contains(v))
                && let Some(p) = self.parameters.of_grid(g)
            {
                let unit = backend::numbers::<B>(self.parameters.values[p].clone())?;
                let (base, variables) = (vec![0.0; unit.len()], vec![1.0; unit.len()]);
                add(p, Role::Scale, How::Line { base, unit }, variables);
            }
        }
        Ok((learned, Parameters::loose(loose.into_iter())))
    }
    /// How large what the output channels answer is, roughly: the lengths of their weights times a quarter of the input's range.
    fn answers(&self, planned: &PlannedProduct, weights: &[f32], grid: &Grid, channels: usize) -> Vec<f32> {
        let range = planned.input.map_or(1.0, |g| {
            let params = &self.plan.grids[g].params;
            let widest = params.scale.iter().copied().fold(0.0, f32::max);
            (params.qtype.max() - params.qtype.min()) as f32 / 4.0 * widest
        });
        let mut squares = vec![0.0f64; channels.max(1)];
        for (i, w) in weights.iter().enumerate() {
            // Where all weights have one scale, all channels have one unit.
            let group = grid.group(i);
            let of = if grid.groups == channels { group } else { 0 };
            squares[of] += f64::from(*w).powi(2);
        }
        if grid.groups != channels {
            squares = vec![squares[0] / channels.max(1) as f64; channels];
        }
        squares.into_iter().map(|s| s.sqrt() as f32 * range).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The gradient of what is learned is that of the numbers in its unit, by finite differences of a quadratic form.
    #[test]
    fn lines_learn_in_their_unit() {
        let how = How::Line { base: vec![1.0, -200.0, 0.0], unit: vec![0.5, 100.0, 1e-3] };
        let toward = [2.0f32, -150.0, 1e-4];
        let loss = |v: &[f32]| {
            let off = how.numbers(v, None, false).into_iter().zip(toward).map(|(x, t)| f64::from(x - t).powi(2) / 2.0);
            off.sum::<f64>()
        };
        let at = [0.25f32, -0.5, 1.0];
        let numbers = how.numbers(&at, None, false);
        assert_eq!(numbers, [1.125, -250.0, 1e-3]);
        assert_eq!(how.numbers(&at, None, true), numbers);
        let by_numbers: Vec<f32> = numbers.iter().zip(toward).map(|(x, t)| x - t).collect();
        let gradient = how.gradient(&at, None, &by_numbers, Some((1.0, 2.0)));
        for i in 0..3 {
            let moved = |by: f32| {
                let mut v = at;
                v[i] += by;
                loss(&v)
            };
            let want = (moved(0.125) - moved(-0.125)) / 0.25;
            assert!((f64::from(gradient[i]) - want).abs() < 1e-3 * want.abs().max(1e-6), "{i}: {} {want}", gradient[i]);
        }
    }

    /// So are the gradients of weights that pass their rounding by what is added to them: where it moves no code by the scales, whose gradient is exact.
    #[test]
    fn scales_of_weights_learn_with_their_codes() {
        let grid = Grid { groups: 2, inner: 2, ..Grid::new(&tensor(), &[4], 1).unwrap() };
        let scales = How::Line { base: vec![0.0; 2], unit: vec![0.5, 2.0] };
        let straight = Straight::new(&[0.4, -1.2, 2.2, 5.0], &[0.5, 2.0], grid);
        let weights = How::Straight { grid: 0, straight, scales: Some(0) };
        let all = [Learned { parameter: 0, how: scales }, Learned { parameter: 1, how: weights }];
        let toward = [0.3f32, -1.0, 2.0, 9.0];
        let at = [vec![1.0f32, 1.25], vec![0.0f32, 0.1, 0.0, -0.2]];
        let made = numbers(&all, &at, false);
        // Codes 1, -2, 1 and 2 on scales of 0.5 and 2.5.
        assert_eq!(made, [vec![0.5, 2.5], vec![0.5, -1.0, 2.5, 5.0]]);
        let off: Vec<f32> = made[1].iter().zip(toward).map(|(x, t)| x - t).collect();
        let gradient = gradients(&all, &at, vec![None, Some(off.clone())], None);
        assert_eq!(gradient[1], Some(off.iter().zip([0.5, 0.5, 2.5, 2.5]).map(|(g, s)| g * s).collect()));
        for i in 0..2 {
            let loss = |by: f32| {
                let mut at = at.clone();
                at[0][i] += by;
                let made = numbers(&all, &at, false).remove(1);
                made.iter().zip(toward).map(|(x, t)| f64::from(x - t).powi(2) / 2.0).sum::<f64>()
            };
            let (want, is) = ((loss(0.125) - loss(-0.125)) / 0.25, f64::from(gradient[0].as_ref().unwrap()[i]));
            assert!((is - want).abs() < 1e-4 * want.abs(), "{i}: {is} {want}");
        }
        // Scales that are not learned are those of the beginning.
        let How::Straight { straight, .. } = &all[1].how else { panic!() };
        assert_eq!(straight.scales, [0.5, 2.0]);
    }

    fn tensor() -> nnq::ir::QParams {
        let qtype = nnq::ir::QType { bits: 3, signed: true, narrow: false };
        nnq::ir::QParams::channel(qtype, 0, vec![1.0; 4])
    }
}
