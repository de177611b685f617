//! A network that is quantized already, as what learning begins with: its grids, its codes and its biases.
//!
//! Each weight begins at the number nearest to the real one that lies within a share of a step around the code that it has: decisions that nothing argues against
//! stay. Binary, ternary and DoReFa weights begin on their levels, where the codes are such levels.
use crate::{
    backend::{Device, Kernels},
    fake::{Grid, Levels, ScaleRule},
    params::{Of, Parameters},
    qat::{Plan, PlannedGrid, Quantizing},
};
use nnq::{
    Error, Result,
    error::At as _,
    ir::{Graph, Node, NodeId, Op, QParams, ValueId},
};
use std::collections::BTreeMap;

/// A product that was rounded.
struct Rounded {
    /// Codes less their zero points.
    codes: Vec<f32>,
    params: QParams,
    bias: Option<Vec<f32>>,
}

/// What does not begin with the quantized network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Layers whose codes are no levels of their quantizer.
    pub layers: usize,
    /// Values that have no such grid there.
    pub values: usize,
}

impl Left {
    /// What a user should know.
    pub fn notes(self) -> Vec<String> {
        let layers = "layers begin with the weights of the float network: the codes that learning begins with are no levels of their quantizer";
        let values = "values begin on the grids of calibration: what learning begins with has none for them";
        let each = [(self.layers, layers), (self.values, values)];
        each.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect()
    }
}

/// A quantized network: products by the names of their nodes, and grids of values by theirs.
pub struct Begun {
    products: BTreeMap<String, Rounded>,
    values: BTreeMap<String, QParams>,
    /// The bounds of clips, by the names of their nodes.
    clips: BTreeMap<String, Vec<f32>>,
}

/// The bounds of all clips whose bounds are constants.
fn clips(graph: &Graph) -> BTreeMap<String, Vec<f32>> {
    let one = |(_, node): (NodeId, &Node)| {
        let bounds = matches!(node.op, Op::Clip).then(|| [1, 2].map(|i| graph.constant(node.input(i)?)));
        let bounds: Option<Vec<f32>> = bounds?.iter().map(|t| t.as_ref()?.to_f32s().first().copied()).collect();
        Some((node.name.clone(), bounds?))
    };
    graph.nodes().filter_map(one).collect()
}

/// How much bounds that were found on the same samples may differ.
const SAME: f32 = 1e-4;

/// Codes of a constant less their zero points, and their grid.
fn codes(graph: &Graph, v: Option<ValueId>) -> Result<Option<(Vec<f32>, QParams)>> {
    let Some((tensor, params)) = v.and_then(|v| Some((graph.constant(v)?, graph.value(v).quant.as_deref()?))) else {
        return Ok(None);
    };
    let grid = Grid::new(params, tensor.shape(), 1)?;
    let codes = tensor.to_i64s()?;
    // Codes of biases have up to 31 bits: they are kept whole until they are real.
    let less = |(i, c): (usize, i64)| (c - i64::from(params.zero_point[grid.group(i)])) as f32;
    Ok(Some((codes.into_iter().enumerate().map(less).collect(), params.clone())))
}

impl Rounded {
    /// Weights of the levels of a grid that have these codes, each group on its scale.
    fn on_levels(&self, levels: Levels, shape: &[usize]) -> Result<Option<Vec<f32>>> {
        Ok(levels.begin(&self.codes, &self.params.scale, &Grid::new(&self.params, shape, 1)?))
    }
    fn begins(&self, graph: &Graph, grid: &PlannedGrid, id: NodeId) -> Result<bool> {
        let shape = graph.node(id).input(1).and_then(|w| graph.constant(w)).map(|t| t.shape());
        match (grid.levels, shape) {
            (Some(levels), Some(shape)) => Ok(self.on_levels(levels, shape)?.is_some()),
            _ => Ok(true),
        }
    }
    /// The grid that a planned one begins with.
    fn grid(&self, planned: &PlannedGrid, what: &str) -> Result<QParams> {
        match planned.levels {
            Some(levels) => Ok(QParams { qtype: levels.qtype(), ..self.params.clone() }),
            None => {
                same(&planned.params, &self.params, what)?;
                Ok(self.params.clone())
            }
        }
    }
}

