//! From an annotated graph to an integer program: which steps there are, on which grids, with which multipliers.
//!
//! The program knows no layout, no kernel and no batch size. Simulator and integer engine read it; neither decides anything
//! about numbers on its own.
mod build;
mod coded;
pub(crate) mod forms;
mod integers;
mod masks;
mod product;
mod recurrent;
mod resize;
mod wide;
mod within;

pub use build::lower;
pub use coded::Coded;
pub(crate) use integers::{too_deep, too_long};
pub(crate) use masks::mask_id;
pub use product::bias_code;
pub use recurrent::Recurrent;
pub(crate) use resize::resizes;

use crate::{
    error::{Error, Result},
    ir::{Data, Graph, NodeId, Op, QParams, QType, Tensor, ValueId, op::Unary},
};
use nnq_kernels::round::{
    AddDyadic, Dyadic, ScalarRequant,
    integers::{Norm, Softmax},
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc};

/// Which arithmetic requantizes. See `docs/numerics.md` section 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Integer multiplier and shift.
    #[default]
    Dyadic,
    /// Binary32 multiplier, round half to even: the semantics of ONNX.
    Onnx,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dyadic => "dyadic",
            Self::Onnx => "onnx",
        })
    }
}

impl FromStr for Profile {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "dyadic" => Ok(Self::Dyadic),
            "onnx" => Ok(Self::Onnx),
            _ => Err(Error::usage(format!("no numeric profile is called '{s}'")).cure("use dyadic or onnx")),
        }
    }
}

/// Per-tensor parameters of a value that is held as codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// The integer grid.
    pub qtype: QType,
    /// The scale.
    pub scale: f32,
    /// The zero point.
    pub zero: i32,
}

impl Grid {
    /// `Q(x)`.
    pub fn quantize(&self, x: f32) -> i32 {
        nnq_kernels::round::quantize_f32(x, self.scale, self.zero, self.qtype.min(), self.qtype.max())
    }
    /// `D(q)`.
    pub fn dequantize(&self, q: i32) -> f32 {
        nnq_kernels::round::dequantize_f32(q, self.scale, self.zero)
    }
    /// The clamp without an activation.
    pub fn full(&self) -> Clamp {
        Clamp { lo: self.qtype.min(), hi: self.qtype.max() }
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(s={:e}, z={})", self.qtype, self.scale, self.zero)
    }
}

/// The codes a step may answer: the grid, or less when an activation is fused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Clamp {
    pub lo: i32,
    pub hi: i32,
}

/// Index of a value of a program.
pub type Slot = usize;

/// How a program holds a value.
#[derive(Clone, Debug)]
pub enum Repr {
    /// Real numbers (binary32 tensors, or integer tensors that are not quantized values, such as shapes).
    Real,
    /// Codes on a grid.
    Code(Grid),
    /// A constant of the graph.
    Constant(Arc<Tensor>),
}

/// A value of a program.
#[derive(Clone, Debug)]
pub struct ProgValue {
    /// The graph value whose shape it has.
    pub source: ValueId,
    /// How it is held.
    pub repr: Repr,
}

/// The geometry of an integer product.
#[derive(Clone, Debug)]
pub enum Form {
    /// Weight `[c_out, c_in / group, kernel...]`.
    Conv(crate::ir::op::ConvAttrs),
    /// Weight `[c_out, k]` when transposed, `[k, c_out]` otherwise; rows are the leading dimensions of the input.
    Matrix {
        /// The weight is stored `[c_out, k]`.
        transposed: bool,
    },
}

/// Multipliers of a requantization, one per output channel.
#[derive(Clone, Debug)]
pub enum Requant {
    /// Profile onnx.
    Onnx(Arc<[f32]>),
    /// Profile dyadic: the parts of each channel's [`Dyadic`].
    Dyadic {
        /// Multipliers.
        mult: Arc<[i32]>,
        /// Shifts.
        shift: Arc<[u8]>,
    },
}

/// What becomes of the accumulators.
#[derive(Clone, Debug)]
pub enum ProductOut {
    /// Codes on the output's grid.
    Code {
        /// Multipliers.
        requant: Requant,
        /// The activation.
        clamp: Clamp,
    },
    /// `f32(acc) * scale[channel]`.
    Real {
        /// `sx * sw` per output channel.
        scale: Arc<[f32]>,
    },
    /// The input is real, and quantized as it comes: `f32(acc) * (sx * sw[channel]) + bias[channel]` (numerics section 11).
    Dynamic {
        /// `sw` per output channel.
        scale: Arc<[f32]>,
        /// Real bias per output channel.
        bias: Arc<[f32]>,
    },
}

/// A table whose rows are looked up.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// `[rows, columns]`, of at most 8 bits.
    pub codes: Arc<Tensor>,
    /// What they stand for.
    pub params: Arc<QParams>,
    /// What the result is rounded to, where it is codes: as tables know beforehand.
    pub to: Option<Grid>,
}

