//! Attributes of attention.
use crate::ir::DType;

/// What the fourth output of Attention holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// Scaled products of queries and keys.
    Products,
    /// After the cap.
    Capped,
    /// After the mask.
    Masked,
    /// After softmax.
    Weights,
}

/// Attributes of Attention. Inputs: Q, K, V, mask?, past_key?, past_value?, nonpad_kv_seqlen?. Outputs: Y, present_key?, present_value?,
/// scores?.
///
/// `Y = softmax(cap(scale Q K^T) + mask) V` for each head, with `cap(s) = softcap tanh(s / softcap)` (Vaswani et al. 2017; several
/// heads of queries may share one of keys and values, Ainslie et al. 2023). Tensors of 4 axes are `[batch, heads, length, size]`, those
/// of 3 `[batch, length, heads * size]`. A query for which every key is masked gives zeros.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionAttrs {
    /// Query `i` sees keys up to `i` plus the number of keys before the first query.
    pub causal: bool,
    /// Heads of tensors of 3 axes; 0: the tensors say it.
    pub q_heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// `None`: `1 / sqrt(size)`.
    pub scale: Option<f32>,
    /// 0: no cap.
    pub softcap: f32,
    /// Softmax is computed in this type at least.
    pub precision: Option<DType>,
    /// The fourth output.
    pub scores: Scores,
    /// A query sees so many keys before its own; `None`: all.
    pub left: Option<usize>,
    /// And so many behind it.
    pub right: Option<usize>,
}

impl Default for AttentionAttrs {
    fn default() -> Self {
        Self {
            causal: false,
            q_heads: 0,
            kv_heads: 0,
            scale: None,
            softcap: 0.0,
            precision: None,
            scores: Scores::Products,
            left: None,
            right: None,
        }
    }
}
