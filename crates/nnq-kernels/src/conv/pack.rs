//! Weights in the order in which a tile reads them.
use super::{
    ConvGeom, FEW_WEIGHTS, Shape,
    fields::{Fields, Room, unpack},
    proof::Proofs,
};
use crate::{
    Isa,
    simd::{MAX_LANES, Op, Simd, TILE_VECTORS, Vector},
};
use bytes::Bytes;
use std::{
    borrow::Cow,
    ops::{Deref, Range},
    sync::{Arc, OnceLock},
};

/// Packed weights: for each group, each panel of `width` output channels, each step of four inputs:
/// `[width][4]` bytes. What does not exist is 0.
///
/// Groups with few channels are merged: `merge` of them make one group with zeros off the diagonal, so
/// that a panel is full and the inputs of a position lie together.
///
/// Where [`Panels::fields`] are narrower than a byte, a panel's bytes are squeezed by whole vectors, and lie in as many lines as
/// they then need.
///
/// For tiles each row of the kernel may begin at a whole tile's row of inputs, see [`Panels::spaced`].
#[derive(Clone, Debug)]
pub(super) struct Panels {
    pub(super) width: usize,
    /// Pixels of a tile.
    pub(super) grain: usize,
    pub(super) groups: usize,
    /// Input channels of a merged group.
    pub(super) c_in: usize,
    /// Output channels of a merged group.
    pub(super) c_out: usize,
    /// Panels of a merged group.
    pub(super) panels: usize,
    /// Bytes of inputs from one row of the kernel to the next.
    pub(super) row: usize,
    /// Steps of four inputs.
    pub(super) steps: usize,
    /// Steps from one panel to the next; those that are too many have weights of 0.
    pub(super) room: usize,
    /// How weights lie in memory.
    pub(super) fields: Fields,
    lines: Lines,
    /// Sum of the weights of each output channel.
    pub(super) sums: Vec<i32>,
    /// Once somebody asked.
    proofs: OnceLock<Arc<Proofs>>,
}

/// The bytes of all panels: of this process, or of a file.
#[derive(Clone, Debug)]
enum Lines {
    Own(Vec<Line>),
    /// A whole number of lines, aligned to one.
    Mapped(Bytes),
}

impl Deref for Lines {
    type Target = [Line];

    #[inline(always)]
    fn deref(&self) -> &[Line] {
        match self {
            Lines::Own(lines) => lines,
            // SAFETY: a line is 64 bytes of any value; number and alignment were checked in `Lines::of`.
            Lines::Mapped(bytes) => unsafe {
                std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<Line>())
            },
        }
    }
}

impl Lines {
    /// A whole number of lines, copied only where they are not aligned.
    fn of(bytes: Bytes) -> Lines {
        if bytes.as_ptr().cast::<Line>().is_aligned() {
            return Lines::Mapped(bytes);
        }
        Lines::copied(&bytes)
    }

    /// A copy of a whole number of lines.
    fn copied(bytes: &[u8]) -> Lines {
        let mut lines = vec![Line::ZERO; bytes.len() / size_of::<Line>()];
        for (line, from) in lines.iter_mut().zip(bytes.chunks_exact(size_of::<Line>())) {
            line.0.iter_mut().zip(from).for_each(|(to, &from)| *to = from as i8);
        }
        Lines::Own(lines)
    }
}

/// One line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Line([i8; 64]);

impl Line {
    pub(super) const ZERO: Line = Line([0; 64]);
}