impl Lookup {
    /// The number at a flat position.
    pub fn real(&self, at: usize) -> f32 {
        let code = match self.codes.data() {
            Data::I8(c) => c[at].into(),
            Data::U8(c) => c[at].into(),
            // What the lowering does not let in.
            _ => 0,
        };
        let k = self.params.index(self.codes.shape(), at);
        nnq_kernels::round::dequantize_f32(code, self.params.scale[k], self.params.zero_point[k])
    }
}

/// A matrix product whose rows are quantized as they come.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The product; its rows have grids of their own.
    pub product: Product,
    /// The value that is quantized.
    pub name: String,
    /// What it is of the step's input; the input itself without.
    pub function: Option<Unary>,
}

/// A matrix product of two values that are quantized as they come.
#[derive(Clone, Debug)]
pub struct Live {
    /// Each row of the first and each matrix of the second has a grid of its own; otherwise each of both operands has one.
    pub by_row: bool,
    /// The values that are quantized.
    pub names: [String; 2],
}

/// Convolution or matrix product with constant weights.
#[derive(Clone, Debug)]
pub struct Product {
    /// Geometry.
    pub form: Form,
    /// Weight codes in the layout of `form`: i8 or u8.
    pub weight: Arc<Tensor>,
    /// Grid of the weight codes.
    pub weight_qtype: QType,
    /// Zero point of the weights per output channel; `None`: all are 0.
    pub weight_zero: Option<Vec<i32>>,
    /// Bias per output channel.
    pub bias: Arc<[i32]>,
    /// Proved bound of `|acc|` over all channels.
    pub bound: i64,
    /// Epilogue.
    pub out: ProductOut,
}

/// Multipliers of an addition.
#[derive(Clone, Copy, Debug)]
pub enum AddRule {
    /// Profile onnx: the formula on the grids themselves.
    Onnx,
    /// Profile dyadic.
    Dyadic(AddDyadic),
}

/// The multiplier of a product of two values of codes, and its activation.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// Multiplier.
    pub by: Dyadic,
    /// Activation.
    pub clamp: Clamp,
}

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pointwise {
    /// An operator.
    Unary(Unary),
    /// Clip to real bounds.
    Clip(f32, f32),
    /// `f(x) = x` between different grids, profile onnx.
    Same,
}

impl Pointwise {
    /// `f(x)`, bit for bit as the float executor computes it.
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::Unary(u) => super::float::unary_scalar(u, x),
            Self::Clip(lo, hi) => x.max(lo).min(hi),
            Self::Same => x,
        }
    }
}

/// A softmax of codes.
#[derive(Clone, Debug)]
pub struct SoftmaxStep {
    /// The numbers.
    pub softmax: Arc<Softmax>,
    /// What each of the numbers 0 to 255 of the mask adds to a code.
    pub mask: Option<Arc<[i32]>>,
}

/// What a step computes. Inputs and outputs are slots of the program.
#[derive(Clone, Debug)]
pub enum StepKind {
    /// Real to codes: `Q`.
    Quantize,
    /// Codes to real: `D`.
    Dequantize,
    /// Convolution or matrix product of codes, or of real numbers that are quantized as they come ([`ProductOut::Dynamic`]).
    Product(Box<Product>),
    /// Sum or difference (`negate`) of codes.
    Add {
        /// Subtract the second.
        negate: bool,
        /// Multipliers.
        rule: AddRule,
        /// Activation.
        clamp: Clamp,
    },
    /// Product of codes; `None` is profile onnx, whose formula needs no multiplier.
    Mul {
        /// Multiplier of profile dyadic.
        rule: Option<Dyadic>,
        /// Activation.
        clamp: Clamp,
    },
    /// `Q(f(D(q)))`.
    Pointwise(Pointwise),
    /// `requantize(q - zx)` between grids, profile dyadic.
    Regrid(Dyadic),
    /// Maximum of codes over windows, or over everything when `window` is `None`.
    MaxPool {
        /// The window.
        window: Option<crate::ir::op::PoolAttrs>,
    },
    /// Mean of codes over windows, or over everything.
    AveragePool {
        /// The window.
        window: Option<crate::ir::op::PoolAttrs>,
        /// The padding counts.
        count_include_pad: bool,
    },
    /// Linear or cubic resizing of codes `[n, c, (h,) w]`.
    Resize {
        /// Weights of the rows; one row where there is no such axis.
        rows: Arc<nnq_kernels::resize::Line>,
        /// Weights of the columns.
        columns: Arc<nnq_kernels::resize::Line>,
    },
    /// Concatenation of codes that share one grid.
    Concat {
        /// Axis as in the operator.
        axis: i64,
    },
    /// An operator that moves codes (first input) and computes nothing; further inputs are constants.
    Move(Op),
    /// An operator in floating point.
    Float(Op),
    /// A recurrent layer: products of integers, whose inputs are quantized as they come, between gates in floating point. Inputs as those of the
    /// operator.
    Recurrent(Arc<Recurrent>),
    /// A matrix product of real numbers, each row of which is quantized as it comes.
    Rows(Arc<Rows>),
    /// A matrix product of real numbers with weights in codes.
    Coded(Arc<Coded>),
    /// Rows of a table of codes, as the real numbers that they stand for.
    Lookup(Arc<Lookup>),
    /// Product of two values of codes.
    Pair(Pair),
    /// Product of two real values that are quantized as they come.
    Live(Arc<Live>),
    /// Whole numbers from 0 to 255, which choose what a mask adds, as codes.
    Ids,
    /// Softmax of codes along the last axis; what is added first may be a second input: real numbers, or codes where there is a table for them.
    Softmax(SoftmaxStep),
    /// Layer normalisation of codes along the last axis.
    Norm(Arc<Norm>),
    /// Codes times a constant, or one for each index of the last axis; multipliers may be negative.
    Rescale(Arc<[Dyadic]>),
}

