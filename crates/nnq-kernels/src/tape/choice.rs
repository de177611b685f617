//! What may be chosen for a step by trying: it changes how fast the step is, never a bit of its result.
use super::{Kernel, Product, ProductOut, Requantize, Step, Tape, bound::Bound};
use crate::conv::Way;
use serde::{Deserialize, Serialize};

/// How a step is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Choice {
    /// How a convolution goes about its work.
    pub way: Way,
    /// How the work is shared among threads: the usual way without.
    pub split: Option<Split>,
}

/// How the work of a step is shared among threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Split {
    /// Members share the output channels of a convolution, not its pixels.
    pub by_panels: bool,
    /// Into how many pieces, if there are as many.
    pub pieces: usize,
}

/// Pieces of a member to try.
const PIECES: [usize; 4] = [1, 2, 4, 8];

impl Step {
    /// Cuts the work into pieces for a team of `members`, as was chosen.
    pub(super) fn cut(&mut self, members: usize) {
        if let (Bound::Conv { conv, by_panels, .. }, Some(split)) = (&mut self.bound, self.choice.split) {
            *by_panels = split.by_panels && conv.geom().groups == 1;
        }
        (self.units, self.grain) = self.bound.units().unwrap_or_else(|| (self.kernel.units(), 1));
        let pieces = self
            .choice
            .split
            .map_or_else(|| self.kernel.pieces(members), |split| split.pieces.min(PIECES[PIECES.len() - 1] * members));
        self.pieces = pieces.clamp(1, self.units.div_ceil(self.grain).max(1));
    }
}

impl Tape {
    /// The ways of the convolution of step `i`, the usual one first; none for other steps.
    pub fn ways(&self, i: usize) -> Vec<Way> {
        match &self.steps[i].bound {
            Bound::Conv { conv, .. } => conv.ways(),
            _ => Vec::new(),
        }
    }

    /// How the work of step `i` may be shared among the tape's members; none where there is one, or where the step is one piece.
    pub fn splits(&self, i: usize) -> Vec<Split> {
        let step = &self.steps[i];
        if self.members == 1 || matches!(step.kernel, Kernel::Move { fill: Some(_), .. }) {
            return Vec::new();
        }
        let panels = match &step.bound {
            Bound::Conv { conv, .. } if conv.panels() > 1 && conv.geom().groups == 1 => &[false, true][..],
            _ => &[false][..],
        };
        let all = panels.iter().flat_map(|&by_panels| {
            let pieces = PIECES.map(|n| n * self.members);
            [1].into_iter().chain(pieces).map(move |pieces| Split { by_panels, pieces })
        });
        // One piece is the same by pixels and by panels.
        all.filter(|split| split.pieces > 1 || !split.by_panels).collect()
    }

    /// What was chosen for step `i`.
    pub fn choice(&self, i: usize) -> Choice {
        self.steps[i].choice
    }

    /// Chooses for step `i`. What is not open to it changes nothing.
    pub fn choose(&mut self, i: usize, choice: Choice) {
        let members = self.members;
        let step = &mut self.steps[i];
        step.choice = choice;
        if let Bound::Conv { conv, .. } = &mut step.bound {
            conv.set_way(choice.way);
        }
        step.cut(members);
    }

    /// What the time of step `i` depends on besides the machine and the values: steps of equal description are equally
    /// fast. `None` for steps about which there is nothing to choose.
    pub fn description(&self, i: usize) -> Option<String> {
        let Kernel::Product(p) = &self.steps[i].kernel else { return None };
        let Product { geom: g, y, requant, residual, w_zero, .. } = &**p;
        let out = match (y, requant) {
            (ProductOut::Codes(_), Requantize::Onnx(_)) => "codes onnx",
            (ProductOut::Codes(_), _) => "codes dyadic",
            (ProductOut::Words(_), _) => "words",
            (_, Requantize::Dynamic { .. }) => "real, inputs of a grid found as they come",
            _ => "real",
        };
        Some(format!(
            "{isa} x{members}: {batch}x{in_h}x{in_w}x{c_in} -> {c_out}, kernel {k_h}x{k_w}, stride {s_h}x{s_w}, dilation {d_h}x{d_w}, pad \
             {top},{left} to {out_h}x{out_w}, groups {groups}, {out}{sum}{zeros}",
            isa = self.isa,
            members = self.members,
            batch = g.batch,
            in_h = g.in_h,
            in_w = g.in_w,
            c_in = g.c_in,
            c_out = g.c_out,
            k_h = g.k_h,
            k_w = g.k_w,
            s_h = g.stride_h,
            s_w = g.stride_w,
            d_h = g.dil_h,
            d_w = g.dil_w,
            top = g.pad_top,
            left = g.pad_left,
            out_h = g.out_h,
            out_w = g.out_w,
            groups = g.groups,
            sum = if residual.is_some() { ", sum" } else { "" },
            zeros = if w_zero.is_some() { ", weights with zero points" } else { "" },
        ))
    }
}