impl Panels {
    pub(super) fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>() + self.sums.len() * size_of::<i32>()
    }

    /// Takes panels in fields over, as whole lines.
    fn take(&mut self, fields: Fields, bytes: &Bytes) {
        if fields == Fields::BYTES || !self.are_few() {
            (self.fields, self.lines) = (fields, Lines::of(bytes.clone()));
            return;
        }
        let pitch = self.lines_of(fields) * size_of::<Line>();
        let panels = bytes.chunks_exact(pitch.max(1));
        let all: Vec<i8> = panels.flat_map(|p| fields.spread(p, self.unit(), self.panel_bytes())).collect();
        // SAFETY: signed bytes are bytes.
        self.lines = Lines::copied(unsafe { std::slice::from_raw_parts(all.as_ptr().cast(), all.len()) });
    }

    /// The bytes of all panels as they lie in memory.
    pub(super) fn all(&self) -> &[u8] {
        let lines: &[Line] = &self.lines;
        // SAFETY: a line is 64 bytes without padding.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines)) }
    }

    /// Whether there is room between the inputs of the kernel's rows, with weights of 0.
    pub(super) fn spaced(&self, geom: &ConvGeom) -> bool {
        self.row != geom.k_w * self.c_in
    }

    /// Bytes of one panel.
    pub(super) fn panel_bytes(&self) -> usize {
        self.room * self.width * 4
    }

    /// Bytes of the vectors in which a panel is squeezed: two of them are a step.
    fn unit(&self) -> usize {
        self.width * 4 / TILE_VECTORS
    }

    /// Lines of one panel in memory.
    #[inline(always)]
    fn panel_lines(&self) -> usize {
        self.lines_of(self.fields)
    }

    fn lines_of(&self, fields: Fields) -> usize {
        fields.bytes(self.panel_bytes(), self.unit()).div_ceil(size_of::<Line>())
    }

    /// Bytes from one panel to the next in memory.
    #[inline(always)]
    pub(super) fn panel_pitch(&self) -> usize {
        self.panel_lines() * size_of::<Line>()
    }

    /// The steps of a panel (counted through all groups) of weights that have a byte each.
    pub(super) fn step_bytes(&self, panel: usize) -> &[i8] {
        let bytes = self.panel_bytes();
        &self.weights()[panel * bytes..][..self.steps * self.width * 4]
    }

    /// The smallest and the largest of weights that have a byte each, and 0.
    pub(super) fn ends(&self) -> [i8; 2] {
        self.weights().iter().fold([0, 0], |[low, high], &w| [w.min(low), w.max(high)])
    }

    /// What saturates of the weights, for steps in so many spans.
    pub(super) fn proofs(&self, spans: usize) -> Arc<Proofs> {
        let of = || Arc::new(Proofs::new(self, spans));
        let known = self.proofs.get_or_init(of);
        // Others only where a layer runs in images of very different sizes.
        if known.is_of(spans) { known.clone() } else { of() }
    }

    /// One panel as it lies in memory.
    #[inline(always)]
    pub(super) fn panel(&self, group: usize, panel: usize) -> &[Line] {
        let lines = self.panel_lines();
        &self.lines[(group * self.panels + panel) * lines..][..lines]
    }

    /// The weights of one panel, a byte each: where they lie, or in `room`.
    #[inline(always)]
    pub(super) fn ready<V: Vector>(&self, v: V, group: usize, panel: usize, room: &mut Room) -> *const u8 {
        let from: *const u8 = self.panel(group, panel).as_ptr().cast();
        if self.fields == Fields::BYTES {
            return from;
        }
        let count = self.fields.bytes(self.panel_bytes(), self.unit()) / self.unit();
        let to = room.of(count * self.fields.count() * self.unit());
        assert!(self.unit() == 4 * V::LANES);
        // SAFETY: the panel has so many vectors, the room what they become.
        unsafe { unpack(v, self.fields, from, to, count) };
        to
    }

    /// The panels in the narrowest fields that hold their weights, as files keep them.
    pub(super) fn narrow(&self) -> (Fields, Cow<'_, [u8]>) {
        if self.fields != Fields::BYTES {
            return (self.fields, Cow::Borrowed(self.all()));
        }
        match Fields::of(self.weights()) {
            Fields::BYTES => (Fields::BYTES, Cow::Borrowed(self.all())),
            fields => (fields, Cow::Owned(self.squeezed(fields))),
        }
    }

    /// The same panels in the narrowest fields.
    pub(super) fn in_fields(&self) -> Panels {
        let (fields, bytes) = self.narrow();
        Panels { fields, lines: Lines::copied(&bytes), proofs: OnceLock::new(), ..self.clone() }
    }

    fn squeezed(&self, fields: Fields) -> Vec<u8> {
        let pitch = self.lines_of(fields) * size_of::<Line>();
        let panels = self.weights().chunks_exact(self.panel_bytes().max(1));
        let all = panels.flat_map(|panel| {
            let mut bytes = fields.squeeze(panel, self.unit());
            bytes.resize(pitch, 0);
            bytes
        });
        all.collect()
    }

    /// All bytes, of weights that have one each.
    fn weights(&self) -> &[i8] {
        let bytes = self.all();
        // SAFETY: bytes are signed bytes.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
    }

    /// Whether the weights of all panels are so few that fields are not worth the work of unpacking them again and again:
    /// they stay in the second-level cache.
    fn are_few(&self) -> bool {
        self.groups * self.panels * self.panel_bytes() <= FEW_WEIGHTS
    }

    /// Each group that has some of the panels `part` (counted through all groups), and which of its panels.
    pub(super) fn of_groups(&self, part: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let panels = self.panels;
        (part.start / panels..part.end.div_ceil(panels)).map(move |group| {
            let first = group * panels;
            (group, part.start.max(first) - first..part.end.min(first + panels) - first)
        })
    }

    /// The output channel in column `column` of a panel.
    #[inline(always)]
    pub(super) fn channel(&self, group: usize, panel: usize, column: usize) -> Option<usize> {
        let within = panel * self.width + column;
        (within < self.c_out).then(|| group * self.c_out + within)
    }

    /// [`Panels::channel`] of every column of every panel, in order.
    pub(super) fn columns(&self) -> impl Iterator<Item = Option<usize>> + Clone + '_ {
        (0..self.groups)
            .flat_map(move |group| (0..self.panels * self.width).map(move |column| self.channel(group, 0, column)))
    }
}

