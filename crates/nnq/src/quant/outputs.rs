//! Ranges by the error of the layers that read a value.
//!
//! The grid with the least error of a value is not the one with the least error behind it: a layer may weigh small numbers more than large ones. Here each
//! value that the recipe leaves to `output` gets the range method whose grid does least harm to what its readers make:
//! `sum over readers of |f(Q(x)) - f(x)|^2 / |f(x)|^2` over some samples, where `f` is a product with its real weights (without bias), or the value itself for any other
//! reader. One value is rounded at a time.
use super::{
    channels::Feed,
    ptq::{Plan, Wanted},
    range::RangeMethod,
    recipe::{Activation, ActivationChange, Override, Recipe},
    stats::Stats,
    streams,
};
use crate::{
    error::{At, Error, Result},
    exec::float::{self, Ctx, Interest, Tap},
    ir::{Graph, Node, NodeId, Op, QParams, Tensor, ValueId},
};
use nnq_kernels::round::{dequantize_f32, quantize_f32};
use rayon::prelude::*;
use std::{collections::HashMap, sync::Arc};

/// The methods that a value may get.
pub const CANDIDATES: [RangeMethod; 7] = [
    RangeMethod::Norm,
    RangeMethod::Mse { p: 2.4 },
    RangeMethod::Mse { p: 4.0 },
    RangeMethod::MinMax,
    RangeMethod::Percentile { p: 99.99 },
    RangeMethod::Percentile { p: 99.9 },
    RangeMethod::Aciq,
];

/// A group of values with one grid, to be chosen.
struct Choice {
    /// What decides about it in the recipe: a node, or the network's input.
    decides: Option<NodeId>,
    methods: Vec<RangeMethod>,
    grids: Vec<QParams>,
    readers: Vec<Reader>,
}

/// Something that reads a value of a group.
struct Reader {
    /// A product.
    product: Option<(Op, Arc<Tensor>)>,
    signal: f64,
    /// By grid.
    noise: Vec<f64>,
}

/// The choices that a value has a part in: choice and reader.
struct Seen {
    choices: Vec<Choice>,
    watched: HashMap<ValueId, Vec<(usize, usize)>>,
}

