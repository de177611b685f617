//! The loss whose curvature is measured, and its gradients.
use crate::{
    backend::{self, Device, Kernels, Var},
    loss,
    net::{Forward, Normalize},
    params::{Parameters, Role},
    precision::Precision,
    qat::Plan,
    trainer::targets,
};
use burn::backend::tensor::FloatTensor;
use nnq::{
    Error, Result,
    ir::{Graph, NodeId, Tensor},
    quantize,
};
use std::{ops::Range, sync::atomic::AtomicBool};

/// A layer with weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weighted {
    /// The first node that reads them.
    pub node: NodeId,
    /// As this input.
    pub input: usize,
    /// Which parameter they are.
    pub parameter: usize,
}

/// What the loss is taken over.
pub struct Over<'a> {
    /// Answers some samples, as the network reads them.
    pub inputs: &'a dyn Fn(Range<usize>) -> Result<Tensor>,
    /// The network's output that is right, for each sample.
    pub labels: &'a [usize],
    /// Samples that run at once.
    pub batch: usize,
    /// Set by others to stop.
    pub cancel: Option<&'a AtomicBool>,
}

/// The mean cross-entropy of a float network over samples, as a function of the weights of its layers.
pub struct Objective<'a, B: Kernels> {
    graph: &'a Graph,
    plan: Plan,
    parameters: Parameters<B>,
    over: Over<'a>,
    device: Device<B>,
    /// The layers, in the order of the graph; weights that several read belong to the first.
    pub layers: Vec<Weighted>,
}

impl<'a, B: Kernels> Objective<'a, B> {
    /// The loss of a graph whose first output are logits.
    ///
    /// # Errors
    /// As [`Parameters::new`]; and for a network without weights.
    pub fn new(graph: &'a Graph, over: Over<'a>, device: Device<B>) -> Result<Self> {
        let plan = Plan::default();
        let parameters = Parameters::<B>::new(graph, &plan, &device)?;
        let mut layers: Vec<Weighted> = Vec::new();
        for (node, n) in graph.nodes() {
            for (input, v) in n.inputs.iter().enumerate() {
                let Some(parameter) = v.and_then(|v| parameters.of_value(v)) else { continue };
                let new = layers.iter().all(|l| l.parameter != parameter);
                if new && parameters.list[parameter].role == Role::Weight {
                    layers.push(Weighted { node, input, parameter });
                }
            }
        }
        if layers.is_empty() {
            return Err(Error::usage("no layer of the network has weights, so there is no Hessian")
                .cure("leave out --hessian, or give a network with Conv, Gemm or MatMul of constant weights"));
        }
        Ok(Self { graph, plan, parameters, over, device, layers })
    }
    /// The weights of each layer.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn weights(&self) -> Result<Vec<Vec<f32>>> {
        self.layers.iter().map(|l| backend::numbers::<B>(self.parameters.values[l.parameter].clone())).collect()
    }
    /// The loss, and its gradients by the layers that are `wanted`, with these weights. Batches are summed in binary64, in order.
    ///
    /// # Errors
    /// Names the node that has no gradient; a loss that is no number; stopping on request.
    pub fn gradients(&self, weights: &[Vec<f32>], wanted: &[bool]) -> Result<(f64, Vec<Vec<f64>>)> {
        let mut values = self.parameters.values.clone();
        for (layer, numbers) in self.layers.iter().zip(weights) {
            let shape = &self.parameters.list[layer.parameter].shape;
            values[layer.parameter] = backend::tensor::<B>(numbers.clone(), shape, &self.device);
        }
        let mut sums: Vec<Vec<f64>> =
            weights.iter().zip(wanted).map(|(w, &on)| vec![0.0; if on { w.len() } else { 0 }]).collect();
        let mut loss = 0.0;
        let count = self.over.labels.len();
        for start in (0..count).step_by(self.over.batch.max(1)) {
            quantize::check(self.over.cancel)?;
            let range = start..count.min(start + self.over.batch.max(1));
            let share = range.len() as f64 / count as f64;
            let (value, found) = self.batch(range, &values, wanted)?;
            loss += share * value;
            for (sum, numbers) in sums.iter_mut().zip(found) {
                sum.iter_mut().zip(numbers).for_each(|(s, g)| *s += share * f64::from(g));
            }
        }
        Ok((loss, sums))
    }
    /// Of some samples.
    fn batch(&self, range: Range<usize>, values: &[FloatTensor<B>], wanted: &[bool]) -> Result<(f64, Vec<Vec<f32>>)> {
        let mut leaves: Vec<Var<B>> = values.iter().map(|x| backend::constant::<B>(x.clone())).collect();
        for (layer, _) in self.layers.iter().zip(wanted).filter(|(_, on)| **on) {
            leaves[layer.parameter] = backend::tracked::<B>(values[layer.parameter].clone());
        }
        let input = (self.over.inputs)(range.clone())?;
        let shape = input.shape().to_vec();
        let input = backend::tensor::<B>(input.into_vec::<f32>()?, &shape, &self.device);
        let forward = Forward {
            graph: self.graph,
            plan: &self.plan,
            parameters: &self.parameters,
            normalize: Normalize::Frozen,
            gradients: None,
            precision: Precision::F32,
            soft: None,
            device: &self.device,
        };
        let output = forward.run(input, &leaves)?.output;
        let classes = backend::dims::<B>(&output).get(1).copied().unwrap_or(0);
        let targets = targets::targets(&self.over.labels[range], &[], classes, 0.0)?;
        let loss = loss::loss::<B>(output, &targets, None, &self.device)?;
        let value = backend::numbers::<B>(loss.primitive().clone())?.first().copied().unwrap_or(f32::NAN);
        if !value.is_finite() {
            return Err(Error::value(format!("the loss of the float network is {value}"))
                .cure("check --preprocess: samples on the wrong scale make logits that binary32 does not hold"));
        }
        if !wanted.contains(&true) {
            return Ok((f64::from(value), vec![Vec::new(); wanted.len()]));
        }
        let mut grads = loss.backward();
        let found = self.layers.iter().zip(wanted).map(|(layer, &on)| {
            let gradient = if on { leaves[layer.parameter].grad_remove(&mut grads) } else { None };
            gradient.map_or_else(|| Ok(Vec::new()), backend::numbers::<B>)
        });
        Ok((f64::from(value), found.collect::<Result<_>>()?))
    }
}
