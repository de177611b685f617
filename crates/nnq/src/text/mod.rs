//! Text: from strings to the inputs of a network, and what is measured on them.
//!
//! Tokenizers are files of Hugging Face's format (`tokenizer.json`). A network takes token ids `[N, T]` and, where it has such an input, which of them
//! count (`mask`) and which part of the text they belong to (`type`); all samples of a batch are equally long, so that nothing is ever padded.
mod corpus;
mod correlation;
mod pairs;
pub mod similarity;

pub use crate::data::Tokens;
pub use corpus::open;
pub use correlation::{pearson, spearman};
pub use pairs::{Pair, read_pairs};

use crate::{
    error::{At, Error, Result},
    ir::{DType, Graph, Op, Tensor},
};
use std::{collections::BTreeMap, path::Path};

/// The most bytes of a text file or a tokenizer.
pub(crate) const MAX_FILE: u64 = 1 << 28;

/// Turns strings into token ids.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The most tokens of a text, where the file says so.
    limit: Option<usize>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// Names the file that cannot be read or is no tokenizer.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = read(path)?;
        let malformed = |e: tokenizers::Error| {
            Error::malformed(format!("no tokenizer: {e}"))
                .at(path.display())
                .cure("give the tokenizer.json that belongs to the model")
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(malformed)?;
        let limit = inner.get_truncation().map(|t| t.max_length);
        inner.with_padding(None);
        inner.with_truncation(None).map_err(malformed)?;
        Ok(Self { inner, limit })
    }
    /// The number of different ids.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
    /// The tokens of a text, special ones included; what is longer than the tokenizer allows is cut as it says.
    ///
    /// # Errors
    /// When the text cannot be split, or has no tokens.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        let fail = |e: tokenizers::Error| Error::value(format!("'{}': {e}", start_of(text)));
        let encoding = self.inner.encode(text, true).map_err(fail)?;
        let cut = self.limit.is_some_and(|limit| encoding.len() > limit);
        if let (true, Some(limit)) = (cut, self.limit) {
            // The special tokens at the end stay: the text is what is cut.
            let special = encoding.get_special_tokens_mask().iter().rev().take_while(|s| **s == 1).count();
            let keep = limit.saturating_sub(special);
            let tail: Vec<usize> = (encoding.len() - special..encoding.len()).collect();
            let pick = |all: &[u32]| all[..keep].iter().copied().chain(tail.iter().map(|&i| all[i])).collect();
            return Ok(Tokens { ids: pick(encoding.get_ids()), types: pick(encoding.get_type_ids()), cut });
        }
        if encoding.is_empty() {
            return Err(Error::value(format!("'{}' has no tokens", start_of(text))).cure("leave it out"));
        }
        Ok(Tokens { ids: encoding.get_ids().to_vec(), types: encoding.get_type_ids().to_vec(), cut })
    }
}

/// A text as messages name it.
fn start_of(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    if short.len() < text.len() { format!("{short}...") } else { short }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let io = |e| Error::io(path, e);
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > MAX_FILE {
        return Err(Error::value(format!("{length} bytes are too many (at most {MAX_FILE})")).at(path.display()));
    }
    std::fs::read(path).map_err(io)
}

/// Refuses tokens that the network's embedding has no row for: the tokenizer is another network's.
///
/// # Errors
/// Names the node of the embedding.
pub fn check_vocabulary<'a>(graph: &Graph, tokens: impl Iterator<Item = &'a Tokens>) -> Result<()> {
    let most = tokens.flat_map(|t| &t.ids).max().map_or(0, |&id| id as usize);
    for (_, node) in graph.nodes() {
        let (Op::Gather { axis: 0 }, Some(table), Some(ids)) = (&node.op, node.input(0), node.input(1)) else {
            continue;
        };
        let rows = graph.constant(table).and_then(|t| t.shape().first().copied());
        if let Some(rows) = rows.filter(|&rows| graph.inputs.contains(&ids) && most >= rows) {
            return Err(Error::usage(format!("a text has token {most}, and the embedding is of {rows} tokens"))
                .at(format!("node '{}'", node.name))
                .cure("give the tokenizer that belongs to the model"));
        }
    }
    Ok(())
}

/// Texts by their place, those of the same length together, short ones first, at most `batch` at once: in this way nothing is ever padded.
pub fn batches<'a>(tokens: impl Iterator<Item = (usize, &'a Tokens)>, batch: usize) -> Vec<Vec<usize>> {
    let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, t) in tokens {
        by_length.entry(t.ids.len()).or_default().push(i);
    }
    by_length.values().flat_map(|all| all.chunks(batch.max(1)).map(<[usize]>::to_vec)).collect()
}

/// What an input of a network is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Ids,
    Mask,
    Types,
}

/// The inputs of a network of text.
#[derive(Clone, Debug)]
pub struct Inputs {
    each: Vec<(Use, DType)>,
}

impl Inputs {
    /// By the names of the graph's inputs: one with `mask` in it, one with `type` or `segment`, and one more.
    ///
    /// # Errors
    /// Names an input that is none of these, or holds no integers.
    pub fn new(graph: &Graph) -> Result<Self> {
        let mut each: Vec<(Use, DType)> = Vec::new();
        for &v in &graph.inputs {
            let value = graph.value(v);
            let name = value.name.to_lowercase();
            let of = match () {
                () if name.contains("mask") => Use::Mask,
                () if name.contains("type") || name.contains("segment") => Use::Types,
                () => Use::Ids,
            };
            let place = || format!("input '{}'", value.name);
            let rank = value.shape.as_ref().map(|s| s.0.len());
            let dtype = value.dtype.filter(|d| matches!(d, DType::I64 | DType::I32));
            let dtype = dtype.ok_or_else(|| {
                Error::usage(format!("it holds {:?}, not token ids of 32 or 64 bits", value.dtype))
                    .cure("a network of text takes integers: is this one?")
            });
            let dtype = dtype.at(place)?;
            if rank.is_some_and(|r| r != 2) || each.iter().any(|(u, _)| *u == of) {
                return Err(Error::usage("it is no input of text: tokens [N, T], a mask or types")
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
    /// The tensors for texts of the same length.
    ///
    /// # Errors
    /// When lengths differ, which is a defect of the caller.
    pub fn batch(&self, texts: &[&Tokens]) -> Result<Vec<Tensor>> {
        let length = texts.first().map_or(0, |t| t.ids.len());
        if texts.iter().any(|t| t.ids.len() != length) {
            return Err(Error::internal("texts of different lengths in one batch"));
        }
        let shape = [texts.len(), length];
        let of = |(of, dtype): &(Use, DType)| {
            let numbers: Vec<u32> = match of {
                Use::Ids => texts.iter().flat_map(|t| t.ids.iter().copied()).collect(),
                Use::Types => texts.iter().flat_map(|t| t.types.iter().copied()).collect(),
                Use::Mask => vec![1; texts.len() * length],
            };
            match dtype {
                DType::I32 => Tensor::of(&shape, numbers.into_iter().map(u32::cast_signed).collect::<Vec<i32>>()),
                _ => Tensor::of(&shape, numbers.into_iter().map(i64::from).collect::<Vec<i64>>()),
            }
        };
        Ok(self.each.iter().map(of).collect())
    }
}