fn same(old: &QParams, new: &QParams, what: &str) -> Result<()> {
    match old.qtype == new.qtype {
        true => Ok(()),
        false => Err(Error::usage(format!("'{what}' has {} there, and is to have {}", new.qtype, old.qtype))
            .cure("begin with a file of the same recipe")),
    }
}

impl Begun {
    /// What a network that was rounded holds.
    ///
    /// # Errors
    /// When its weights have a scale for each block.
    pub fn new(graph: &Graph) -> Result<Self> {
        let mut all = BTreeMap::new();
        for (_, node) in graph.nodes() {
            if !matches!(node.op, Op::Conv(_) | Op::Gemm { .. } | Op::MatMul) {
                continue;
            }
            let place = || format!("node '{}'", node.name);
            let Some((numbers, params)) = codes(graph, node.input(1)).at(place)? else { continue };
            let bias = match node.op {
                Op::MatMul => None,
                _ => codes(graph, node.input(2)).at(place)?,
            };
            let bias = bias.map(|(codes, params)| {
                let scale = |i: usize| params.scale[if params.scale.len() == 1 { 0 } else { i }];
                codes.iter().enumerate().map(|(i, c)| (f64::from(*c) * f64::from(scale(i))) as f32).collect()
            });
            all.insert(node.name.clone(), Rounded { codes: numbers, params, bias });
        }
        let held = graph.values().filter(|(_, v)| v.constant.is_none());
        let values = held.filter_map(|(_, v)| Some((v.name.clone(), v.quant.as_deref()?.clone()))).collect();
        Ok(Self { products: all, values, clips: clips(graph) })
    }
    /// Of some products alone.
    pub fn only(mut self, graph: &Graph, products: &[NodeId]) -> Self {
        self.products.retain(|name, _| products.iter().any(|&id| graph.node(id).name == *name));
        self
    }
    fn of<'a>(&'a self, graph: &Graph, plan: &Plan) -> Result<Vec<(NodeId, usize, &'a Rounded)>> {
        let mut all = Vec::new();
        for (&id, product) in &plan.products {
            let Some(rounded) = self.products.get(&graph.node(id).name) else { continue };
            // Codes that are no levels of the quantizer's say nothing to it: such weights begin as without them.
            if rounded.begins(graph, &plan.grids[product.weight], id)? {
                all.push((id, product.weight, rounded));
            }
        }
        Ok(all)
    }
    /// Refuses codes of a network whose channels were balanced in another way: they would mean something else here.
    fn balanced_alike(&self, graph: &Graph) -> Result<()> {
        for (name, ours) in clips(graph) {
            let theirs = self.clips.get(&name).unwrap_or(&ours);
            if let Some((there, here)) = theirs.iter().zip(&ours).find(|(t, o)| (*t - *o).abs() > SAME * o.abs()) {
                return Err(Error::usage(format!(
                    "clip '{name}' ends at {there} there and at {here} here: channels were balanced by other choices or samples"
                ))
                .cure("give the --data, --samples, --seed, --smooth, --basis and --equalize that the file was made with"));
            }
        }
        Ok(())
    }
    /// Lets weights and values be rounded on the grids that they were rounded on; answers what begins otherwise.
    ///
    /// # Errors
    /// When it has none of the products, they have other bits, or were balanced otherwise.
    pub fn regrid(&self, quantizing: &mut Quantizing) -> Result<Left> {
        let graph = quantizing.graph().clone();
        let known = |id: &&NodeId| self.products.contains_key(&graph.node(**id).name);
        let known = quantizing.plan.products.keys().filter(known).count();
        if known == 0 {
            return Err(Error::usage("none of its layers is a layer of the network that is trained")
                .cure("begin with a file that was made from the same network"));
        }
        self.balanced_alike(&graph)?;
        let layers = known - self.weights(&graph, &mut quantizing.plan)?.len();
        let mut left = Left { layers, values: 0 };
        for grid in quantizing.plan.grids.iter_mut().filter(|g| !g.values.is_empty()) {
            let named = |v: &ValueId| self.values.get(&graph.value(*v).name);
            match grid.values.iter().find_map(named) {
                Some(params) if grid.params == grid.fitted => {
                    same(&grid.params, params, &grid.name)?;
                    (grid.params, grid.fitted) = (params.clone(), params.clone());
                }
                // A rule that chooses a grid of its own, and learns its scale from there.
                Some(params) if grid.params.qtype == params.qtype && grid.rule != ScaleRule::Fixed => {
                    let ratios = params.scale.iter().zip(&grid.params.scale).map(|(new, old)| new / old);
                    grid.fitted.scale = grid.fitted.scale.iter().zip(ratios).map(|(s, r)| s * r).collect();
                    grid.params = params.clone();
                }
                // One that does not learn it, and what began with another rule.
                Some(params) if grid.params == *params => {}
                Some(_) | None => left.values += 1,
            }
        }
        Ok(left)
    }
    /// Lets weights be rounded on the grids that they were rounded on; answers which grids of the plan these are.
    ///
    /// # Errors
    /// When they have other bits.
    pub fn weights(&self, graph: &Graph, plan: &mut Plan) -> Result<Vec<usize>> {
        let mut grids = Vec::new();
        for (id, at, rounded) in self.of(graph, plan)? {
            let grid = &mut plan.grids[at];
            let params = rounded.grid(grid, &graph.node(id).name)?;
            grid.fitted = QParams { qtype: grid.fitted.qtype, ..params.clone() };
            grid.params = params;
            grids.push(at);
        }
        Ok(grids)
    }
    /// Lets parameters begin at what was rounded, weights within `share` of a step of their codes; answers how many biases that rounding added have no place.
    ///
    /// # Errors
    /// When weights are not those of the plan.
    pub fn put<B: Kernels>(
        &self,
        graph: &Graph,
        plan: &Plan,
        (parameters, share): (&mut Parameters<B>, f32),
        device: &Device<B>,
    ) -> Result<usize> {
        let mut left = 0;
        for (id, at, rounded) in self.of(graph, plan)? {
            let node = graph.node(id);
            let constant = |i: usize| node.input(i).filter(|v| parameters.of_value(*v).is_some());
            let w = constant(1).ok_or_else(|| Error::internal("weights that are no parameter"))?;
            let bias = constant(2).filter(|_| !matches!(node.op, Op::MatMul));
            let mut numbers = parameters.numbers(Of::Constant(w))?;
            let shape = graph.constant(w).map(|t| t.shape().to_vec()).unwrap_or_default();
            let grid = Grid::new(&rounded.params, &shape, 1)?;
            if numbers.len() != rounded.codes.len() {
                return Err(Error::internal(format!("{} codes of {} weights", rounded.codes.len(), numbers.len())));
            }
            match plan.grids[at].levels {
                Some(levels) => numbers = rounded.on_levels(levels, &shape)?.unwrap_or(numbers),
                None => {
                    for (i, (w, code)) in numbers.iter_mut().zip(&rounded.codes).enumerate() {
                        let s = rounded.params.scale[grid.group(i)];
                        *w = w.clamp((code - share) * s, (code + share) * s);
                    }
                }
            }
            parameters.put(Of::Constant(w), numbers, device)?;
            match (&rounded.bias, bias) {
                (Some(numbers), Some(b)) => parameters.put(Of::Constant(b), numbers.clone(), device)?,
                (Some(_), None) => left += 1,
                (None, _) => {}
            }
        }
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnq::ir::{DType, GraphBuilder};

    /// Clips an input, and adds nothing of interest to it.
    fn clipped(name: &str, bound: f32) -> Graph {
        let mut b = GraphBuilder::new("clipped");
        let x = b.input("x", DType::F32, "N, 4");
        let (lo, hi) = (b.scalar("lo", 0.0), b.scalar("hi", bound));
        let y = b.op(name, Op::Clip, &[x, lo, hi]);
        b.output(y);
        b.finish().unwrap()
    }

    #[test]
    fn networks_that_were_balanced_otherwise_are_refused() {
        let begun = Begun::new(&clipped("relu6", 1.5)).unwrap();
        begun.balanced_alike(&clipped("relu6", 1.500_01)).unwrap();
        // Another clip says nothing.
        begun.balanced_alike(&clipped("other", 3.0)).unwrap();
        let e = begun.balanced_alike(&clipped("relu6", 1.6)).unwrap_err().to_string();
        assert!(e.contains("'relu6' ends at 1.5 there and at 1.6 here") && e.contains("--smooth"), "{e}");
    }
}
