//! Texts as samples.

/// A text as a network reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Of each token.
    pub ids: Vec<u32>,
    /// Which part of the text each token belongs to.
    pub types: Vec<u32>,
    /// Whether the text was longer than the tokenizer allows.
    pub cut: bool,
}

/// A sample of a data set of texts.
#[derive(Clone, Debug)]
pub struct Text {
    /// What the network reads.
    pub tokens: Tokens,
    /// The line of the file where it begins, from 1.
    pub line: u64,
}
