//! Recurrent layers whose products are of integers (numerics section 11).
use super::{
    Form, Grid, Product,
    product::{self, Live, codes, distances},
};
use crate::{
    error::Result,
    exec::float::recurrent::{self, Blocks, Products},
    ir::{DType, Data, Dynamic, Element, Granularity, Graph, Node, QParams, Tensor, ValueId, op::RecurrentAttrs},
};
use std::{ops::Range, sync::Arc};

/// A recurrent layer with codes for weights; its inputs and states are quantized as they come, or on grids that are known.
pub struct Recurrent {
    /// What a step computes, and which way it goes.
    pub attrs: RecurrentAttrs,
    /// One for each direction; of each, the products of one block of columns after the other.
    pub(crate) directions: Vec<Products<Vec<Product>>>,
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
    /// Every product, direction by direction: those with the inputs, then those with states.
    pub fn products(&self) -> impl Iterator<Item = &Product> {
        self.directions.iter().flat_map(|d| std::iter::once(&d.input).chain(&d.state)).flatten()
    }
    /// The same made of another kind of products, one for each of [`Recurrent::products`], which are told whether they read states.
    ///
    /// # Errors
    /// What `make` answers.
    pub(crate) fn map<P>(&self, mut make: impl FnMut(usize, bool) -> Result<P>) -> Result<Vec<Products<Blocks<P>>>> {
        let mut next = 0..;
        let mut one = |blocks: &[Product], state| {
            let mut end = 0;
            let block = |p: &Product| {
                let at = end..end + p.weight.shape()[1];
                end = at.end;
                Ok((at, make(next.next().unwrap_or_default(), state)?))
            };
            Ok(Blocks::new(blocks.iter().map(block).collect::<Result<_>>()?))
        };
        let of = |d: &Products<Vec<Product>>| {
            let input = one(&d.input, false)?;
            Ok(Products { input, state: d.state.iter().map(|s| one(s, true)).collect::<Result<_>>()? })
        };
        self.directions.iter().map(of).collect()
    }
}

/// Weights of all directions, `[directions, rows, columns]`.
struct Weights {
    value: ValueId,
    codes: Arc<Tensor>,
    params: Arc<QParams>,
    /// By direction, row and block of columns.
    scale: Vec<f32>,
    zero: Vec<i32>,
    rows: usize,
    columns: usize,
    /// Columns of a block; the last may have fewer.
    block: usize,
}

impl Weights {
    fn of(graph: &Graph, value: Option<ValueId>) -> Option<Self> {
        let value = value?;
        let (codes, params) = codes(graph, value)?;
        let &[directions, rows, columns] = codes.shape() else { return None };
        if codes.is_empty() || !matches!(codes.data(), Data::I8(_) | Data::U8(_)) {
            return None;
        }
        let block = match params.granularity {
            Granularity::Block { axis: 2, size } => size.clamp(1, columns),
            _ => columns,
        };
        let at = |i: usize| match params.granularity {
            Granularity::Tensor => Some(0),
            Granularity::Channel { axis: 0 } => Some(i / rows),
            Granularity::Channel { axis: 1 } => Some(i % rows),
            Granularity::Block { axis: 2, .. } => Some(i),
            _ => None,
        };
        let at: Vec<usize> = (0..directions * rows * columns.div_ceil(block)).map(at).collect::<Option<_>>()?;
        let scale = at.iter().map(|&i| params.scale.get(i).copied()).collect::<Option<_>>()?;
        let zero = at.iter().map(|&i| params.zero_point.get(i).copied()).collect::<Option<_>>()?;
        Some(Self { value, codes, params, scale, zero, rows, columns, block })
    }

    /// Some rows of one direction, one block of columns after the other; the first adds the bias.
    fn products(&self, graph: &Graph, direction: usize, rows: Range<usize>, bias: &[f32]) -> Result<Vec<Product>> {
        let rows = direction * self.rows + rows.start..direction * self.rows + rows.end;
        let blocks = self.columns.div_ceil(self.block);
        let one = |b: usize| {
            let at = b * self.block..self.columns.min((b + 1) * self.block);
            let scale = rows.clone().map(|r| self.scale[r * blocks + b]).collect();
            let zero: Vec<i32> = rows.clone().map(|r| self.zero[r * blocks + b]).collect();
            let (weight, reach) = match self.codes.data() {
                Data::I8(c) => part(c, self.columns, &rows, &at, &zero),
                Data::U8(c) => part(c, self.columns, &rows, &at, &zero),
                _ => return Err(crate::Error::internal("weight codes that are no bytes")),
            };
            let form = Form::Matrix { transposed: true };
            let bias = if b == 0 { bias.to_vec() } else { nothing(bias.len()) };
            let of = Live { form, weight: weight.into(), qtype: self.params.qtype, scale, zero, bias };
            product::live(graph, self.value, &reach, of)
        };
        (0..blocks).map(one).collect()
    }
}

/// Some columns of some rows, and their [`distances`] from their zero points.
fn part<T: Element + Into<i32>>(
    codes: &[T],
    columns: usize,
    rows: &Range<usize>,
    at: &Range<usize>,
    zero: &[i32],
) -> (Tensor, Vec<i64>) {
    let of: Vec<T> = rows.clone().flat_map(|r| &codes[r * columns..][at.clone()]).copied().collect();
    let reach = distances(&of, at.len(), zero);
    (Tensor::of(&[rows.len(), at.len()], of), reach)
}

/// A bias that adds nothing: -0 changes no number.
fn nothing(channels: usize) -> Vec<f32> {
    vec![-0.0; channels]
}

/// The layer of `node`, whose input is quantized as it comes, or on the grids `fixed`; `None` when its weights are not held as codes with a scale for each block of a row, row,
/// direction or tensor, or its bias is no constant.
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
    if !fits || w.codes.shape()[0] != directions || r.codes.shape()[0] != directions {
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
    let or_none = |b: Option<Vec<f32>>| b.unwrap_or_else(|| nothing(rows));
    let one = |d: usize| {
        let bias = bias.as_ref().map(|b| &b[d * 2 * rows..][..2 * rows]);
        let (begin, recurrent) = recurrent::bias(a.cell, bias, rows, hidden);
        let (begin, recurrent) = (or_none(begin), or_none(recurrent));
        let mut first = 0;
        let mut state = Vec::new();
        for gates in recurrent::parts(a.cell) {
            let part = first..first + gates * hidden;
            first = part.end;
            state.push(r.products(graph, d, part.clone(), &recurrent[part])?);
        }
        Ok(Products { input: w.products(graph, d, 0..rows, &begin)?, state })
    };
    let directions = (0..directions).map(one).collect::<Result<_>>()?;
    let name = |v: Option<ValueId>| v.map_or_else(String::new, |v| graph.value(v).name.clone());
    let states = node.outputs.iter().flatten().next().copied();
    let by_row = node.input(0).is_some_and(|x| graph.value(x).dynamic == Some(Dynamic::Row));
    Ok(Some(Recurrent { attrs: a.clone(), directions, names: [name(node.input(0)), name(states)], by_row, fixed }))
}
