//! The inputs of a network of text, by their names.
use super::Tokens;
use crate::{
    error::{At, Error, Result},
    ir::{DType, Graph, Tensor, Value},
};

/// What an input of a network is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Use {
    Ids,
    Mask,
    Types,
    Positions,
    Past(Past),
}

/// What tokens leave for those behind them: an input and the output that is the next one's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Past {
    /// Which output.
    pub output: usize,
    /// Sizes of a sample; that of `axis` is 0.
    pub shape: Vec<usize>,
    /// Where the tokens lie.
    pub axis: usize,
}

/// The inputs of a network of text.
#[derive(Clone, Debug)]
pub struct Inputs {
    each: Vec<(Use, DType)>,
}

impl Inputs {
    /// By the names of the graph's inputs: those with `past` in it, one with `mask`, one with `position`, one with `type` or `segment`, and one more.
    /// What is past comes from the output whose name is the same behind `present` (`past_key_values.0.key`, `present.0.key`).
    ///
    /// # Errors
    /// Names an input that is none of these, holds other numbers than expected, or a past without its present.
    pub fn new(graph: &Graph) -> Result<Self> {
        let mut each: Vec<(Use, DType)> = Vec::new();
        for &v in &graph.inputs {
            let value = graph.value(v);
            let place = || format!("input '{}'", value.name);
            let name = value.name.to_lowercase();
            if name.contains("past") {
                each.push((Use::Past(past(graph, value).at(place)?), DType::F32));
                continue;
            }
            let of = match () {
                () if name.contains("mask") => Use::Mask,
                () if name.contains("position") => Use::Positions,
                () if name.contains("type") || name.contains("segment") => Use::Types,
                () => Use::Ids,
            };
            let rank = value.shape.as_ref().map(|s| s.0.len());
            let dtype = value.dtype.filter(|d| matches!(d, DType::I64 | DType::I32));
            let dtype = dtype.ok_or_else(|| {
                Error::usage(format!("it holds {:?}, not token ids of 32 or 64 bits", value.dtype))
                    .cure("a network of text takes integers: is this one?")
            });
            let dtype = dtype.at(place)?;
            if rank.is_some_and(|r| r != 2) || each.iter().any(|(u, _)| *u == of) {
                return Err(Error::usage("it is no input of text: tokens [N, T], a mask, positions or types")
                    .cure("export the network with these inputs only")
                    .at(place()));
            }
            each.push((of, dtype));
        }
        if !each.iter().any(|(u, _)| *u == Use::Ids) {
            return Err(Error::usage("the network has no input of token ids"));
        }
        Ok(Self { each })
    }

    /// The tensors for texts of the same length, from their beginning.
    ///
    /// # Errors
    /// When lengths differ, which is a defect of the caller.
    pub fn batch(&self, texts: &[&Tokens]) -> Result<Vec<Tensor>> {
        let length = texts.first().map_or(0, |t| t.ids.len());
        if texts.iter().any(|t| t.ids.len() != length) {
            return Err(Error::internal("texts of different lengths in one batch"));
        }
        let numbers = |of: fn(&Tokens) -> &[u32]| texts.iter().flat_map(|t| of(t).iter().copied()).collect();
        let empty = |past: &Past| {
            let shape = [&[texts.len()], &past.shape[..]].concat();
            Ok(Tensor::of(&shape, Vec::<f32>::new()))
        };
        self.tensors([texts.len(), length], 0, numbers(|t| &t.ids), numbers(|t| &t.types), empty)
    }

    /// The tensors for tokens of one text behind `before` others, of which `past` says what they left.
    ///
    /// # Errors
    /// What `past` answers.
    pub(super) fn next(
        &self,
        ids: &[u32],
        before: usize,
        past: impl FnMut(&Past) -> Result<Tensor>,
    ) -> Result<Vec<Tensor>> {
        self.tensors([1, ids.len()], before, ids.to_vec(), vec![0; ids.len()], past)
    }

    fn tensors(
        &self,
        shape: [usize; 2],
        before: usize,
        ids: Vec<u32>,
        types: Vec<u32>,
        mut past: impl FnMut(&Past) -> Result<Tensor>,
    ) -> Result<Vec<Tensor>> {
        let [samples, length] = shape;
        let integers = |dtype: DType, shape: &[usize], numbers: Vec<u32>| match dtype {
            DType::I32 => Tensor::of(shape, numbers.into_iter().map(u32::cast_signed).collect::<Vec<i32>>()),
            _ => Tensor::of(shape, numbers.into_iter().map(i64::from).collect::<Vec<i64>>()),
        };
        self.each
            .iter()
            .map(|(of, dtype)| {
                Ok(match of {
                    Use::Ids => integers(*dtype, &shape, ids.clone()),
                    Use::Types => integers(*dtype, &shape, types.clone()),
                    Use::Mask => integers(*dtype, &[samples, before + length], vec![1; samples * (before + length)]),
                    Use::Positions => {
                        let one = before as u32..(before + length) as u32;
                        integers(*dtype, &shape, (0..samples).flat_map(|_| one.clone()).collect())
                    }
                    Use::Past(p) => past(p)?,
                })
            })
            .collect()
    }

    /// What tokens leave, in the order of the inputs.
    pub(super) fn past(&self) -> impl Iterator<Item = &Past> {
        self.each.iter().filter_map(|(of, _)| if let Use::Past(p) = of { Some(p) } else { None })
    }
}

fn past(graph: &Graph, value: &Value) -> Result<Past> {
    if value.dtype.is_some_and(|d| d != DType::F32) {
        return Err(Error::unsupported(format!("what is past holds {:?}", value.dtype))
            .cure("export the network with a cache of binary32; --cache says how it is kept"));
    }
    let key = |name: &str| {
        let name = name.to_lowercase();
        let rest = name.split("past_key_values").last().unwrap_or_default();
        let rest = rest.split("past").last().unwrap_or_default().split("present").last().unwrap_or_default();
        rest.trim_start_matches(|c: char| !c.is_alphanumeric()).to_owned()
    };
    let wanted = key(&value.name);
    let is_present = |&&v: &&crate::ir::ValueId| {
        let name = &graph.value(v).name;
        name.to_lowercase().contains("present") && key(name) == wanted
    };
    let output = graph.outputs.iter().find(is_present).and_then(|v| graph.outputs.iter().position(|o| o == v));
    let Some(output) = output else {
        return Err(Error::usage(format!("no output is called 'present.{wanted}'"))
            .cure("export the network with its cache as outputs, too"));
    };
    let dims = value.shape.as_ref().map(|s| s.0.get(1..).unwrap_or_default()).unwrap_or_default();
    let free: Vec<usize> = (0..dims.len()).filter(|&i| dims[i].fixed().is_none()).collect();
    let &[axis] = &free[..] else {
        return Err(Error::usage(format!("its shape is {:?}", value.shape.as_ref().map(ToString::to_string)))
            .cure("what is past has one free size besides the batch: the number of tokens"));
    };
    let shape = dims.iter().map(|d| d.fixed().unwrap_or(0)).collect();
    Ok(Past { output, shape, axis })
}
