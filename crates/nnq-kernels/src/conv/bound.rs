//! A convolution with everything prepared.
#[cfg(target_arch = "x86_64")]
use super::tiled;
use super::{
    ConvGeom, Epilogue, Out, Scratch, Weights, block,
    epilogue::{Form, Live, OutPtr, Owned, Ready},
    pack::Panels,
    proof::Proofs,
    scalar,
    sources::Plan,
};
#[cfg(target_arch = "x86_64")]
use crate::simd::Simd;
use crate::{Isa, isa};
use serde::{Deserialize, Serialize};
use std::{ops::Range, sync::Arc};

/// Pixels for which vectors are as fast as tiles of 16.
#[cfg(target_arch = "x86_64")]
const FEW_ROWS: usize = 2;

/// A convolution of one geometry, ready to run: nothing is laid out or allocated between calls, once the
/// [`Scratch`] has grown. It shares the weights with the [`super::PackedConv`] that it was bound from.
#[derive(Clone, Debug)]
pub struct BoundConv {
    isa: Isa,
    geom: ConvGeom,
    x_zero: u8,
    form: Form,
    code: Code,
    way: Way,
}

/// How a convolution goes about its work. The results are the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Way {
    /// Vectors even where the instruction set has tiles.
    pub vectors: bool,
    /// The inputs of each pixel are copied together even where a copy of rows with their padding would do.
    pub patches: bool,
    /// Kibibytes of inputs that are worked on at once; 0: what suits most.
    pub block: u16,
}

impl Way {
    /// Bytes of inputs that are worked on at once.
    pub(super) fn block(self, usual: usize) -> usize {
        if self.block == 0 { usual } else { usize::from(self.block) << 10 }
    }
}

/// Sizes of blocks to try, in kibibytes.
const BLOCKS: [u16; 4] = [16, 64, 256, 1024];

/// The grids of the inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Grids<'a> {
    /// What the convolution was bound with.
    Bound,
    /// Another; the epilogue is [`super::Requant::Dynamic`].
    One(Live),
    /// One for each pixel, of a matrix product that was bound with a zero point of 0; likewise.
    Rows(&'a [Live]),
}

impl From<Option<Live>> for Grids<'_> {
    fn from(live: Option<Live>) -> Self {
        live.map_or(Grids::Bound, Grids::One)
    }
}

#[derive(Clone, Debug)]
enum Code {
    Plain(Arc<Vec<i8>>, Box<Owned>),
    Panels(Box<OnPanels>),
}

/// What vectors and tiles need.
#[derive(Clone, Debug)]
struct OnPanels {
    panels: Arc<Panels>,
    plan: Plan,
    #[cfg(target_arch = "x86_64")]
    padded: Option<tiled::Padded>,
    ready: Ready,
    /// Where an instruction that saturates is quicker.
    proofs: Option<Arc<Proofs>>,
}

impl BoundConv {
    pub(super) fn new(isa: Isa, weights: &Weights, geom: &ConvGeom, x_zero: u8, epi: &Epilogue) -> BoundConv {
        geom.check_steps();
        epi.check_channels(geom.c_out);
        let code = match weights {
            Weights::Plain(w) => Code::Plain(w.clone(), Box::new(Owned::new(epi))),
            Weights::Panels(panels) => {
                let plan = Plan::new(geom, panels);
                let proofs = (isa == Isa::Avx2).then(|| panels.proofs(plan.tile_spans()));
                Code::Panels(Box::new(OnPanels {
                    panels: panels.clone(),
                    plan,
                    #[cfg(target_arch = "x86_64")]
                    padded: tiled::Padded::new(geom, panels),
                    ready: Ready::new(epi, panels, x_zero),
                    proofs,
                }))
            }
        };
        BoundConv { isa, geom: *geom, x_zero, form: epi.form(), code, way: Way::default() }
    }

    /// The sizes that it was bound for.
    pub fn geom(&self) -> &ConvGeom {
        &self.geom
    }

    /// The ways there are, the usual one first.
    pub fn ways(&self) -> Vec<Way> {
        let mut ways = vec![Way::default()];
        let Code::Panels(_code) = &self.code else { return ways };
        #[cfg(target_arch = "x86_64")]
        if isa::tiles(self.isa).is_some() {
            ways.push(Way { vectors: true, ..Way::default() });
            if _code.padded.is_some() {
                ways.push(Way { patches: true, ..Way::default() });
            }
        }
        ways.extend(BLOCKS.map(|block| Way { block, ..Way::default() }));
        ways
    }

    /// Goes this way from now on, as far as it is open to it.
    pub fn set_way(&mut self, way: Way) {
        self.way = way;
    }

    /// Bytes of memory beside the shared weights.
    pub fn bytes(&self) -> usize {
        match &self.code {
            Code::Plain(_, epi) => size_of::<BoundConv>() + epi.bytes(),
            Code::Panels(code) => {
                let proofs = code.proofs.as_ref().map_or(0, |p| p.bytes());
                size_of::<BoundConv>() + size_of::<OnPanels>() + code.ready.bytes() + proofs
            }
        }
    }

    /// Panels of output channels. Threads may share the work by panels as well as by pixels: by panels each
    /// reads only its part of the weights, by pixels only its part of the inputs.
    pub fn panels(&self) -> usize {
        match &self.code {
            Code::Plain(..) => 1,
            Code::Panels(code) => code.panels.groups * code.panels.panels,
        }
    }

    /// Most output channels of one panel.
    pub fn panel_width(&self) -> usize {
        match &self.code {
            Code::Plain(..) => self.geom.c_out,
            Code::Panels(code) => code.panels.width.min(code.panels.c_out),
        }
    }

