//! Recurrent layers whose products are of integers (numerics section 11).
use super::{
    Form, Grid, Product,
    product::{self, Live, codes, distances},
};
use crate::{
    error::Result,
    exec::float::recurrent::{self, Products},
    ir::{DType, Data, Dynamic, Granularity, Graph, Node, QParams, Tensor, ValueId, op::RecurrentAttrs},
};
use std::{ops::Range, sync::Arc};

/// A recurrent layer with codes for weights; its inputs and states are quantized as they come, or on grids that are known.
pub struct Recurrent {
    /// What a step computes, and which way it goes.
    pub attrs: RecurrentAttrs,
    /// One for each direction.
    pub(crate) directions: Vec<Products<Product>>,
    /// The values that are quantized: the input, and one that holds states.
    pub names: [String; 2],
    /// Each row of the input and of the states is quantized on a grid of its own.
    pub by_row: bool,
    /// The grids of the input and of the states where they are known before numbers come.
    pub fixed: Option<[Grid; 2]>,
}

impl std::fmt::Debug for Recurrent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recurrent").field("attrs", &self.attrs).finish_non_exhaustive()
    }
}

impl Recurrent {
    /// Every product, direction by direction: that with the inputs, then those with states.
    pub fn products(&self) -> impl Iterator<Item = &Product> {
        self.directions.iter().flat_map(|d| std::iter::once(&d.input).chain(&d.state))
    }
    /// The same made of another kind of products, one for each of [`Recurrent::products`], which are told whether they read states.
    ///
    /// # Errors
    /// What `make` answers.
    pub(crate) fn map<P>(&self, mut make: impl FnMut(usize, bool) -> Result<P>) -> Result<Vec<Products<P>>> {
        let mut next = 0..;
        let mut one = |state| make(next.next().unwrap_or_default(), state);
        let of = |d: &Products<Product>| {
            Ok(Products { input: one(false)?, state: d.state.iter().map(|_| one(true)).collect::<Result<_>>()? })
        };
        self.directions.iter().map(of).collect()
    }
}

/// Weights of all directions, `[directions, rows, columns]`.
struct Weights {
    value: ValueId,
    codes: Arc<Tensor>,
    params: Arc<QParams>,
    /// By direction and row.
    scale: Vec<f32>,
    zero: Vec<i32>,
    rows: usize,
    columns: usize,
}

impl Weights {
    fn of(graph: &Graph, value: Option<ValueId>) -> Option<Self> {
        let value = value?;
        let (codes, params) = codes(graph, value)?;
        let &[directions, rows, columns] = codes.shape() else { return None };
        if codes.is_empty() || !matches!(codes.data(), Data::I8(_) | Data::U8(_)) {
            return None;
        }
        let at = |i: usize| match params.granularity {
            Granularity::Tensor => Some(0),
            Granularity::Channel { axis: 0 } => Some(i / rows),
            Granularity::Channel { axis: 1 } => Some(i % rows),
            Granularity::Block { axis: 2, size } if size >= columns => Some(i),
            _ => None,
        };
        let at: Vec<usize> = (0..directions * rows).map(at).collect::<Option<_>>()?;
        let scale = at.iter().map(|&i| params.scale.get(i).copied()).collect::<Option<_>>()?;
        let zero = at.iter().map(|&i| params.zero_point.get(i).copied()).collect::<Option<_>>()?;
        Some(Self { value, codes, params, scale, zero, rows, columns })
    }

    /// Some rows of one direction.
    fn product(&self, graph: &Graph, direction: usize, rows: Range<usize>, bias: &[f32]) -> Result<Product> {
        let rows = direction * self.rows + rows.start..direction * self.rows + rows.end;
        let (scale, zero) = (self.scale[rows.clone()].to_vec(), self.zero[rows.clone()].to_vec());
        let (shape, at) = ([rows.len(), self.columns], rows.start * self.columns..rows.end * self.columns);
        let (weight, reach) = match self.codes.data() {
            Data::I8(c) => (Tensor::of::<i8>(&shape, c[at.clone()].to_vec()), distances(&c[at], self.columns, &zero)),
            Data::U8(c) => (Tensor::of::<u8>(&shape, c[at.clone()].to_vec()), distances(&c[at], self.columns, &zero)),
            _ => return Err(crate::Error::internal("weight codes that are no bytes")),
        };
        let form = Form::Matrix { transposed: true };
        let bias = bias.to_vec();
        let of = Live { form, weight: weight.into(), qtype: self.params.qtype, scale, zero, bias };
        product::live(graph, self.value, &reach, of)
    }
}

/// The layer of `node`, whose input is quantized as it comes, or on the grids `fixed`; `None` when its weights are not held as codes with a scale for each row, direction or
/// tensor, or its bias is no constant.
///
/// # Errors
/// When an accumulator could overflow.
pub(super) fn build(
    graph: &Graph,
    node: &Node,
    a: &RecurrentAttrs,
    fixed: Option<[Grid; 2]>,
) -> Result<Option<Recurrent>> {
    let (Some(w), Some(r)) = (Weights::of(graph, node.input(1)), Weights::of(graph, node.input(2))) else {
        return Ok(None);
    };
    let (directions, hidden, rows) = (a.direction.count(), r.columns, r.rows);
    let fits = rows == hidden * a.cell.gates() && w.rows == rows;
    if !fits || w.scale.len() != directions * rows || r.scale.len() != directions * rows {
        return Ok(None);
    }
    let bias = match node.input(3) {
        None => None,
        Some(v) => {
            let real = graph.constant(v).map(|_| graph.real_constant(v)).transpose()?;
            let Some(t) = real.filter(|t| t.dtype() == DType::F32 && t.len() == directions * 2 * rows) else {
                return Ok(None);
            };
            Some(t.to_f32s())
        }
    };
    // Nothing is added: -0 changes no number.
    let or_none = |b: Option<Vec<f32>>| b.unwrap_or_else(|| vec![-0.0; rows]);
    let one = |d: usize| {
        let bias = bias.as_ref().map(|b| &b[d * 2 * rows..][..2 * rows]);
        let (begin, recurrent) = recurrent::bias(a.cell, bias, rows, hidden);
        let (begin, recurrent) = (or_none(begin), or_none(recurrent));
        let mut first = 0;
        let mut state = Vec::new();
        for gates in recurrent::parts(a.cell) {
            let part = first..first + gates * hidden;
            first = part.end;
            state.push(r.product(graph, d, part.clone(), &recurrent[part])?);
        }
        Ok(Products { input: w.product(graph, d, 0..rows, &begin)?, state })
    };
    let directions = (0..directions).map(one).collect::<Result<_>>()?;
    let name = |v: Option<ValueId>| v.map_or_else(String::new, |v| graph.value(v).name.clone());
    let states = node.outputs.iter().flatten().next().copied();
    let by_row = node.input(0).is_some_and(|x| graph.value(x).dynamic == Some(Dynamic::Row));
    Ok(Some(Recurrent { attrs: a.clone(), directions, names: [name(node.input(0)), name(states)], by_row, fixed }))
}
