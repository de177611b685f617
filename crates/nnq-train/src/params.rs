//! What is trained: constants of the graph, and scales of grids.
use crate::{
    backend::{self, Device, Kernels, Var},
    qat::Plan,
};
use burn::backend::tensor::FloatTensor;
use nnq::{
    Error, Result,
    error::At as _,
    ir::{DType, Graph, Node, NodeId, Op, ValueId, op::Binary},
};
use std::collections::{BTreeMap, HashMap};

/// What a parameter does, which decides how it is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Multiplies: weights of products. Decays where decay is wanted.
    Weight,
    /// Everything else that is added or scales.
    Other,
    /// Scales of a grid: positive.
    Scale,
}

/// What a parameter is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Of {
    /// A constant of the graph.
    Constant(ValueId),
    /// The scales of a grid of the plan.
    Grid(usize),
    /// What the normalised channels of a product are multiplied with.
    Gain(NodeId),
}

/// Statistics that are kept while training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Running {
    /// What a constant of a batch normalisation holds.
    Constant(ValueId),
    /// The channel means of what a product answers.
    Mean(NodeId),
    /// Their variances.
    Variance(NodeId),
}

/// One tensor that is trained.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The constant's, or the grid's.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// What it is of.
    pub of: Of,
    /// Sizes of its axes.
    pub shape: Vec<usize>,
}

/// All parameters of a network, and the running statistics of its batch normalisations.
#[derive(Clone)]
pub struct Parameters<B: Kernels> {
    /// What they are, in a fixed order.
    pub list: Vec<Parameter>,
    /// Their numbers, in the same order.
    pub values: Vec<FloatTensor<B>>,
    /// Running means and variances.
    pub statistics: BTreeMap<Running, FloatTensor<B>>,
    by: HashMap<Of, usize>,
}

/// Which inputs of an operator are parameters where they are constants, and whether they multiply.
fn trained(node: &Node) -> &'static [(usize, Role)] {
    match &node.op {
        Op::Conv(_) | Op::ConvTranspose(_) | Op::Gemm { .. } => &[(1, Role::Weight), (2, Role::Other)],
        Op::Recurrent(_) => &[(1, Role::Weight), (2, Role::Weight), (3, Role::Other)],
        Op::MatMul => &[(0, Role::Weight), (1, Role::Weight)],
        Op::BatchNormalization { .. } | Op::LayerNormalization { .. } => &[(1, Role::Other), (2, Role::Other)],
        Op::Binary(Binary::PRelu) => &[(1, Role::Other)],
        Op::Binary(Binary::Add | Binary::Sub) => &[(0, Role::Other), (1, Role::Other)],
        _ => &[],
    }
}

/// The running statistics of a batch normalisation: the inputs that hold mean and variance.
pub const STATISTICS: [usize; 2] = [3, 4];

