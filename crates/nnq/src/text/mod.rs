//! Text: from strings to the inputs of a network, and what is measured on them.
//!
//! Tokenizers are files of Hugging Face's format (`tokenizer.json`). A network takes token ids `[N, T]` and, where it has such an input, which of them
//! count (`mask`), which part of the text they belong to (`type`), their positions (`position`) and what earlier tokens left (`past`); all samples of a
//! batch are equally long, so that nothing is ever padded.
mod cache;
mod corpus;
mod correlation;
mod documents;
pub mod generate;
mod inputs;
pub mod language;
mod rows;
pub mod similarity;

pub use crate::data::Tokens;
pub use cache::Storage;
pub use corpus::open;
pub use correlation::{pearson, spearman};
pub use documents::{Document, read_documents};
pub use inputs::Inputs;
pub use rows::{Labelled, Pair, Rows, read_pairs, read_rows};

use crate::{
    error::{Error, Result},
    ir::{Graph, Op},
};
use std::{collections::BTreeMap, path::Path};
use tokenizers::utils::truncation::{TruncationParams, truncate_encodings};

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
    /// The same, of texts of so many tokens at most, special ones included.
    pub fn limited(self, most: Option<usize>) -> Self {
        Self { limit: self.limit.into_iter().chain(most).min(), ..self }
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
    /// The tokens of two texts that belong together, as the tokenizer joins them; where they are too long, the end of the longer one is cut.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_pair(&self, [first, second]: [&str; 2]) -> Result<Tokens> {
        let fail = |e: tokenizers::Error| Error::value(format!("'{}', '{}': {e}", start_of(first), start_of(second)));
        let mut encoding = self.inner.encode((first, second), true).map_err(fail)?;
        let limit = self.limit.filter(|limit| encoding.len() > *limit);
        if let Some(limit) = limit {
            let alone = |text: &str| self.inner.encode(text, false).map_err(fail);
            let (a, b) = (alone(first)?, alone(second)?);
            let special = encoding.len().saturating_sub(a.len() + b.len());
            let room = limit.saturating_sub(special);
            if room < 2 {
                return Err(Error::usage(format!("two texts in {limit} tokens, {special} of them special"))
                    .cure("allow more: --length"));
            }
            let params = TruncationParams { max_length: room, ..TruncationParams::default() };
            let (a, b) = truncate_encodings(a, Some(b), &params).map_err(fail)?;
            encoding = self.inner.post_process(a, b, true).map_err(fail)?;
        }
        if encoding.is_empty() {
            return Err(Error::value(format!("'{}' and '{}' have no tokens", start_of(first), start_of(second)))
                .cure("leave them out"));
        }
        let (ids, types) = (encoding.get_ids().to_vec(), encoding.get_type_ids().to_vec());
        Ok(Tokens { ids, types, cut: limit.is_some() })
    }
    /// The text that tokens stand for, special ones left out.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|e| Error::value(format!("tokens {ids:?}: {e}")))
    }
    /// Whether a token is special: the end or the beginning of a text, and no part of it.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id).is_some_and(|t| t.special)
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