/// The order of weights that are given to be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `[c_out][k_h][k_w][c_in / groups]`.
    ChannelsLast,
    /// `[c_out][c_in / groups][k_h][k_w]`.
    ChannelsFirst,
    /// `[c_in][c_out]`, of a matrix product.
    Rows,
}

impl Order {
    /// The distance from one output channel, tap and input channel to the next.
    fn steps(self, shape: &Shape) -> [usize; 3] {
        let (taps, inputs) = (shape.k_h * shape.k_w, shape.c_in / shape.groups);
        match self {
            Order::ChannelsLast => [taps * inputs, inputs, 1],
            Order::ChannelsFirst => [taps * inputs, 1, taps],
            Order::Rows => [1, 0, shape.c_out],
        }
    }

    /// The weights in the order [`Order::ChannelsLast`].
    pub(super) fn sorted(self, shape: &Shape, w: &[i8]) -> Vec<i8> {
        let [channel, tap, input] = self.steps(shape);
        let all = (0..shape.c_out).flat_map(|c| (0..shape.k_h * shape.k_w).map(move |t| c * channel + t * tap));
        all.flat_map(|at| (0..shape.c_in / shape.groups).map(move |i| w[at + i * input])).collect()
    }
}

/// Packs weights for the instruction set that it is called with.
pub(super) struct Pack<'a> {
    shape: Shape,
    w: &'a [i8],
    order: Order,
    /// The steps of a panel are made a multiple of this.
    unit: usize,
    /// Pixels that are computed together; `None`: those of a tile of vectors.
    grain: Option<usize>,
    /// Sums, and bytes in fields, that were packed before, in place of `w`.
    from: Option<(&'a [i32], Fields, Bytes)>,
}

impl Op for Pack<'_> {
    type Out = Panels;

    #[inline(always)]
    fn call<S: Simd>(self, _: S) -> Panels {
        self.pack(TILE_VECTORS * S::V::LANES, self.grain.unwrap_or(S::TILE_PIXELS))
    }
}

