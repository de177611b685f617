//! A plan for one set of input shapes: the shape, layout and place of every value, the geometry of every step.
use super::compile::Packed;
use crate::{
    error::{At, Error, Result},
    exec::{
        float::room,
        lower::{Form, Program, Repr, Slot, Step, StepKind},
    },
    ir::{Binding, Dim, Shape, ValueId, op::Window},
};
use nnq_kernels::conv::{ConvGeom, SLACK};

/// Order of the bytes of a value of codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// As the shape says.
    RowMajor,
    /// `[n, spatial..., c]` for a shape `[n, c, spatial...]`.
    ChannelsLast,
}

/// Where a value of codes lives.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) shape: Vec<usize>,
    pub(super) layout: Layout,
    pub(super) offset: usize,
    pub(super) len: usize,
}

/// Sizes of a step.
pub(super) enum Geometry {
    None,
    Conv(ConvGeom),
    Pool(Window),
}

pub(super) struct Plan {
    /// Bytes of the arena.
    pub(super) arena: usize,
    /// For each slot that holds codes.
    pub(super) places: Vec<Option<Place>>,
    /// For each step.
    pub(super) geometry: Vec<Geometry>,
    /// Multiply-accumulates of each step.
    pub(super) macs: Vec<u64>,
    /// The step after which a slot is dead.
    pub(super) last_use: Vec<usize>,
}

pub(super) fn compile(program: &Program, packed: &[Packed], inputs: &[Vec<usize>]) -> Result<Plan> {
    let shapes = shapes(program, inputs)?;
    let shape = |slot: Slot| shapes[program.values[slot].source.0 as usize].clone();
    let last_use = last_use(program);
    let layouts = layouts(program, &shapes);
    let mut places: Vec<Option<Place>> = vec![None; program.values.len()];
    for (slot, value) in program.values.iter().enumerate() {
        if matches!(value.repr, Repr::Code(_)) {
            let name = || format!("value '{}'", program.graph.value(value.source).name);
            let shape = shape(slot)
                .ok_or_else(|| Error::shape("its shape cannot be known before the model runs"))
                .and_then(|s| Ok((room(&s)?, s)))
                .at(name)?;
            places[slot] = Some(Place { len: shape.0, shape: shape.1, layout: layouts[slot], offset: 0 });
        }
    }
    let arena = place(program, &mut places, &last_use);
    let mut geometry = Vec::with_capacity(program.steps.len());
    let mut macs = Vec::with_capacity(program.steps.len());
    for (step, packed) in program.steps.iter().zip(packed) {
        let g = step_geometry(step, packed, &shape).at(|| format!("node '{}'", program.step_name(step)))?;
        macs.push(match &g {
            Geometry::Conv(c) => (c.pixels() * c.c_out * (c.c_in / c.groups.max(1)) * c.k_h * c.k_w) as u64,
            _ => 0,
        });
        geometry.push(g);
    }
    Ok(Plan { arena, places, geometry, macs, last_use })
}

/// The shape of every value of the graph for these inputs.
fn shapes(program: &Program, inputs: &[Vec<usize>]) -> Result<Vec<Option<Vec<usize>>>> {
    let mut graph = (*program.graph).clone();
    let mut binding = Binding::new();
    for (&v, given) in program.graph.inputs.iter().zip(inputs) {
        if let Some(declared) = &program.graph.value(v).shape {
            for (d, &n) in declared.0.iter().zip(given) {
                if let Dim::Sym(s) = d
                    && *binding.entry(s.to_string()).or_insert(n) != n
                {
                    return Err(Error::shape(format!("dimension '{s}' is {} and {n} at once", binding[s.as_ref()]))
                        .at(format!("input '{}'", graph.value(v).name)));
                }
            }
        }
        graph.value_mut(v).shape = Some(Shape::fixed(given));
    }
    let graph = crate::ir::infer::bind(&graph, &Binding::new())?;
    Ok((0..graph.value_count())
        .map(|i| graph.value(ValueId(i as u32)).shape.as_ref().and_then(Shape::as_fixed))
        .collect())
}

fn last_use(program: &Program) -> Vec<usize> {
    let mut last = vec![0; program.values.len()];
    for (i, s) in program.steps.iter().enumerate() {
        for slot in s.inputs.iter().chain(&s.outputs).flatten() {
            last[*slot] = i;
        }
    }
    for &slot in &program.outputs {
        last[slot] = usize::MAX;
    }
    last
}