impl<B: Kernels> Parameters<B> {
    /// The parameters of a graph that is quantized by a plan, in the order of its nodes.
    ///
    /// # Errors
    /// Names constants that are not finite.
    pub fn new(graph: &Graph, plan: &Plan, device: &Device<B>) -> Result<Self> {
        let (list, values) = (Vec::new(), Vec::new());
        let mut all = Self { list, values, statistics: BTreeMap::new(), by: HashMap::new() };
        for (_, node) in graph.nodes() {
            for &(input, role) in trained(node) {
                if let Some(v) = node.input(input).filter(|v| all.of_value(*v).is_none()) {
                    all.add_constant(graph, v, role, device)?;
                }
            }
            if let Op::BatchNormalization { .. } = node.op {
                for v in STATISTICS.iter().filter_map(|&i| node.input(i)) {
                    if let Some(t) = graph.constant(v) {
                        let t = backend::tensor::<B>(t.to_f32s(), t.shape(), device);
                        all.statistics.insert(Running::Constant(v), t);
                    }
                }
            }
        }
        for (g, grid) in plan.grids.iter().enumerate() {
            all.add(
                grid.name.clone(),
                Role::Scale,
                Of::Grid(g),
                (&[grid.params.scale.len()], grid.params.scale.clone()),
                device,
            );
        }
        for (&id, normal) in &plan.normal {
            let flat = |x: f32| vec![x; normal.channels];
            let shape = [normal.channels];
            all.add(normal.name.clone(), Role::Scale, Of::Gain(id), (&shape, flat(1.0)), device);
            all.statistics.insert(Running::Mean(id), backend::tensor::<B>(flat(0.0), &shape, device));
            all.statistics.insert(Running::Variance(id), backend::tensor::<B>(flat(1.0), &shape, device));
        }
        Ok(all)
    }
    fn add_constant(&mut self, graph: &Graph, v: ValueId, role: Role, device: &Device<B>) -> Result<()> {
        let value = graph.value(v);
        let Some(t) = graph.constant(v).filter(|t| matches!(t.dtype(), DType::F32) && !t.is_empty()) else {
            return Ok(());
        };
        let numbers = t.to_f32s();
        if let Some(i) = numbers.iter().position(|x| !x.is_finite()) {
            let cause = format!("element {i} is {}", numbers[i]);
            return Err(Error::value(cause).cure("the model's weights are damaged: export it again"))
                .at(|| format!("constant '{}'", value.name));
        }
        self.add(value.name.clone(), role, Of::Constant(v), (t.shape(), numbers), device);
        Ok(())
    }
    fn add(&mut self, name: String, role: Role, of: Of, (shape, numbers): (&[usize], Vec<f32>), device: &Device<B>) {
        self.by.insert(of, self.list.len());
        self.values.push(backend::tensor::<B>(numbers, shape, device));
        self.list.push(Parameter { name, role, of, shape: shape.to_vec() });
    }
    /// Parameters of no graph, for an optimizer.
    pub fn loose(each: impl Iterator<Item = (Parameter, FloatTensor<B>)>) -> Self {
        let (list, values) = each.unzip();
        Self { list, values, statistics: BTreeMap::new(), by: HashMap::new() }
    }
    /// A leaf to differentiate by for each parameter.
    pub fn leaves(&self) -> Vec<Var<B>> {
        self.values.iter().map(|x| backend::tracked::<B>(x.clone())).collect()
    }
    /// The parameter of something.
    pub fn of(&self, of: Of) -> Option<usize> {
        self.by.get(&of).copied()
    }
    /// The parameter that a constant is.
    pub fn of_value(&self, v: ValueId) -> Option<usize> {
        self.of(Of::Constant(v))
    }
    /// The parameter that the scales of a grid are.
    pub fn of_grid(&self, grid: usize) -> Option<usize> {
        self.of(Of::Grid(grid))
    }
    /// The numbers of a parameter.
    ///
    /// # Errors
    /// When there is none, or the device cannot be read.
    pub fn numbers(&self, of: Of) -> Result<Vec<f32>> {
        let i = self.of(of).ok_or_else(|| Error::internal(format!("no parameter of {of:?}")))?;
        backend::numbers::<B>(self.values[i].clone())
    }
    /// The numbers of all parameters.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn all_numbers(&self) -> Result<Vec<Vec<f32>>> {
        self.values.iter().map(|x| backend::numbers::<B>(x.clone())).collect()
    }
    /// Puts other numbers into a parameter.
    ///
    /// # Errors
    /// When there is none.
    pub fn put(&mut self, of: Of, numbers: Vec<f32>, device: &Device<B>) -> Result<()> {
        let i = self.of(of).ok_or_else(|| Error::internal(format!("no parameter of {of:?}")))?;
        self.values[i] = backend::tensor::<B>(numbers, &self.list[i].shape, device);
        Ok(())
    }
    /// How many numbers are trained.
    pub fn count(&self) -> u64 {
        self.list.iter().map(|p| p.shape.iter().product::<usize>() as u64).sum()
    }
}