impl<'a> Pack<'a> {
    pub(super) fn new(isa: Isa, shape: Shape, w: &'a [i8], order: Order) -> Pack<'a> {
        let (unit, grain) = match isa {
            // 64 inputs at once, 32 pixels.
            Isa::AmxInt8 => (16, Some(32)),
            _ => (1, None),
        };
        Pack { shape, w, order, unit, grain, from: None }
    }

    /// Panels that were packed before.
    pub(super) fn again(isa: Isa, shape: Shape, sums: &'a [i32], fields: Fields, bytes: Bytes) -> Pack<'a> {
        Pack { from: Some((sums, fields, bytes)), ..Pack::new(isa, shape, &[], Order::ChannelsLast) }
    }

    /// Panels without weights yet, and the lines that they need.
    fn empty(shape: &Shape, unit: usize, width: usize, grain: usize) -> (Panels, usize) {
        let (in_one, out_one) = (shape.c_in / shape.groups, shape.c_out / shape.groups);
        let merge =
            (1..=shape.groups).filter(|n| shape.groups.is_multiple_of(*n) && n * out_one <= width).max().unwrap_or(1);
        let (c_in, c_out, groups) = (in_one * merge, out_one * merge, shape.groups / merge);
        let panels = c_out.div_ceil(width);
        let row = Self::row(shape, unit, groups, panels, shape.k_w * c_in);
        let steps = (shape.k_h * row).div_ceil(4);
        let room = steps.next_multiple_of(unit);
        let (fields, lines, sums) = (Fields::BYTES, Lines::Own(Vec::new()), Vec::new());
        let empty = Panels {
            width,
            grain,
            groups,
            c_in,
            c_out,
            panels,
            row,
            steps,
            room,
            fields,
            lines,
            sums,
            proofs: OnceLock::new(),
        };
        let count = (groups * panels * empty.panel_bytes()).div_ceil(64);
        (empty, count)
    }

    /// Bytes of inputs from one row of the kernel to the next, of which `row` are used. A tile reads whole lines; where
    /// each row of the kernel begins one, inputs need not be copied together for every position. That is worth
    /// some more products.
    fn row(shape: &Shape, unit: usize, groups: usize, panels: usize, row: usize) -> usize {
        let line = unit * 4;
        let spaced = row.next_multiple_of(line);
        if unit == 1 || groups > 1 || shape.k_h == 1 {
            return row;
        }
        let more = shape.k_h * spaced / line - (shape.k_h * row).div_ceil(line);
        if 4 * more * panels <= 5 * shape.k_h { spaced } else { row }
    }

    #[inline(always)]
    fn pack(&self, width: usize, grain: usize) -> Panels {
        let Pack { shape, w, order, from, .. } = self;
        let (mut all, count) = Self::empty(shape, self.unit, width, grain);
        if let Some((sums, fields, bytes)) = from {
            // Of another length: the caller refuses them.
            let lines = all.groups * all.panels * all.lines_of(*fields);
            if bytes.len() == lines * size_of::<Line>() && sums.len() == shape.c_out {
                all.sums = sums.to_vec();
                all.take(*fields, bytes);
            }
            return all;
        }
        let (in_one, out_one) = (shape.c_in / shape.groups, shape.c_out / shape.groups);
        let taps = shape.k_h * shape.k_w;
        let Panels { c_in, c_out, panels, groups, row, .. } = all;
        let panel_bytes = all.panel_bytes();
        let mut lines = vec![Line::ZERO; count];
        // SAFETY: a line is 64 bytes without padding, and any byte is valid.
        let packed = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<i8>(), lines.len() * 64) };
        let mut sums = vec![0; shape.c_out];
        // Whether all inputs of a tap, of each channel at the same place, fill steps.
        let whole = in_one == c_in && c_in.is_multiple_of(4) && row.is_multiple_of(4);
        let mut block = [[0; PART]; TILE_VECTORS * MAX_LANES];
        let [to_channel, to_tap, to_input] = order.steps(shape);
        // Of each panel some inputs of all channels, then the next: their lines stay in the first cache.
        let parts = (0..in_one).step_by(PART).flat_map(|start| (0..taps).map(move |tap| (tap, start)));
        let of_panels = (0..groups).flat_map(|group| (0..c_out).step_by(width).map(move |first| (group, first)));
        for ((group, first), (tap, start)) in of_panels.flat_map(|panel| parts.clone().map(move |part| (panel, part))) {
            let base = (group * panels + first / width) * panel_bytes;
            let inputs = PART.min(in_one - start);
            let at = tap / shape.k_w * row + tap % shape.k_w * c_in + start;
            let channels = first..c_out.min(first + width);
            for (within, to) in channels.clone().zip(&mut block) {
                let channel = group * c_out + within;
                let from = &w[channel * to_channel + tap * to_tap + start * to_input..];
                let to = &mut to[..inputs];
                gather(from, to_input, to);
                sums[channel] += to.iter().map(|&value| i32::from(value)).sum::<i32>();
            }
            if whole {
                let to = &mut packed[base + at * width..][..inputs * width];
                steps(&block[..channels.len()], width, to);
                continue;
            }
            for (within, from) in channels.zip(&block) {
                let first = at + within / out_one * in_one;
                for (k, &value) in (first..).zip(&from[..inputs]) {
                    packed[base + within % width * 4 + k / 4 * width * 4 + k % 4] = value;
                }
            }
        }
        (all.lines, all.sums) = (Lines::Own(lines), sums);
        let fields = if all.are_few() { Fields::BYTES } else { Fields::of(w) };
        if fields != Fields::BYTES {
            let squeezed = all.squeezed(fields);
            (all.fields, all.lines) = (fields, Lines::copied(&squeezed));
        }
        all
    }
}

/// Inputs that are packed at once.
const PART: usize = 128;

/// Every `step`-th byte of `from`.
#[inline(always)]
fn gather(from: &[i8], step: usize, to: &mut [i8]) {
    #[inline(always)]
    fn each(from: &[i8], step: usize, to: &mut [i8]) {
        let from = &from[..(to.len() - 1) * step + 1];
        to.iter_mut().zip(from.iter().step_by(step)).for_each(|(to, &from)| *to = from);
    }
    match step {
        1 => to.copy_from_slice(&from[..to.len()]),
        // Known when this is compiled, most kernels being of three by three.
        9 => each(from, 9, to),
        _ => each(from, step, to),
    }
}

/// Of each channel's row in turn four bytes, then the next four, a step of `width` fours each time.
#[inline(always)]
fn steps(rows: &[[i8; PART]], width: usize, to: &mut [i8]) {
    for (i, to) in to.chunks_exact_mut(width * 4).enumerate() {
        for (row, to) in rows.iter().zip(to.chunks_exact_mut(4)) {
            to.copy_from_slice(&row[i * 4..][..4]);
        }
    }
}
