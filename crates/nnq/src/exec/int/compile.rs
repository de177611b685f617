//! What can be prepared before shapes are known: packed weights, multipliers, tables.
use super::{
    between::{self, Between},
    offset,
    steps::integers,
    table,
};
use crate::{
    error::{Error, Result},
    exec::lower::{Form, Product, ProductOut, Program, Requant, Step, StepKind},
    ir::Data,
};
use nnq_kernels::{
    Isa,
    conv::{ConvGeom, Order, PackedConv},
    depthwise::PackedDepthwise,
    tape::{Requantize, Weights},
    wide::Lut,
};
use std::{borrow::Cow, sync::Arc};

/// The prepared part of a step.
pub(super) enum Packed {
    /// Nothing to prepare.
    None,
    Product(Box<PackedProduct>),
    Between(Arc<dyn Between>),
    Table(Box<[u8; 256]>),
    /// A table from or to words.
    Words(Arc<Lut>),
}

/// Weights and epilogue of a product; every plan shares them.
pub(super) struct PackedProduct {
    pub(super) weights: Weights,
    pub(super) bias: Arc<[i32]>,
    pub(super) w_zero: Option<Arc<[i32]>>,
    pub(super) requant: Requantize,
    /// Channels in and out and kernel; sizes are filled in by the plan.
    pub(super) geom: ConvGeom,
}

impl Packed {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Table(_) => 256,
            Self::Words(t) => t.table.len() * size_of::<i16>(),
            Self::Product(p) => p.bytes(),
            Self::Between(b) => b.bytes(),
        }
    }
}

impl PackedProduct {
    pub(super) fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Conv(w) => w.bytes(),
            Weights::Depthwise(w) => w.bytes(),
        }
    }
}

pub(super) fn pack(program: &Program, step: &Step, isa: Isa) -> Result<Packed> {
    let grid = |slots: &[Option<usize>]| {
        program.grid(slots.first().copied().flatten().ok_or_else(|| Error::internal("a step without operand"))?)
    };
    Ok(match &step.kind {
        StepKind::Product(p) => Packed::Product(Box::new(product(p, isa)?)),
        StepKind::Pointwise(f) if grid(&step.inputs)?.qtype.bits.max(grid(&step.outputs)?.qtype.bits) > 8 => {
            Packed::Words(integers::table(*f, grid(&step.inputs)?, grid(&step.outputs)?))
        }
        StepKind::Pointwise(f) => Packed::Table(table::pointwise(*f, grid(&step.inputs)?, grid(&step.outputs)?)),
        StepKind::Regrid(m) => Packed::Table(table::regrid(*m, grid(&step.inputs)?, grid(&step.outputs)?)),
        _ => between::pack(step, isa)?.map_or(Packed::None, Packed::Between),
    })
}

/// Packs the weights of a product.
pub(super) fn product(p: &Product, isa: Isa) -> Result<PackedProduct> {
    // Unsigned codes of 8 bits are lowered by 128; narrower ones are signed bytes as they are.
    let lift = match p.weight.data() {
        Data::U8(_) if p.weight.int_range()?.is_some_and(|(_, most)| most > i64::from(i8::MAX)) => offset(true),
        _ => 0,
    };
    let codes = signed_bytes(p, lift)?;
    let shape = p.weight.shape();
    let channels = p.bias.len();
    let (mut geom, order) = match &p.form {
        Form::Conv(a) => {
            let (k_h, k_w) = if shape.len() == 3 { (1, shape[2]) } else { (shape[2], shape[3]) };
            let group = a.group.max(1);
            let mut geom = ConvGeom::matrix(0, shape[1] * group, channels);
            (geom.k_h, geom.k_w, geom.groups) = (k_h, k_w, group);
            (geom, Order::ChannelsFirst)
        }
        Form::Matrix { transposed: true } => (ConvGeom::matrix(0, shape[1], channels), Order::ChannelsLast),
        Form::Matrix { transposed: false } => (ConvGeom::matrix(0, shape[0], channels), Order::Rows),
    };
    let zero = |c: usize| p.weight_zero.as_ref().map_or(0, |zero| zero[c]) - lift;
    let w_zero: Option<Arc<[i32]>> = (0..channels).any(|c| zero(c) != 0).then(|| (0..channels).map(zero).collect());
    geom.batch = 0;
    let depthwise = geom.groups == geom.c_in && geom.c_in == geom.c_out && geom.groups > 1 && w_zero.is_none();
    let weights = if depthwise {
        // One input channel: both orders are the same.
        Weights::Depthwise(Arc::new(PackedDepthwise::pack(isa, &geom, &codes)))
    } else {
        Weights::Conv(Arc::new(PackedConv::pack_from(isa, &geom, &codes, order)))
    };
    // Whoever needs them again reads them from the file again.
    p.weight.release();
    let requant = match &p.out {
        ProductOut::Real { scale } => Requantize::Real(scale.clone()),
        ProductOut::Dynamic { scale, bias } => Requantize::Dynamic { scale: scale.clone(), bias: bias.clone() },
        ProductOut::Code { requant: Requant::Onnx(m), .. } => Requantize::Onnx(m.clone()),
        ProductOut::Code { requant: Requant::Dyadic { mult, shift }, .. } => {
            Requantize::Dyadic { mult: mult.clone(), shift: shift.clone() }
        }
    };
    Ok(PackedProduct { weights, bias: p.bias.clone(), w_zero, requant, geom })
}

/// Weight codes as the kernels want them: signed bytes; unsigned codes are lowered by `lift`, their zero points likewise.
fn signed_bytes(p: &Product, lift: i32) -> Result<Cow<'_, [i8]>> {
    let wide = || {
        Error::unsupported("weights of more than 8 bits; the integer engine runs up to 8")
            .cure("run it with --engine sim")
    };
    match p.weight.data() {
        Data::I8(b) => Ok(Cow::Borrowed(b)),
        #[allow(clippy::cast_possible_wrap)]
        Data::U8(b) if lift == 0 => Ok(b.iter().map(|&c| c as i8).collect()),
        #[allow(clippy::cast_possible_wrap)]
        Data::U8(b) => Ok(b.iter().map(|&c| (c ^ 0x80) as i8).collect()),
        _ => Err(wide()),
    }
}
