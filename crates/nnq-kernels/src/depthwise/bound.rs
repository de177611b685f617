//! A depthwise convolution with everything prepared.
use super::{Weights, direct, pack::Blocks, tile::Job};
use crate::{
    Isa,
    conv::{
        ConvGeom, Epilogue, Out, Scratch,
        epilogue::{Form, Live, OutPtr, Owned},
        scalar,
    },
    isa::dispatch,
    round::vector::Prepared,
};
use std::{ops::Range, sync::Arc};

/// A depthwise convolution of one geometry, ready to run: nothing is laid out or allocated between calls, once
/// the [`Scratch`] has grown.
#[derive(Clone, Debug)]
pub struct BoundDepthwise {
    isa: Isa,
    geom: ConvGeom,
    x_zero: u8,
    form: Form,
    epi: Owned,
    code: Code,
}

#[derive(Clone, Debug)]
enum Code {
    Plain(Arc<Vec<i8>>),
    Blocks(Box<Forms>),
}

/// Pixel by pixel, and with some neighbouring pixels as one of more channels: that only where the outputs leave no room
/// between pixels.
#[derive(Clone, Debug)]
struct Forms {
    single: Laid,
    grouped: Option<Laid>,
}

/// Weights and an epilogue for them.
#[derive(Clone, Debug)]
struct Laid {
    blocks: Arc<Blocks>,
    ready: Ready,
}

/// An epilogue laid out for the lanes of blocks.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    pub(super) prepared: Prepared,
    /// What accumulators start from: the bias, corrected for the zero point of the inputs.
    pub(super) start: Vec<i32>,
    /// Zero points of the weights.
    pub(super) w_zero: Option<Vec<i32>>,
    /// Neighbouring pixels that are computed as one of more channels; more than 1 only where
    /// [`direct::fits`] says so.
    pub(super) together: usize,
    pub(super) direct: bool,
}

impl Ready {
    fn new(epi: &Epilogue, geom: &ConvGeom, blocks: &Blocks, x_zero: u8, together: usize) -> Ready {
        let c = geom.c_in;
        let lanes = || blocks.lanes().map(|channel| channel.map(|channel| channel % c));
        let mut prepared = Prepared::default();
        epi.prepare(&mut prepared, &mut Vec::new(), lanes());
        let w_zero = epi.w_zero.map(|zeros| lanes().map(|channel| channel.map_or(0, |c| zeros[c])).collect());
        Ready {
            prepared,
            start: start(epi, c, blocks, x_zero).collect(),
            w_zero,
            together,
            direct: direct::fits(geom, epi),
        }
    }

    fn bytes(&self) -> usize {
        let words = self.start.len() + self.w_zero.as_ref().map_or(0, Vec::len);
        self.prepared.bytes() + words * size_of::<i32>()
    }
}

/// What accumulators of `c` channels start from, for the lanes of `blocks`, in which some pixels may lie as one.
fn start(epi: &Epilogue, c: usize, blocks: &Blocks, x_zero: u8) -> impl Iterator<Item = i32> {
    let shift = move |channel| blocks.sum(channel).wrapping_mul(x_zero.into());
    blocks.lanes().map(move |channel| channel.map_or(0, |one| epi.bias[one % c].wrapping_sub(shift(one))))
}

impl BoundDepthwise {
    pub(super) fn new(isa: Isa, weights: &Weights, geom: &ConvGeom, x_zero: u8, epi: &Epilogue) -> BoundDepthwise {
        geom.check_steps();
        epi.check_channels(geom.c_out);
        let code = match weights {
            Weights::Plain(w) => Code::Plain(w.clone()),
            Weights::Blocks(blocks) => {
                let laid = |blocks: Arc<Blocks>, together| {
                    let ready = Ready::new(epi, geom, &blocks, x_zero, together);
                    Laid { blocks, ready }
                };
                let together = direct::together(geom, epi, blocks.width());
                let grouped = (together > 1).then(|| laid(Arc::new(blocks.repeated(together)), together));
                Code::Blocks(Box::new(Forms { single: laid(blocks.clone(), 1), grouped }))
            }
        };
        BoundDepthwise { isa, geom: *geom, x_zero, form: epi.form(), epi: Owned::new(epi), code }
    }

    /// The sizes that it was bound for.
    pub fn geom(&self) -> &ConvGeom {
        &self.geom
    }

    /// Bytes of memory beside the shared weights.
    pub fn bytes(&self) -> usize {
        let ready = match &self.code {
            Code::Plain(_) => 0,
            Code::Blocks(forms) => {
                let grouped = forms.grouped.as_ref().map_or(0, |laid| laid.ready.bytes() + laid.blocks.memory());
                size_of::<Forms>() + forms.single.ready.bytes() + grouped
            }
        };
        size_of::<BoundDepthwise>() + ready
    }

    /// Computes the output pixels `rows`, as [`crate::conv::BoundConv::run`] does. Ranges of whole pairs of rows of pixels
    /// are fastest.
    ///
    /// # Panics
    /// As [`crate::conv::BoundConv::run`].
    pub fn run(&self, x: &[u8], rows: Range<usize>, out: Out<'_>, scratch: &mut Scratch) {
        self.geom.check_run(x.len(), &rows);
        self.form.check(self.geom.c_out, rows.len(), &out);
        let out = out.address(rows.start, self.geom.c_out);
        // SAFETY: the slice holds every output of `rows`, as was checked.
        unsafe { self.run_part(x, None, rows, out, scratch) };
    }

    /// The same to an address. `live`: the grid of the inputs, where the epilogue is [`crate::conv::Requant::Dynamic`]; without,
    /// it is what the convolution was bound with.
    ///
    /// # Panics
    /// When `x` is too short, `rows` reaches too far or `out` is not of the kind that the epilogue makes.
    ///
    /// # Safety
    /// The outputs of these pixels are writable at `out`, and nobody else reads or writes them during the call. With
    /// [`Isa::Scalar`] this holds for the bytes between them as well.
    pub(crate) unsafe fn run_part(
        &self,
        x: &[u8],
        live: Option<Live>,
        rows: Range<usize>,
        out: OutPtr,
        scratch: &mut Scratch,
    ) {
        self.geom.check_run(x.len(), &rows);
        assert!(live.is_none() || self.form == Form::Dynamic, "a product whose inputs have one grid was given another");
        assert!(self.form.makes(out), "the output is not of the kind that the epilogue makes");
        if rows.is_empty() || self.geom.c_out == 0 {
            return;
        }
        let x_zero = live.map_or(self.x_zero, |live| live.zero);
        let (geom, epi) = (&self.geom, &self.epi.live(live));
        match &self.code {
            Code::Plain(w) => {
                // SAFETY: the caller's.
                let out = unsafe { out.slice(rows.start, rows.len(), geom.c_out) };
                scalar::run(geom, w, x, x_zero, rows, epi, out);
            }
            Code::Blocks(forms) => {
                let no_room = matches!(out, OutPtr::U8 { pitch, .. } if pitch == geom.c_out);
                let Laid { blocks, ready } = forms.grouped.as_ref().filter(|_| no_room).unwrap_or(&forms.single);
                let mut own = std::mem::take(&mut scratch.start);
                let start = match live {
                    None => &ready.start,
                    Some(_) => {
                        own.clear();
                        own.extend(start(epi, geom.c_in, blocks, x_zero));
                        &own
                    }
                };
                let job = Job { geom, blocks, ready, start, epi, x, x_zero, rows, out, scratch };
                dispatch(self.isa, job).expect("blocks are packed for vectors");
                scratch.start = own;
            }
        }
    }
}
