//! Attention, rotary embedding, Einsum.
use super::{Attrs, Row, many, opt, req, row, wrong};
use crate::{
    error::{Error, Result},
    ir::{
        Op,
        op::{AttentionAttrs, Scores},
    },
};

/// A number of positions; -1: no bound.
fn window(name: &'static str, v: &mut Option<usize>, a: &mut Attrs) -> Result<()> {
    let mut i = v.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX));
    a.int((name, 25), -1, &mut i)?;
    *v = match i {
        -1 => None,
        i => Some(usize::try_from(i).map_err(|_| Error::malformed(format!("attribute '{name}' is {i}")))?),
    };
    Ok(())
}

fn attention(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Attention(t) = op else { return wrong(op) };
    a.flag("is_causal", false, &mut t.causal)?;
    a.size("q_num_heads", 0, &mut t.q_heads)?;
    a.size("kv_num_heads", 0, &mut t.kv_heads)?;
    a.maybe_float("scale", &mut t.scale)?;
    a.float("softcap", 0.0, &mut t.softcap)?;
    a.dtype("softmax_precision", &mut t.precision)?;
    let mut mode = t.scores as i64;
    a.int("qk_matmul_output_mode", 0, &mut mode)?;
    let stages = [Scores::Products, Scores::Capped, Scores::Masked, Scores::Weights];
    let stage = usize::try_from(mode).ok().and_then(|m| stages.get(m).copied());
    t.scores = stage.ok_or_else(|| Error::malformed(format!("attribute 'qk_matmul_output_mode' is {mode}")))?;
    window("left_window_size", &mut t.left, a)?;
    window("right_window_size", &mut t.right, a)
}

fn rotary(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::RotaryEmbedding { interleaved, heads, size } = op else { return wrong(op) };
    a.flag("interleaved", false, interleaved)?;
    a.size("num_heads", 0, heads)?;
    a.size("rotary_embedding_dim", 0, size)
}

fn einsum(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Einsum { equation } = op else { return wrong(op) };
    a.text("equation", equation)
}

pub(super) const ROWS: &[Row] = &[
    row(
        "Attention",
        23,
        &[
            req("Q"),
            req("K"),
            req("V"),
            opt("attn_mask"),
            opt("past_key"),
            opt("past_value"),
            opt("nonpad_kv_seqlen").since(24),
        ],
        || Op::Attention(AttentionAttrs::default()),
        attention,
    )
    .outputs(1, 4),
    row(
        "RotaryEmbedding",
        23,
        &[req("X"), req("cos_cache"), req("sin_cache"), opt("position_ids")],
        || Op::RotaryEmbedding { interleaved: false, heads: 0, size: 0 },
        rotary,
    ),
    row("Einsum", 12, &[many("Inputs")], || Op::Einsum { equation: "i,j".into() }, einsum),
];