/// One step of a program.
#[derive(Clone, Debug)]
pub struct Step {
    /// The nodes it stands for: the first gives it its name.
    pub nodes: Vec<NodeId>,
    /// What it computes.
    pub kind: StepKind,
    /// Inputs.
    pub inputs: Vec<Option<Slot>>,
    /// Outputs.
    pub outputs: Vec<Option<Slot>>,
}

/// An integer program.
#[derive(Clone, Debug)]
pub struct Program {
    /// The graph it was lowered from, with annotations carried through moves.
    pub graph: Arc<Graph>,
    /// Arithmetic.
    pub profile: Profile,
    /// Values.
    pub values: Vec<ProgValue>,
    /// Steps in order.
    pub steps: Vec<Step>,
    /// Slots of the graph inputs, in order; real.
    pub inputs: Vec<Slot>,
    /// Slots of the graph outputs, in order; real.
    pub outputs: Vec<Slot>,
    /// What a user should know: layers that run in floating point although their inputs are quantized.
    pub notes: Vec<String>,
}

impl Step {
    /// A product whose input is quantized as it comes.
    pub fn is_dynamic(&self) -> bool {
        matches!(&self.kind, StepKind::Product(p) if matches!(p.out, ProductOut::Dynamic { .. }))
    }
}

impl StepKind {
    /// Whether it takes and gives real numbers, all samples at once, between kernels that lie on a tape.
    pub fn between_kernels(&self) -> bool {
        matches!(
            self,
            Self::Float(_)
                | Self::Recurrent(_)
                | Self::Rows(_)
                | Self::Coded(_)
                | Self::Lookup(_)
                | Self::Live(_)
                | Self::Ids
        )
    }
}

impl Program {
    /// The grid of a slot that holds codes.
    ///
    /// # Errors
    /// When it does not: a defect of the lowering.
    pub fn grid(&self, slot: Slot) -> Result<Grid> {
        match &self.values[slot].repr {
            Repr::Code(g) => Ok(*g),
            _ => Err(Error::internal(format!("slot {slot} of the program holds no codes"))),
        }
    }
    /// The name of a step: that of its first node.
    pub fn step_name(&self, step: &Step) -> String {
        step.nodes.first().map_or_else(
            || {
                let slot = step.outputs.iter().flatten().next();
                slot.map_or_else(String::new, |&s| self.graph.value(self.values[s].source).name.clone())
            },
            |&n| self.graph.node(n).name.clone(),
        )
    }
    /// How many steps compute in integers, and how many operators in floating point: those that read or make real numbers.
    pub fn integer_share(&self) -> (usize, usize) {
        let real = |&slot: &Slot| {
            let dtype = match &self.values[slot].repr {
                Repr::Constant(t) => Some(t.dtype()),
                _ => self.graph.value(self.values[slot].source).dtype,
            };
            dtype.is_none_or(|d| d.is_float())
        };
        let slots = |s: &Step| s.inputs.iter().chain(&s.outputs).flatten().any(real);
        let float = self.steps.iter().filter(|s| matches!(s.kind, StepKind::Float(_)) && slots(s)).count();
        (self.steps.len() - float, float)
    }
    /// The multiplier of a mean over `count` codes (of a sum, of which `count` stands for 1) from `from` to `to`.
    ///
    /// # Errors
    /// When the ratio of the scales has no dyadic form.
    pub fn mean_rule(&self, from: Grid, to: Grid, count: usize) -> Result<ScalarRequant> {
        Ok(match self.profile {
            #[allow(clippy::cast_precision_loss)]
            Profile::Onnx => ScalarRequant::Onnx(from.scale / (to.scale * count as f32)),
            #[allow(clippy::cast_precision_loss)]
            Profile::Dyadic => {
                ScalarRequant::Dyadic(dyadic(f64::from(from.scale) / (f64::from(to.scale) * count as f64))?)
            }
        })
    }
}

/// The error where numbers have no grid that could be found as they come.
pub(crate) fn no_range(value: &str) -> Error {
    Error::value(
        "some of its numbers are NaN or infinite, or their range is beyond binary32: no codes can stand for them",
    )
    .at(format!("value '{value}'"))
    .cure("look for what is not finite in the input; a layer that overflows can be kept float")
}

/// The dyadic form of a multiplier, or why there is none.
pub(super) fn dyadic(m: f64) -> Result<Dyadic> {
    Dyadic::from_real(m).ok_or_else(|| {
        Error::value(format!("the requantization factor {m:e} has no dyadic form"))
            .cure("the scales of this layer are far apart: calibrate again or keep the layer float")
    })
}
