//! The order of the bytes of values, and moves of codes as runs of bytes.
use crate::{
    error::{Error, Result},
    exec::{
        float::{Ctx, eval},
        lower::{Form, Program, Slot, StepKind},
    },
    ir::{Op, Tensor, op::CoordMode},
};
use nnq_kernels::tape;

/// Order of the bytes of a value of codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Layout {
    /// As the shape says.
    RowMajor,
    /// `[n, spatial..., c]` for a shape `[n, c, spatial...]`.
    ChannelsLast,
}

impl Layout {
    /// `[samples, channels, pixels]` of a shape, so that channels last is `[samples, pixels, channels]`. Row-major is one
    /// sample of one channel.
    pub(super) fn planes(self, shape: &[usize]) -> [usize; 3] {
        match self {
            Self::RowMajor => [1, 1, shape.iter().product()],
            Self::ChannelsLast => [shape[0], shape[1], shape[2..].iter().product()],
        }
    }
    /// For each position in memory, in order, the position in the order of the shape.
    fn logical(self, shape: &[usize]) -> impl Iterator<Item = usize> + use<> {
        let [n, c, p] = self.planes(shape);
        (0..n).flat_map(move |n| (0..p).flat_map(move |p_| (0..c).map(move |c_| (n * c + c_) * p + p_)))
    }
}

/// Channels last for images and for whatever convolutions and pools touch; row-major otherwise.
pub(super) fn choose(program: &Program, shapes: &[Option<Vec<usize>>]) -> Vec<Layout> {
    let rank = |slot: Slot| shapes[program.values[slot].source.0 as usize].as_ref().map_or(0, Vec::len);
    // The heads of attention are no images.
    let heads = program.steps.iter().any(|s| matches!(s.kind, StepKind::Pair(_)));
    let words = |s: Slot| program.grid(s).is_ok_and(|g| g.qtype.bits > 8);
    let first = |s: Slot| if rank(s) == 4 && !heads && !words(s) { Layout::ChannelsLast } else { Layout::RowMajor };
    let mut layouts: Vec<Layout> = (0..program.values.len()).map(first).collect();
    for step in &program.steps {
        let spatial = match &step.kind {
            StepKind::Product(p) => matches!(p.form, Form::Conv(_)),
            StepKind::MaxPool { .. } | StepKind::AveragePool { .. } | StepKind::Resize { .. } => true,
            _ => false,
        };
        if spatial {
            for &slot in step.inputs.iter().chain(&step.outputs).flatten() {
                // Words are in the order of their shape.
                if matches!(rank(slot), 3 | 4) && !words(slot) {
                    layouts[slot] = Layout::ChannelsLast;
                }
            }
        }
    }
    layouts
}

/// The bytes of a value in the order of its shape.
pub(super) fn logical(shape: &[usize], layout: Layout, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; bytes.len()];
    for (&b, at) in bytes.iter().zip(layout.logical(shape)) {
        out[at] = b;
    }
    out
}

/// A move of codes.
#[derive(Debug)]
pub(super) struct Moves {
    pub(super) moves: tape::Moves,
    /// Some bytes of the output come from nowhere.
    pub(super) holes: bool,
}

impl Moves {
    /// Every byte stays where it is.
    pub(super) fn is_identity(&self, len: usize) -> bool {
        !self.holes && self.moves == tape::Moves::all(len)
    }
}

/// Where a moving operator takes the bytes of each of its outputs (shape and layout in `to`) from. `rest` are its further inputs.
///
/// The operator itself is run on the numbers of the places, so that it needs no second form.
///
/// # Errors
/// What the operator answers, and when the value has too many elements to number.
pub(super) fn moves(
    op: &Op,
    shape: &[usize],
    layout: Layout,
    rest: &[Option<Tensor>],
    to: &[Option<(Vec<usize>, Layout)>],
) -> Result<Vec<Option<Moves>>> {
    let len: usize = shape.iter().product();
    if i32::try_from(len).is_err() {
        return Err(Error::unsupported(format!("moving a value of {len} elements")));
    }
    let mut numbers = vec![0i32; len];
    for (memory, at) in layout.logical(shape).enumerate() {
        numbers[at] = memory as i32;
    }
    let x = Tensor::of(shape, numbers);
    let nowhere = Tensor::scalar(-1i32);
    let mut inputs: Vec<Option<&Tensor>> = std::iter::once(Some(&x)).chain(rest.iter().map(Option::as_ref)).collect();
    let mut op = op.clone();
    match &mut op {
        // Inputs X, pads, value?, axes?
        Op::Pad { .. } => {
            inputs.resize(inputs.len().max(3), None);
            inputs[2] = Some(&nowhere);
        }
        Op::Resize(a) if a.coord == CoordMode::TfCropAndResize => a.extrapolation = -1.0,
        _ => {}
    }
    let outs = eval(&op, &inputs, to.len(), &Ctx::new())?;
    outs.iter()
        .zip(to)
        .map(|(numbers, to)| {
            let Some((shape, layout)) = to else { return Ok(None) };
            if numbers.shape() != shape {
                return Err(Error::shape(format!("the move gives a shape {:?}, expected {shape:?}", numbers.shape())));
            }
            let numbers = numbers.as_slice::<i32>()?;
            let sources: Vec<i32> = layout.logical(shape).map(|at| numbers[at]).collect();
            Ok(Some(Moves { holes: sources.iter().any(|&source| source < 0), moves: tape::Moves::of(&sources) }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposition_of_channels_last_is_the_identity() {
        let perm = Op::Transpose { perm: vec![0, 2, 3, 1] };
        let to = [Some((vec![2, 4, 5, 3], Layout::RowMajor))];
        let m = moves(&perm, &[2, 3, 4, 5], Layout::ChannelsLast, &[], &to).unwrap().remove(0).unwrap();
        assert!(m.is_identity(120));
    }

    #[test]
    fn layouts_give_the_order_of_the_shape() {
        let bytes: Vec<u8> = (0..12).collect();
        let got = logical(&[1, 3, 2, 2], Layout::ChannelsLast, &bytes);
        assert_eq!(got, [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]);
        assert_eq!(logical(&[12], Layout::RowMajor, &bytes), bytes);
    }
}