/// Channels last for images and for whatever convolutions and pools touch; row-major otherwise.
fn layouts(program: &Program, shapes: &[Option<Vec<usize>>]) -> Vec<Layout> {
    let rank = |slot: Slot| shapes[program.values[slot].source.0 as usize].as_ref().map_or(0, Vec::len);
    let mut layouts: Vec<Layout> =
        (0..program.values.len()).map(|s| if rank(s) == 4 { Layout::ChannelsLast } else { Layout::RowMajor }).collect();
    for step in &program.steps {
        let spatial = match &step.kind {
            StepKind::Product(p) => matches!(p.form, Form::Conv(_)),
            StepKind::MaxPool { .. } | StepKind::AveragePool { .. } => true,
            _ => false,
        };
        if spatial {
            for &slot in step.inputs.iter().chain(&step.outputs).flatten() {
                if rank(slot) == 3 {
                    layouts[slot] = Layout::ChannelsLast;
                }
            }
        }
    }
    layouts
}

/// First fit by liveness; answers the size of the arena.
fn place(program: &Program, places: &mut [Option<Place>], last_use: &[usize]) -> usize {
    let mut live: Vec<(usize, usize, usize)> = Vec::new();
    let mut size = 0;
    for (i, step) in program.steps.iter().enumerate() {
        live.retain(|&(_, _, until)| until >= i);
        for &slot in step.outputs.iter().flatten() {
            let Some(p) = &mut places[slot] else { continue };
            let bytes = (p.len + SLACK).next_multiple_of(64);
            live.sort_unstable();
            let mut at = 0;
            for &(start, end, _) in &live {
                if at + bytes <= start {
                    break;
                }
                at = at.max(end);
            }
            p.offset = at;
            live.push((at, at + bytes, last_use[slot]));
            size = size.max(at + bytes);
        }
    }
    size
}

fn step_geometry(step: &Step, packed: &Packed, shape: &dyn Fn(Slot) -> Option<Vec<usize>>) -> Result<Geometry> {
    let at = |slots: &[Option<Slot>]| {
        let slot = slots.first().copied().flatten().ok_or_else(|| Error::internal("a step without operand"))?;
        shape(slot).ok_or_else(|| Error::shape("the shape of an operand cannot be known before the model runs"))
    };
    Ok(match (&step.kind, packed) {
        (StepKind::Product(p), Packed::Product(pp)) => {
            let (x, y) = (at(&step.inputs)?, at(&step.outputs)?);
            let mut g = pp.geom;
            match &p.form {
                Form::Matrix { .. } => {
                    let k = x.last().copied().unwrap_or(0);
                    if k != g.c_in {
                        return Err(Error::shape(format!("rows of {k} values by a weight of {} rows", g.c_in)));
                    }
                    g.batch = x[..x.len() - 1].iter().product();
                }
                Form::Conv(a) => {
                    if x.len() != p.weight.shape().len() || x[1] != g.c_in {
                        return Err(Error::shape(format!("input {x:?} by a weight {:?}", p.weight.shape())));
                    }
                    let w = a.resolve(&x[2..], &p.weight.shape()[2..])?;
                    let (d2, pad) = (w.input.len() == 2, |i: usize| w.begin[i]);
                    // A one-dimensional convolution is a row of height 1.
                    let pick = |v: &[usize], default: usize| if d2 { (v[0], v[1]) } else { (default, v[0]) };
                    g.batch = x[0];
                    (g.in_h, g.in_w) = pick(&w.input, 1);
                    (g.out_h, g.out_w) = pick(&y[2..], 1);
                    (g.stride_h, g.stride_w) = pick(&w.strides, 1);
                    (g.dil_h, g.dil_w) = pick(&w.dilations, 1);
                    let (top, left) = if d2 { (pad(0), pad(1)) } else { (0, pad(0)) };
                    let fits = |p: i64| {
                        usize::try_from(p).map_err(|_| {
                            Error::unsupported(format!("a convolution with negative padding {p}"))
                                .cure("run the model through simplify, or crop before")
                        })
                    };
                    (g.pad_top, g.pad_left) = (fits(top)?, fits(left)?);
                }
            }
            Geometry::Conv(g)
        }
        (StepKind::MaxPool { window } | StepKind::AveragePool { window, .. }, _) => {
            let x = at(&step.inputs)?;
            if !(3..=4).contains(&x.len()) {
                return Err(Error::unsupported(format!("pooling over a shape {x:?}")));
            }
            Geometry::Pool(match window {
                Some(w) => w.resolve(&x[2..])?,
                None => crate::ir::op::PoolAttrs { kernel: x[2..].to_vec(), ..Default::default() }.resolve(&x[2..])?,
            })
        }
        _ => Geometry::None,
    })
}
