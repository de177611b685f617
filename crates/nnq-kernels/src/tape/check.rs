//! Whether steps fit the memory that they are to run on, and the kernels.
use super::{
    step::{Found, Kernel, Product, ProductOut, Requantize, Span, Strided},
    weights::Weights,
};
use crate::{SLACK, wide::Width};
use std::ops::Range;

impl Product {
    /// Whether the numbers fit each other and the kernels.
    fn check(&self) -> Result<(), String> {
        let (g, c) = (&self.geom, self.geom.c_out);
        let positive = [g.k_h, g.k_w, g.stride_h, g.stride_w, g.dil_h, g.dil_w, g.groups].iter().all(|&n| n > 0);
        let lens = match &self.requant {
            Requantize::Onnx(m) | Requantize::Real(m) => m.len() == c,
            Requantize::Dynamic { scale, bias } => scale.len() == c && bias.len() == c,
            Requantize::Sums => true,
            Requantize::Words { mult, shift, to } => {
                let fit = to.is_valid() && to.width == Width::Word && shift.iter().all(|s| (1..=62).contains(s));
                fit && mult.len() == c && shift.len() == c
            }
            Requantize::Dyadic { mult, shift } => {
                let fit = mult.iter().all(|m| *m >= 0) && shift.iter().all(|s| (1..=62).contains(s));
                fit && mult.len() == c && shift.len() == c
            }
        };
        let real = matches!(self.requant, Requantize::Real(_) | Requantize::Dynamic { .. });
        let sums = matches!(self.requant, Requantize::Sums);
        let words = matches!(self.requant, Requantize::Words { .. });
        let codes = matches!(self.y, ProductOut::Codes(_)) != (real || sums || words);
        let codes = codes && matches!(self.y, ProductOut::Sums(_)) == sums;
        let codes = codes && matches!(self.y, ProductOut::Words(_)) == words;
        let found = self.found.is_some() == matches!(self.requant, Requantize::Dynamic { .. });
        let zeros = self.w_zero.as_ref().is_none_or(|z| z.len() == c);
        match positive && lens && codes && found && zeros && self.bias.len() == c && self.lo <= self.hi {
            true => Ok(()),
            false => Err(format!("a product whose parts do not fit each other: {g:?}")),
        }
    }
}

impl Kernel {
    /// Whether no size is so large that an address computed from it could go round.
    fn bounded(&self) -> Result<(), String> {
        match self {
            Kernel::Extremes { len, .. } => bounded(&[*len, size_of::<f32>()]),
            Kernel::Quantize { planes, .. }
            | Kernel::QuantizeDynamic { planes, .. }
            | Kernel::Dequantize { planes, .. }
            | Kernel::Transpose { planes, .. } => {
                bounded(&[planes.batch, planes.channels, planes.pixels, size_of::<f32>()])
            }
            Kernel::Product(p) => {
                let g = &p.geom;
                let pitch = if let ProductOut::Codes(y) = p.y { y.pitch } else { g.c_out * size_of::<f32>() };
                bounded(&[g.batch, g.in_h, g.in_w, g.c_in])?;
                bounded(&[g.batch, g.out_h, g.out_w, g.c_out.max(pitch)])?;
                bounded(&[g.out_h, g.stride_h])?;
                bounded(&[g.out_w, g.stride_w])?;
                bounded(&[g.k_h, g.dil_h])?;
                bounded(&[g.k_w, g.dil_w])?;
                bounded(&[g.pad_top.max(g.pad_left)])
            }
            Kernel::MaxPool { geom: g, y, .. } | Kernel::AvgPool { geom: g, y, .. } => {
                bounded(&[g.batch, g.in_h, g.in_w, g.c])?;
                bounded(&[g.batch, g.out_h, g.out_w, y.pitch])?;
                bounded(&[g.out_h, g.stride_h])?;
                bounded(&[g.out_w, g.stride_w])?;
                bounded(&[g.k_h, g.dil_h])?;
                bounded(&[g.k_w, g.dil_w])?;
                bounded(&[g.pad_top.max(g.pad_left).max(g.pad_bottom).max(g.pad_right)])
            }
            Kernel::Move { moves, .. } => {
                moves.copies.iter().try_for_each(|c| {
                    bounded(&[c.count, c.src_step.max(c.dst_step)])?;
                    bounded(&[c.src.max(c.dst).max(c.len)])
                })?;
                moves.repeats.iter().try_for_each(|r| bounded(&[r.times, r.src_step.max(r.dst_step)]))
            }
            Kernel::Resize { y, resize: r, .. } => {
                bounded(&[r.batch, r.in_h, r.in_w, r.c, size_of::<i32>()])?;
                bounded(&[r.batch, r.rows.len(), r.columns.len(), y.pitch])
            }
            Kernel::Add { .. } | Kernel::Mul { .. } | Kernel::Lut { .. } | Kernel::Integers(_) => Ok(()),
        }
    }