fn energy(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

impl Reader {
    fn of(graph: &Graph, node: &Node, place: usize, grids: usize) -> Result<Self> {
        let product = matches!(node.op, Op::Conv(_) | Op::Gemm { .. } | Op::MatMul) && place == 0;
        let weights = node.input(1).filter(|&w| product && graph.constant(w).is_some());
        let product = weights.map(|w| Ok::<_, Error>((node.op.clone(), graph.real_constant(w)?))).transpose()?;
        Ok(Self { product, signal: 0.0, noise: vec![0.0; grids] })
    }
    /// The energy of what it makes of `x`.
    fn energy(&self, x: &Tensor) -> Result<f64> {
        let Some((op, weights)) = &self.product else { return Ok(energy(x.as_slice::<f32>()?)) };
        let made = float::eval(op, &[Some(x), Some(weights)], 1, &Ctx::new())?;
        made.first().map_or(Ok(0.0), |y| Ok(energy(y.as_slice::<f32>()?)))
    }
    fn add(&mut self, x: &Tensor, grids: &[QParams]) -> Result<()> {
        let elements = x.as_slice::<f32>()?;
        let reader = &*self;
        let noise = grids.par_iter().map(|grid| {
            let Some((scale, zero)) = grid.as_tensor() else { return Ok(0.0) };
            let (lo, hi) = (grid.qtype.min(), grid.qtype.max());
            let error = |&x: &f32| dequantize_f32(quantize_f32(x, scale, zero, lo, hi), scale, zero) - x;
            reader.energy(&Tensor::of::<f32>(x.shape(), elements.iter().map(error).collect()))
        });
        let noise = noise.collect::<Result<Vec<f64>>>()?;
        self.noise.iter_mut().zip(noise).for_each(|(all, one)| *all += one);
        self.signal += self.energy(x)?;
        Ok(())
    }
}

impl Tap for Seen {
    fn see(&mut self, value: ValueId, tensor: &Tensor) -> Result<()> {
        for &(choice, reader) in self.watched.get(&value).into_iter().flatten() {
            let Choice { readers, grids, .. } = &mut self.choices[choice];
            readers[reader].add(tensor, grids)?;
        }
        Ok(())
    }
    fn interest(&self, value: ValueId) -> Interest {
        if self.watched.contains_key(&value) { Interest::Tensor } else { Interest::Nothing }
    }
}

/// `recipe` with a method of [`CANDIDATES`] for each value that it leaves to [`RangeMethod::Output`]: an override for the node that makes it. `feed` gives
/// samples; the same samples give the same recipe for any number of threads.
///
/// # Errors
/// As running the samples; names the value whose statistics are missing.
pub fn choose(
    graph: &Arc<Graph>,
    statistics: &Stats,
    recipe: &Recipe,
    threads: usize,
    feed: &mut Feed,
) -> Result<Recipe> {
    let plan = Plan::new(graph, recipe)?;
    let graph = &*plan.float;
    let (producers, consumers) = (graph.producers(), graph.consumers());
    let mut seen = Seen { choices: Vec::new(), watched: HashMap::new() };
    for group in &plan.placement.groups {
        let first = group.sources.first().copied().unwrap_or(group.values[0]);
        let place = || format!("value '{}'", graph.value(first).name);
        let wanted = Wanted::of(graph, (&producers, &consumers), group, statistics, &plan.layers).at(place)?;
        if wanted.method != RangeMethod::Output {
            continue;
        }
        let decides = producers[streams::source(graph, &producers, first).0 as usize];
        let (mut methods, mut grids) = (Vec::new(), Vec::new());
        for method in CANDIDATES {
            let grid = wanted.params(method).at(place)?;
            if !grids.contains(&grid) {
                grids.push(grid);
                methods.push(method);
            }
        }
        let mut choice = Choice { decides, methods, grids, readers: Vec::new() };
        for &v in &group.values {
            let watched = seen.watched.entry(streams::source(graph, &producers, v)).or_default();
            for &(node, place) in &consumers[v.0 as usize] {
                let node = graph.node(node);
                // What rounds once more has a grid of its own.
                if !(matches!(node.op, Op::Identity)
                    && node.output(0).is_some_and(|v| streams::source(graph, &producers, v) != v))
                {
                    watched.push((seen.choices.len(), choice.readers.len()));
                    choice.readers.push(Reader::of(graph, node, place, choice.grids.len())?);
                }
            }
        }
        seen.choices.push(choice);
    }
    let mut session = float::Session::new(plan.float.clone(), &float::Options { threads })?;
    feed(&mut |inputs| session.run_tapped(inputs, &mut seen).map(drop))?;
    let mut out = recipe.clone();
    let plain = Activation::default().range;
    let changes = out.layers.iter_mut().filter_map(|o| o.activation.as_mut()?.range.as_mut());
    changes.chain([&mut out.activation.range]).filter(|r| **r == RangeMethod::Output).for_each(|r| *r = plain);
    // What a node makes may be rounded twice, for sums and for products: the recipe has one method for both, that of the grid that does more harm.
    let mut best: Vec<(f64, RangeMethod, &Choice)> = Vec::new();
    for choice in &seen.choices {
        let harm = |grid: usize| -> f64 {
            choice.readers.iter().filter(|r| r.signal > 0.0).map(|r| r.noise[grid] / r.signal).sum()
        };
        let grid = (0..choice.grids.len()).min_by(|&a, &b| harm(a).total_cmp(&harm(b))).unwrap_or(0);
        let new = (harm(grid), choice.methods[grid], choice);
        match best.iter_mut().find(|b| b.2.decides == choice.decides) {
            Some(old) if old.0 < new.0 => *old = new,
            Some(_) => {}
            None => best.push(new),
        }
    }
    for (_, method, choice) in best {
        let named = match choice.decides {
            Some(node) => Override::named(&graph.node(node).name),
            None => Override { op: Some("Input".into()), ..Override::default() },
        };
        let activation = ActivationChange { range: Some(method), ..ActivationChange::default() };
        out.layers.push(Override { activation: Some(activation), ..named });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::mix,
        ir::{DType, GraphBuilder},
        quant::observer::{Observer, ObserverKind},
    };

    const ROWS: usize = 500;

    /// Eight columns between 0 and 1; column 0 is 30 in two rows, and the product does not read it.
    fn case() -> (Arc<Graph>, Tensor, Vec<f32>) {
        let number = |i: u64| (mix(7, i) >> 40) as f32 / (1u64 << 24) as f32;
        let mut x: Vec<f32> = (0..ROWS as u64 * 8).map(number).collect();
        (x[0], x[8 * 99]) = (30.0, 30.0);
        let w: Vec<f32> = (0..24).map(|i| if i < 3 { 0.0 } else { number(10_000 + i) - 0.5 }).collect();
        let mut b = GraphBuilder::new("net");
        let v = b.input("x", DType::F32, "N, 8");
        let c = b.constant("w", Tensor::of(&[8, 3], w.clone()));
        let y = b.op("product", Op::MatMul, &[v, c]);
        b.output(y);
        (Arc::new(b.finish().unwrap()), Tensor::of(&[ROWS, 8], x), w)
    }

    #[test]
    fn a_value_gets_the_grid_that_harms_its_reader_least() {
        let (graph, x, w) = case();
        let mut sketch = ObserverKind::Tensor.start();
        sketch.observe(0, &[ROWS * 8], x.as_slice::<f32>().unwrap()).unwrap();
        let mut stats = Stats::new([0; 32], String::new());
        stats.values.insert("x".into(), sketch.clone());
        let text = "[activation]\nbits = 4\nrange = \"output\"\n";
        let recipe = Recipe::from_toml(text).unwrap();
        let run = |threads| choose(&graph, &stats, &recipe, threads, &mut |to| to(vec![x.clone()])).unwrap();
        let got = run(1);
        assert_eq!(got, run(2));
        assert!(!got.by_output());
        let method = got.resolve("", "Input").unwrap().activation.range;
        // By loops over all rows.
        let scheme = Activation { bits: 4, ..Activation::default() }.scheme();
        let harm = |method| {
            let range = crate::quant::range::choose(method, sketch.tensor().unwrap(), scheme).unwrap();
            let (s, z) = crate::quant::range::params(range, scheme);
            let mut sum = 0.0;
            for row in x.as_slice::<f32>().unwrap().chunks(8) {
                for c in 0..3 {
                    let error = |(k, &x): (usize, &f32)| {
                        let code = (f64::from(x / s).round_ties_even() + f64::from(z)).clamp(0.0, 15.0);
                        ((code - f64::from(z)) * f64::from(s) - f64::from(x)) * f64::from(w[3 * k + c])
                    };
                    sum += row.iter().enumerate().map(error).sum::<f64>().powi(2);
                }
            }
            sum
        };
        let least = CANDIDATES.into_iter().map(harm).fold(f64::INFINITY, f64::min);
        assert!(harm(method) <= least * 1.0001, "{method}");
        // The value's own error says otherwise: it covers what nothing reads.
        assert!(harm(RangeMethod::Norm) > 10.0 * least, "{} {least}", harm(RangeMethod::Norm));
    }

    #[test]
    fn without_samples_it_is_refused() {
        let (graph, x, _) = case();
        let mut sketch = ObserverKind::Tensor.start();
        sketch.observe(0, &[ROWS * 8], x.as_slice::<f32>().unwrap()).unwrap();
        let mut stats = Stats::new([0; 32], String::new());
        stats.values.insert("x".into(), sketch);
        let recipe = Recipe::from_toml("[activation]\nrange = \"output\"\n").unwrap();
        let error = crate::quant::ptq::quantize(&graph, &stats, &recipe).err().unwrap().to_string();
        assert!(error.contains("'x'") && error.contains("--data"), "{error}");
    }
}
