//! Grids and weights that training found, in place of those that calibration and fitting would.
use super::{Product, Rounded, Start, bias_codes, widen};
use crate::{
    error::{At, Error, Result},
    ir::{Graph, Op, QParams, Tensor, ValueId},
    quant::{
        rounder::{Nearest, Rounder, Task, from_rows},
        weights,
    },
};
use std::sync::Arc;

/// What was learned of a product.
pub struct Learned {
    /// Its weights, row-major.
    pub weights: Vec<f32>,
    /// Their grid.
    pub params: QParams,
    /// The bias, one for each output channel; `None`: it has none.
    pub bias: Option<Vec<f32>>,
}

impl Start {
    /// The scales that a product's weights begin with, from which training goes on.
    ///
    /// # Errors
    /// Names the weight: NaN or infinite.
    pub fn fit(&self, product: &Product) -> Result<QParams> {
        let scheme = product.recipe.weight.scheme(product.axis, 1 - product.axis);
        let name = || format!("weight '{}'", self.graph().value(product.w).name);
        weights::fit(&product.real, &product.shape, &scheme).at(name)
    }
    /// Gives values, which share a grid, the scale that was trained.
    ///
    /// # Errors
    /// Names a value that has no grid, or a scale that is not finite and positive.
    pub fn regrid(&mut self, values: &[ValueId], params: &Arc<QParams>) -> Result<()> {
        for &v in values {
            let value = self.out.graph.value_mut(v);
            let name = value.name.clone();
            params.check(value.shape.as_ref().and_then(crate::ir::Shape::as_fixed).as_deref()).at(|| name.clone())?;
            if value.quant.is_none() {
                return Err(Error::internal("a trained grid for a real value").at(name));
            }
            value.quant = Some(params.clone());
        }
        Ok(())
    }
    /// Puts trained numbers in the place of a constant: of the network that is quantized, and of its float twin.
    ///
    /// # Errors
    /// When it is no constant of that shape.
    pub fn retrain(&mut self, v: ValueId, numbers: Vec<f32>) -> Result<()> {
        replace(&mut self.out.graph, v, numbers.clone())?;
        replace(Arc::make_mut(&mut self.out.float), v, numbers)
    }
    /// Puts what was learned of a product in the place of the codes that it has, if it has some.
    ///
    /// # Errors
    /// As [`Start::round_on`].
    pub fn relearn(&mut self, mut product: Product, learned: Learned) -> Result<()> {
        let node = self.graph().node(product.id);
        let bias = node.input(2).filter(|_| !matches!(node.op, Op::MatMul));
        product.w = node.input(1).unwrap_or(product.w);
        match (bias, learned.bias) {
            (Some(b), Some(numbers)) => {
                let value = self.out.graph.value_mut(b);
                value.quant = None;
                value.constant = Some(Arc::new(Tensor::of(&[numbers.len()], numbers)));
            }
            // Rounding may have added one, which learning knows nothing of.
            (Some(_), None) => self.out.graph.node_mut(product.id).inputs.truncate(2),
            (None, _) => {}
        }
        product.real = learned.weights;
        let rounded = self.round_on(&product, learned.params)?;
        self.put(&product, rounded)
    }
    /// Rounds a product's weights to the nearest codes on scales that are given, and its bias to theirs.
    ///
    /// # Errors
    /// Names the node: weights or biases that are NaN or infinite, scales that do not fit.
    pub fn round_on(&self, product: &Product, mut params: QParams) -> Result<Rounded> {
        let graph = self.graph();
        let node = graph.node(product.id);
        let (shape, axis) = (&product.shape, product.axis);
        let place = || format!("node '{}'", node.name);
        params.check(Some(shape)).at(place)?;
        if let Some(x) = product.real.iter().find(|x| !x.is_finite()) {
            return Err(Error::value(format!("a weight became {x}")).cure("train with a smaller learning rate"))
                .at(place);
        }
        let bias = node.input(2).filter(|_| !matches!(node.op, Op::MatMul));
        let real = bias.map(|b| graph.real_constant(b)).transpose()?;
        let sx = graph.value(product.x).quant.as_ref().and_then(|q| q.as_tensor()).map(|q| q.0);
        let mut messages = Vec::new();
        if let (Some(b), Some(sx)) = (&real, sx)
            && let Some((wider, changed)) = widen(&params, b, sx, shape[axis])
        {
            messages
                .push(format!("'{}': the scale of {changed} output channels was widened for their bias", node.name));
            params = wider;
        }
        let task = Task::new(&product.real, shape, axis, &params).at(place)?;
        let codes = from_rows(Nearest.round(&task, None).at(place)?, shape, axis);
        let bias = match (real, sx) {
            (Some(real), Some(sx)) => Some(bias_codes(&real, &params, sx, shape[axis]).at(place)?),
            _ => None,
        };
        Ok(Rounded { node: node.name.clone(), params, codes, bias, messages })
    }
}

/// The graph with other numbers in a constant.
fn replace(graph: &mut Graph, v: ValueId, numbers: Vec<f32>) -> Result<()> {
    let value = graph.value_mut(v);
    let name = value.name.clone();
    let old = value.constant.as_ref().filter(|t| t.len() == numbers.len());
    let shape = old.map(|t| t.shape().to_vec()).ok_or_else(|| Error::internal("no such constant").at(name))?;
    value.constant = Some(Arc::new(Tensor::of(&shape, numbers)));
    Ok(())
}