    /// Whether every place lies within the memory, and nothing is written that is read.
    pub(super) fn check(&self, limits: &Limits) -> Result<(), String> {
        self.bounded()?;
        match self {
            Kernel::Quantize { x, y, planes, .. } => {
                limits.real(*x, planes.len(), false)?;
                limits.size(y.len, planes.len())?;
                limits.apart(&[], y.range())
            }
            Kernel::Extremes { x, len, y } => {
                limits.real(*x, *len, false)?;
                limits.size(y.runs, Found::of(*len, y.at).runs)?;
                limits.found(*y)
            }
            Kernel::QuantizeDynamic { x, y, planes, by } => {
                limits.real(*x, planes.len(), false)?;
                limits.size(y.len, planes.len())?;
                limits.size(by.runs, Found::of(planes.len(), by.at).runs)?;
                limits.found(*by)?;
                if by.at < y.range().end && y.at < by.range().end && y.len > 0 {
                    return Err(format!("{by:?} is read while {y:?} is written"));
                }
                limits.apart(&[], y.range())
            }
            Kernel::Dequantize { x, y, planes, .. } => {
                limits.real(*y, planes.len(), true)?;
                limits.size(x.len, planes.len())?;
                limits.inside(x.range())
            }
            Kernel::Transpose { x, y, planes } => {
                limits.real(*y, planes.len(), true)?;
                limits.aligned(*x)?;
                limits.inside(*x..x.saturating_add(planes.len() * 4))
            }
            Kernel::Product(p) => {
                p.check()?;
                if !limits.weights.get(p.weights).is_some_and(|w| w.fit(&p.geom)) {
                    return Err(format!("weights number {} are not for {:?}", p.weights, p.geom));
                }
                let pixels = p.geom.pixels();
                if let Some(found) = p.found {
                    limits.found(found)?;
                    let y = match p.y {
                        ProductOut::Floats(y) | ProductOut::Sums(y) => y..y.saturating_add(pixels * p.geom.c_out * 4),
                        _ => 0..0,
                    };
                    if found.at < y.end && y.start < found.range().end {
                        return Err(format!("{found:?} is read while {y:?} is written"));
                    }
                }
                limits.size(p.x.len, p.geom.batch * p.geom.in_h * p.geom.in_w * p.geom.c_in)?;
                match p.y {
                    ProductOut::Codes(y) => {
                        let y = limits.strided(y, pixels, p.geom.c_out)?;
                        if let Some(r) = &p.residual {
                            limits.size(r.other.len, pixels * p.geom.c_out)?;
                            limits.apart(&[r.other], y.clone())?;
                        }
                        limits.apart(&[p.x], y)
                    }
                    ProductOut::Real(y) => {
                        limits.real(y, pixels * p.geom.c_out, true)?;
                        limits.apart(&[p.x], 0..0)
                    }
                    ProductOut::Means { y, .. } => {
                        limits.real(y, p.geom.batch * p.geom.c_out, true)?;
                        if pixels == 0 || p.geom.groups != 1 {
                            return Err(format!("means over the pixels of {:?}", p.geom));
                        }
                        limits.apart(&[p.x], 0..0)
                    }
                    ProductOut::Words(y) => {
                        let end = y.saturating_add(pixels * p.geom.c_out * 2);
                        if !y.is_multiple_of(2) {
                            return Err(format!("words at byte {y}"));
                        }
                        limits.apart(&[p.x], y..end)
                    }
                    ProductOut::Floats(y) | ProductOut::Sums(y) => {
                        limits.aligned(y)?;
                        limits.apart(&[p.x], y..y.saturating_add(pixels * p.geom.c_out * 4))
                    }
                }
            }
            Kernel::Add { a, b, y, .. } | Kernel::Mul { a, b, y, .. } => {
                limits.size(a.len, y.len)?;
                limits.size(b.len, y.len)?;
                limits.apart(&[*a, *b], y.range())
            }
            Kernel::Lut { x, y, table } => {
                limits.size(table.len(), 256)?;
                limits.size(x.len, y.len)?;
                limits.apart(&[*x], y.range())
            }
            Kernel::MaxPool { x, y, geom } | Kernel::AvgPool { x, y, geom, .. } => {
                limits.size(x.len, geom.batch * geom.in_h * geom.in_w * geom.c)?;
                let y = limits.strided(*y, geom.pixels(), geom.c)?;
                let sizes = [geom.k_h, geom.k_w, geom.stride_h, geom.stride_w, geom.dil_h, geom.dil_w];
                if sizes.contains(&0) {
                    return Err(format!("a window without size: {geom:?}"));
                }
                if let Kernel::AvgPool { average, .. } = self {
                    let counts = geom.counts(average.count_include_pad);
                    let known = |n: &usize| average.requants.iter().any(|(of, _)| of == n);
                    if average.requants.is_empty()
                        || !average.requants.iter().all(|(_, by)| by.is_valid())
                        || !counts.iter().all(known)
                    {
                        return Err(format!("means over {counts:?} positions"));
                    }
                }
                limits.apart(&[*x], y)
            }
            Kernel::Move { x, y, moves, .. } => {
                moves.check(x.len, y.len)?;
                limits.apart(&[*x], y.range())
            }
            Kernel::Resize { x, y, resize: r } => {
                if !r.is_whole() {
                    return Err("a resizing whose parts do not fit each other".into());
                }
                limits.size(x.len, r.batch * r.in_h * r.in_w * r.c)?;
                let y = limits.strided(*y, r.lines() * r.columns.len(), r.c)?;
                limits.apart(&[*x], y)
            }
            Kernel::Integers(of) => of.check(limits),
        }
    }
}