    /// Pixels that are computed together: ranges of a multiple of it lose nothing.
    pub fn pixel_grain(&self) -> usize {
        match &self.code {
            Code::Plain(..) => 1,
            Code::Panels(code) => code.panels.grain,
        }
    }

    /// Computes the output pixels `rows`, a range over the flattened `batch * out_h * out_w`. Threads may
    /// compute disjoint ranges at the same time, each with its own `scratch`.
    ///
    /// `x` is `[batch][in_h][in_w][c_in]` and [`super::SLACK`] bytes; images behind those of `rows` need not be there.
    ///
    /// # Panics
    /// When a slice has another length than the geometry says, or the requantization does not fit `out`.
    pub fn run(&self, x: &[u8], rows: Range<usize>, out: Out<'_>, scratch: &mut Scratch) {
        self.run_all(x, Grids::Bound, rows, out, scratch);
    }

    /// As [`BoundConv::run`], with inputs on the grid `live`; the epilogue is [`super::Requant::Dynamic`].
    ///
    /// # Panics
    /// As [`BoundConv::run`], and with another epilogue.
    pub fn run_live(&self, x: &[u8], live: Live, rows: Range<usize>, out: Out<'_>, scratch: &mut Scratch) {
        self.run_all(x, Grids::One(live), rows, out, scratch);
    }

    /// The rows `rows` of a matrix product whose inputs have a grid for each row, those of `rows` first; the epilogue is [`super::Requant::Dynamic`].
    ///
    /// # Panics
    /// As [`BoundConv::run_live`], when this is no matrix product, or was bound with a zero point of the inputs.
    pub fn run_rows(&self, x: &[u8], grids: &[Live], rows: Range<usize>, out: &mut [f32], scratch: &mut Scratch) {
        self.run_all(x, Grids::Rows(grids), rows, Out::F32(out), scratch);
    }

    fn run_all(&self, x: &[u8], grids: Grids, rows: Range<usize>, out: Out<'_>, scratch: &mut Scratch) {
        self.geom.check_run(x.len(), &rows);
        self.form.check(self.geom.c_out, rows.len(), &out);
        let out = out.address(rows.start, self.geom.c_out);
        // SAFETY: the slice holds every output of `rows`, as was checked.
        unsafe { self.run_part(x, grids, rows, 0..self.panels(), out, scratch) };
    }

    /// Computes the output pixels `rows` of the channels in `panels`.
    ///
    /// # Panics
    /// When `x` is too short, a range reaches too far, `out` is not of the kind that the epilogue makes, or `grids` are not for it.
    ///
    /// # Safety
    /// The outputs of these pixels and channels are writable at `out`, and nobody else reads or writes them
    /// during the call. With [`Isa::Scalar`] this holds for the bytes between them as well.
    pub(crate) unsafe fn run_part(
        &self,
        x: &[u8],
        grids: Grids<'_>,
        rows: Range<usize>,
        panels: Range<usize>,
        out: OutPtr,
        scratch: &mut Scratch,
    ) {
        self.geom.check_run(x.len(), &rows);
        assert!(panels.end <= self.panels(), "panels {panels:?} of {}", self.panels());
        assert!(
            grids == Grids::Bound || self.form == Form::Dynamic,
            "a product whose inputs have one grid was given another"
        );
        assert!(self.form.makes(out), "the output is not of the kind that the epilogue makes");
        if rows.is_empty() || panels.is_empty() || self.geom.c_out == 0 {
            return;
        }
        let (live, grids) = match grids {
            Grids::Bound => (None, None),
            Grids::One(live) => (Some(live), None),
            Grids::Rows(grids) => {
                let ConvGeom { c_in, c_out, batch, .. } = self.geom;
                assert!(self.geom == ConvGeom::matrix(batch, c_in, c_out) && self.x_zero == 0, "no product by row");
                assert!(grids.len() == rows.len(), "{} grids for rows {rows:?}", grids.len());
                (None, Some(grids))
            }
        };
        let x_zero = live.map_or(self.x_zero, |live| live.zero);
        match &self.code {
            Code::Plain(w, epi) => {
                let run = |rows: Range<usize>, live: Option<Live>| {
                    // SAFETY: the caller's.
                    let out = unsafe { out.slice(rows.start, rows.len(), self.geom.c_out) };
                    let x_zero = live.map_or(self.x_zero, |live| live.zero);
                    scalar::run(&self.geom, w, x, x_zero, rows, &epi.live(live), out);
                };
                match grids {
                    None => run(rows, live),
                    Some(grids) => rows.zip(grids).for_each(|(row, &live)| run(row..row + 1, Some(live))),
                }
            }
            Code::Panels(code) => {
                let OnPanels { panels: all, plan, proofs, .. } = &**code;
                let proofs = proofs.as_deref();
                let mut own = scratch.live.take();
                let ready = match live {
                    None => &code.ready,
                    Some(live) => own.get_or_insert_default().set(&code.ready, live),
                };
                let (geom, way) = (&self.geom, self.way);
                let job = block::Job {
                    geom,
                    panels: all,
                    plan,
                    ready,
                    proofs,
                    x,
                    x_zero,
                    rows,
                    grids,
                    part: panels,
                    out,
                    way,
                    scratch,
                };
                self.on_panels(code, job);
                scratch.live = own;
            }
        }
    }

    fn on_panels(&self, _code: &OnPanels, job: block::Job) {
        #[cfg(target_arch = "x86_64")]
        if let Some(amx) = isa::tiles(self.isa).filter(|_| job.rows.len() > FEW_ROWS && !job.way.vectors) {
            let padded = _code.padded.filter(|_| !job.way.patches);
            return amx.vectors().run(tiled::Tiled { job, padded, amx });
        }
        isa::dispatch(self.isa, job).expect("panels are packed for vectors");
    }
}
