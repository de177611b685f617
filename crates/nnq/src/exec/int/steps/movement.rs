//! Steps that move codes and compute nothing.
use super::{
    super::{
        layout::{self, Layout, Moves},
        offset,
        plan::{Place, Planner},
    },
    first, whole,
};
use crate::{
    error::{Error, Result},
    exec::lower::{Grid, Repr, Slot, Step},
    ir::{
        Op, Tensor,
        op::{CoordMode, PadMode},
    },
};
use nnq_kernels::tape::{Copies, Kernel, Span};

impl Planner<'_> {
    /// An operator that moves.
    pub(super) fn movement(&mut self, step: &Step, op: &Op) -> Result<()> {
        let slot = first(&step.inputs)?;
        let x = self.place(slot)?;
        let grid = self.program.grid(slot)?;
        let rest: Vec<Option<Tensor>> = step.inputs[1..]
            .iter()
            .map(|s| match s.map(|s| &self.program.values[s].repr) {
                None => Ok(None),
                Some(Repr::Constant(t)) => Ok(Some((**t).clone())),
                Some(_) => Err(Error::internal("a move by amounts that are not constant")),
            })
            .collect::<Result<_>>()?;
        let to: Vec<_> = step
            .outputs
            .iter()
            .map(|s| s.map(|s| Ok((self.shape(s)?, self.layouts[s]))).transpose())
            .collect::<Result<_>>()?;
        let moves = layout::moves(op, &x.shape, x.layout, &rest, &to)?;
        for (slot, moves) in step.outputs.iter().zip(moves) {
            let (Some(slot), Some(moves)) = (slot, moves) else { continue };
            if moves.is_identity(x.len) && x.pitch.is_none() {
                self.alias(*slot, &x)?;
            } else {
                let y = self.produce(*slot)?;
                let fill = fill(op, &rest, grid);
                self.push_moves(&x, &y, moves, fill)?;
            }
        }
        Ok(())
    }

    fn push_moves(&mut self, x: &Place, y: &Place, moves: Moves, fill: u8) -> Result<()> {
        let fill = moves.holes.then_some(fill);
        self.push(Kernel::Move { x: whole(x)?, y: whole(y)?, moves: moves.moves, fill });
        Ok(())
    }

    /// The bytes of `x` in another layout, for this step only.
    pub(super) fn reordered(&mut self, x: &Place, layout: Layout) -> Result<Span> {
        let y = Place { layout, at: self.temporary(x.len), ..x.clone() };
        self.reorder(x, &y)?;
        Ok(y.span())
    }

    /// Copies a value to another place of the same shape.
    pub(super) fn reorder(&mut self, x: &Place, y: &Place) -> Result<()> {
        self.through(&Op::Identity, &[], x, y)
    }

    fn through(&mut self, op: &Op, rest: &[Option<Tensor>], x: &Place, y: &Place) -> Result<()> {
        let to = [Some((y.shape.clone(), y.layout))];
        let moves = layout::moves(op, &x.shape, x.layout, rest, &to)?.pop().flatten();
        self.push_moves(x, y, moves.ok_or_else(|| Error::internal("a move without result"))?, 0)
    }

    /// An operand of an element-wise step with the shape and layout of the result: itself, or repeated for this step.
    pub(super) fn expanded(&mut self, slot: Slot, like: &Place) -> Result<Span> {
        let x = self.place(slot)?;
        if x.shape == like.shape && x.layout == like.layout {
            return whole(&x);
        }
        let y = Place { at: self.temporary(like.len), pitch: None, ..like.clone() };
        let shape: Vec<i64> = like.shape.iter().map(|&d| d as i64).collect();
        self.through(&Op::Expand, &[Some(Tensor::of(&[shape.len()], shape))], &x, &y)?;
        Ok(y.span())
    }

    /// A concatenation: the parts that do not lie in place already are copied.
    pub(super) fn concat(&mut self, step: &Step, axis: i64) -> Result<()> {
        let y = self.produce(first(&step.outputs)?)?;
        let rank = y.shape.len();
        let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis })
            .ok()
            .filter(|&a| a < rank)
            .ok_or_else(|| Error::shape(format!("axis {axis} of a shape {:?}", y.shape)))?;
        // In memory the axes of a value that lies channels last are 0, 2, 3, ..., 1.
        let order: Vec<usize> = match y.layout {
            Layout::RowMajor => (0..rank).collect(),
            Layout::ChannelsLast => std::iter::once(0).chain(2..rank).chain(std::iter::once(1)).collect(),
        };
        let at = order.iter().position(|&a| a == axis).unwrap_or(0);
        let inner: usize = order[at + 1..].iter().map(|&a| y.shape[a]).product();
        let (pitch, mut start) = (y.shape[axis] * inner, 0);
        for slot in step.inputs.iter().flatten() {
            let x = self.place(*slot)?;
            let len = x.shape[axis] * inner;
            if !self.fusing.hosts.contains_key(slot) && x.len > 0 {
                let x_span = if x.layout == y.layout { whole(&x)? } else { self.reordered(&x, y.layout)? };
                let run = Copies { src: 0, dst: start, len, count: x.len / len, src_step: len, dst_step: pitch };
                self.push(Kernel::Move { x: x_span, y: whole(&y)?, moves: run.into(), fill: None });
            }
            start += len;
        }
        Ok(())
    }
}

/// The stored code of what a move puts where nothing comes from.
fn fill(op: &Op, rest: &[Option<Tensor>], grid: Grid) -> u8 {
    let code = match op {
        // Inputs X, pads, value?, axes?
        Op::Pad { mode: PadMode::Constant } => {
            let value = rest.get(1).and_then(Option::as_ref).and_then(|t| t.to_f32s().first().copied());
            grid.quantize(value.unwrap_or(0.0))
        }
        #[allow(clippy::cast_possible_truncation)]
        Op::Resize(a) if a.coord == CoordMode::TfCropAndResize => a.extrapolation as i32,
        _ => grid.zero,
    };
    (code + offset(grid.qtype.signed)).clamp(0, 255) as u8
}