pub(super) fn bounded(sizes: &[usize]) -> Result<(), String> {
    const MOST: usize = 1 << 40;
    match sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1))) {
        Some(n) if n <= MOST => Ok(()),
        _ => Err(format!("sizes of {sizes:?} are too large")),
    }
}

/// The memory that steps must stay in.
pub(super) struct Limits<'a> {
    pub(super) arena: usize,
    pub(super) reals: &'a [(usize, bool)],
    pub(super) weights: &'a [Weights],
}

impl Limits<'_> {
    fn inside(&self, range: Range<usize>) -> Result<(), String> {
        match range.start <= range.end && range.end <= self.arena {
            true => Ok(()),
            false => Err(format!("bytes {range:?} of an arena of {}", self.arena)),
        }
    }
    fn aligned(&self, at: usize) -> Result<(), String> {
        if at.is_multiple_of(4) { Ok(()) } else { Err(format!("real numbers at byte {at}")) }
    }
    fn found(&self, found: Found) -> Result<(), String> {
        self.aligned(found.at)?;
        self.inside(found.range())
    }
    pub(super) fn size(&self, have: usize, need: usize) -> Result<(), String> {
        if have == need { Ok(()) } else { Err(format!("a span of {have} where {need} elements are computed")) }
    }
    pub(super) fn real(&self, index: usize, len: usize, written: bool) -> Result<(), String> {
        match self.reals.get(index) {
            // What the tape wrote it may read again.
            Some(&(have, way)) if have == len && (way || !written) => Ok(()),
            other => Err(format!("buffer {index} is {other:?}, not ({len}, {written})")),
        }
    }
    fn strided(&self, y: Strided, pixels: usize, c: usize) -> Result<Range<usize>, String> {
        if y.pitch < c {
            return Err(format!("a pitch of {} for {c} channels", y.pitch));
        }
        let end = if pixels == 0 { y.at } else { y.at.saturating_add((pixels - 1) * y.pitch + c) };
        Ok(y.at..end)
    }
    /// `y` and the operands (with the slack behind them) lie in the arena, and `y` overlaps none of them.
    pub(super) fn apart(&self, operands: &[Span], y: Range<usize>) -> Result<(), String> {
        self.inside(y.clone())?;
        for x in operands {
            self.inside(x.at..x.at.saturating_add(x.len).saturating_add(SLACK))?;
            if x.at < y.end && y.start < x.at + x.len + SLACK && !y.is_empty() {
                return Err(format!("{x:?} is read while {y:?} is written"));
            }
        }
        Ok(())
    }
}
