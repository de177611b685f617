//! Attention and rotary embedding.
use super::{
    Ctx, Inputs, args, each,
    norm::{softmax_in_place, softmax_masked},
    product::{Real, Strided, by_type, multiply},
    unary,
};
use crate::{
    error::{Error, Result},
    ir::{
        DType, Data, Tensor,
        op::{AttentionAttrs, Scores, Unary},
    },
};
use nnq_kernels::float::{Attention, FloatIsa, Heads};
use rayon::prelude::*;

/// Sizes, checked against each other.
struct Sizes {
    batch: usize,
    q_heads: usize,
    kv_heads: usize,
    queries: usize,
    past: usize,
    total: usize,
    size: usize,
    v_size: usize,
    /// Tensors have 3 axes.
    flat: bool,
}

/// `[batch, heads, length, size]`.
fn heads(t: &Tensor, n: usize, what: &str) -> Result<[usize; 4]> {
    match *t.shape() {
        [b, h, l, d] => Ok([b, h, l, d]),
        [b, l, d] if n > 0 && d % n == 0 => Ok([b, n, l, d / n]),
        _ => Err(Error::shape(format!("{what} of shape {:?} for {n} heads", t.shape()))),
    }
}

impl Sizes {
    fn new(a: &AttentionAttrs, x: &Inputs) -> Result<Self> {
        let (q, k, v) = (args::need(x, 0, "Q")?, args::need(x, 1, "K")?, args::need(x, 2, "V")?);
        args::same_type(&[q, k, v])?;
        let [batch, q_heads, queries, size] = heads(q, a.q_heads, "queries")?;
        let [kb, kv_heads, keys, k_size] = heads(k, a.kv_heads, "keys")?;
        let [vb, v_heads, values, v_size] = heads(v, a.kv_heads, "values")?;
        let ranks = q.shape().len() == k.shape().len() && k.shape().len() == v.shape().len();
        let fit = kb == batch && vb == batch && k_size == size && v_heads == kv_heads && values == keys;
        if !ranks || !fit || kv_heads == 0 || q_heads % kv_heads != 0 {
            return Err(Error::shape(format!(
                "queries {:?}, keys {:?} and values {:?} do not fit each other",
                q.shape(),
                k.shape(),
                v.shape()
            )));
        }
        let past = match (args::optional(x, 4), args::optional(x, 5)) {
            (None, None) => 0,
            (Some(pk), Some(pv)) => {
                args::same_type(&[q, pk, pv])?;
                let past = pk.shape().get(2).copied().unwrap_or(0);
                if pk.shape() != [batch, kv_heads, past, size] || pv.shape() != [batch, kv_heads, past, v_size] {
                    return Err(Error::shape(format!(
                        "past keys {:?} and values {:?} for {batch} x {kv_heads} heads of {size} and {v_size}",
                        pk.shape(),
                        pv.shape()
                    )));
                }
                past
            }
            _ => return Err(Error::shape("past keys and past values go together")),
        };
        let total = past.checked_add(keys).ok_or_else(|| Error::shape("too many keys"))?;
        let flat = q.shape().len() == 3;
        Ok(Self { batch, q_heads, kv_heads, queries, past, total, size, v_size, flat })
    }
    fn scores(&self) -> [usize; 4] {
        [self.batch, self.q_heads, self.queries, self.total]
    }
}

/// The heads of `t`, each contiguous, behind those of `past`: `[batch, heads, past + length, size]`.
fn gathered<T: Real>(t: &Tensor, past: Option<&Tensor>, [b, h, l, d]: [usize; 4]) -> Result<(Vec<T>, Vec<usize>)> {
    let x = t.as_slice::<T>()?;
    let (old, before) = match past {
        Some(p) => (p.as_slice::<T>()?, p.shape()[2]),
        None => (&[][..], 0),
    };
    let shape = vec![b, h, before + l, d];
    let mut out = Vec::with_capacity(args::room(&shape)?);
    let (flat, stride) = if t.shape().len() == 3 { (true, h * d) } else { (false, d) };
    for i in 0..b * h {
        out.extend_from_slice(&old[i * before * d..][..before * d]);
        let start = if flat { i / h * l * stride + i % h * d } else { i * l * d };
        for row in 0..l {
            out.extend_from_slice(&x[start + row * stride..][..d]);
        }
    }
    Ok((out, shape))
}

/// What is added to the scores.
struct Mask<'a> {
    /// The last axis is shorter than the keys where those behind it are masked.
    values: Option<(&'a Tensor, Vec<usize>, usize)>,
    /// Keys before the first query, of each sample; and how many keys count.
    before: Vec<i64>,
    filled: Vec<i64>,
}

impl<'a> Mask<'a> {
    fn new(s: &Sizes, x: &Inputs<'a>) -> Result<Self> {
        let filled = match args::optional(x, 6) {
            None => vec![s.total as i64; s.batch],
            Some(_) if s.past > 0 => {
                return Err(Error::shape("nonpad_kv_seqlen and past keys exclude each other"));
            }
            Some(t) if t.shape() != [s.batch] => {
                return Err(Error::shape(format!("nonpad_kv_seqlen of shape {:?}, expected [{}]", t.shape(), s.batch)));
            }
            Some(t) => t.to_i64s().map_err(|e| e.at("nonpad_kv_seqlen"))?,
        };
        let before = match args::optional(x, 6) {
            Some(_) => filled.iter().map(|n| n.saturating_sub(s.queries as i64)).collect(),
            None => vec![s.past as i64; s.batch],
        };
        let values = match args::optional(x, 3) {
            None => None,
            Some(t) => {
                let last = t.shape().last().copied().unwrap_or(1);
                let to = [s.batch, s.q_heads, s.queries, last];
                if last > s.total || args::broadcast(&[t.shape(), &to])? != to {
                    return Err(Error::shape(format!("a mask {:?} for scores {:?}", t.shape(), s.scores())));
                }
                if t.dtype() != DType::Bool && t.dtype() != args::need(x, 0, "Q")?.dtype() {
                    return Err(Error::shape(format!("a mask of {}, expected bool or the type of Q", t.dtype())));
                }
                Some((t, args::spread(t.shape(), &to), last))
            }
        };
        Ok(Self { values, before, filled })
    }
    /// The first and the last key that a query sees.
    fn seen(&self, a: &AttentionAttrs, [b, i]: [usize; 2]) -> (i64, i64) {
        let at = self.before[b].saturating_add(i as i64);
        let until = |bound: Option<usize>| bound.map_or(i64::MAX, |n| at.saturating_add(n as i64));
        let from = a.left.map_or(i64::MIN, |n| at.saturating_sub(n as i64));
        (from, until(a.right).min(if a.causal { at } else { i64::MAX }).min(self.filled[b].saturating_sub(1)))
    }
    /// What is added to a row of scores, where nothing else hides any of them and it has a number for each; `None` where it is not that simple.
    fn plain(&self, a: &AttentionAttrs, [b, h, i]: [usize; 3], keys: usize) -> Option<Option<&[f32]>> {
        let (from, to) = self.seen(a, [b, i]);
        if from > 0 || to < keys as i64 - 1 {
            return None;
        }
        let Some((t, strides, last)) = &self.values else { return Some(None) };
        let start = b * strides[0] + h * strides[1] + i * strides[2];
        let values = t.as_slice::<f32>().ok().filter(|_| *last == keys)?;
        Some(Some(&values[start..][..keys]))
    }
    /// Adds itself to a row of scores; answers whether anything is left.
    fn apply<T: Real>(&self, a: &AttentionAttrs, [b, h, i]: [usize; 3], row: &mut [T]) -> bool {
        let low = T::from_f32(f32::NEG_INFINITY);
        let (from, to) = self.seen(a, [b, i]);
        let mut left = false;
        for (j, score) in row.iter_mut().enumerate() {
            let mut masked = (j as i64) < from || (j as i64) > to;
            if let Some((t, strides, last)) = &self.values {
                let index = b * strides[0] + h * strides[1] + i * strides[2] + j * strides[3];
                match t.data() {
                    _ if j >= *last => masked = true,
                    Data::Bool(v) => masked |= v[index] == 0,
                    _ => {
                        if let Ok(v) = t.as_slice::<T>() {
                            masked |= v[index] == low;
                            if !masked {
                                *score = *score + v[index];
                            }
                        }
                    }
                }
            }
            if masked {
                *score = low;
            }
            left |= !masked;
        }
        left
    }
}

/// `Y`, present keys, present values, scores: as many as asked for.
pub(super) fn attention(a: &AttentionAttrs, x: &Inputs, outputs: usize, ctx: &Ctx) -> Result<Vec<Tensor>> {
    match args::need(x, 0, "Q")?.dtype() {
        DType::F32 => attention_of::<f32>(a, x, outputs, ctx),
        DType::F64 => attention_of::<f64>(a, x, outputs, ctx),
        other => args::by_f32_all(x, |x| attention_of::<f32>(a, x, outputs, ctx))
            .unwrap_or_else(|| args::not_on("attention", other)),
    }
}

/// What becomes of the products of a query and all keys: its weights. `show` sees each stage of them.
fn weigh<T: Real>(
    a: &AttentionAttrs,
    (mask, scale): (&Mask, T),
    at: [usize; 3],
    row: &mut [T],
    mut show: impl FnMut(Scores, &[T]),
) {
    row.iter_mut().for_each(|x| *x = *x * scale);
    show(Scores::Products, row);
    if a.softcap > 0.0 {
        let cap = T::from_f32(a.softcap);
        row.iter_mut().for_each(|x| *x = *x / cap);
        unary::on_slice(Unary::Tanh, row);
        row.iter_mut().for_each(|x| *x = *x * cap);
    }
    show(Scores::Capped, row);
    let any = mask.apply(a, at, row);
    show(Scores::Masked, row);
    if !any {
        row.fill(T::ZERO);
    } else if a.precision == Some(DType::F64) {
        let mut wide: Vec<f64> = row.iter().map(|&x| x.into()).collect();
        softmax_in_place(&mut wide);
        row.iter_mut().zip(wide).for_each(|(x, wide)| *x = T::from_f64(wide));
    } else {
        softmax_in_place(row);
    }
    show(Scores::Weights, row);
}

fn attention_of<T: Real>(a: &AttentionAttrs, x: &Inputs, outputs: usize, ctx: &Ctx) -> Result<Vec<Tensor>> {
    let s = Sizes::new(a, x)?;
    let mask = Mask::new(&s, x)?;
    let scale = match a.scale {
        Some(scale) => T::from_f32(scale),
        None => T::from_f64(1.0 / (s.size.max(1) as f64).sqrt()),
    };
    let (q, k, v) = (args::need(x, 0, "Q")?, args::need(x, 1, "K")?, args::need(x, 2, "V")?);
    let new = s.total - s.past;
    let (k_sizes, v_sizes) = ([s.batch, s.kv_heads, new, s.size], [s.batch, s.kv_heads, new, s.v_size]);
    // Where earlier keys lie elsewhere, or all of them are an output.
    let presents = match s.past > 0 || outputs > 1 {
        true => {
            Some((gathered::<T>(k, args::optional(x, 4), k_sizes)?, gathered::<T>(v, args::optional(x, 5), v_sizes)?))
        }
        false => None,
    };
    let (kv_flat, keys, values) = match &presents {
        Some(((k, _), (v, _))) => (false, &k[..], &v[..]),
        None => (s.flat, k.as_slice::<T>()?, v.as_slice::<T>()?),
    };
    let shape = match s.flat {
        true => vec![s.batch, s.queries, s.q_heads * s.v_size],
        false => vec![s.batch, s.q_heads, s.queries, s.v_size],
    };
    let mut y = T::take(ctx, args::room(&shape)?);
    let mut shown = vec![T::ZERO; if outputs > 3 { args::room(&s.scores())? } else { 0 }];
    let queries = q.as_slice::<T>()?;
    let singles = T::singles(queries).zip(T::singles(keys)).zip(T::singles(values));
    match (singles, T::singles_mut(&mut y)) {
        (Some(((queries, keys), values)), Some(y)) if outputs <= 3 => {
            let sizes = Attention {
                samples: s.batch,
                heads: s.q_heads,
                kv_heads: s.kv_heads,
                queries: s.queries,
                keys: s.total,
                size: s.size,
                v_size: s.v_size,
            };
            let lie = [
                Heads::new(queries, s.flat, [s.q_heads, s.queries, s.size]),
                Heads::new(keys, kv_flat, [s.kv_heads, s.total, s.size]),
                Heads::new(values, kv_flat, [s.kv_heads, s.total, s.v_size]),
            ];
            #[allow(clippy::cast_possible_truncation)]
            let single = Into::<f64>::into(scale) as f32;
            let one = |at: [usize; 3], row: &mut [f32]| {
                let plain =
                    mask.plain(a, at, row.len()).filter(|_| a.softcap == 0.0 && a.precision != Some(DType::F64));
                match plain {
                    Some(mask) => softmax_masked(row, single, mask),
                    None => weigh(a, (&mask, single), at, row, |_, _| ()),
                }
            };
            let work = s.batch * s.q_heads * s.queries * s.total * (s.size + s.v_size);
            sizes.run(FloatIsa::best(), lie, &one, (y, s.flat), (ctx.tasks(work), &each));
        }
        _ => {
            let weigh = |at: [usize; 3], row: &mut [T], shown: &mut [T]| {
                weigh(a, (&mask, scale), at, row, |stage, row| {
                    if stage == a.scores && !shown.is_empty() {
                        shown.copy_from_slice(row);
                    }
                });
            };
            by_head(&s, [q, k, v], presents.as_ref(), weigh, (&mut y, &mut shown))?;
        }
    }
    let mut all = vec![Tensor::new(shape, T::wrap(y.into()))?];
    if let Some(((k, k_shape), (v, v_shape))) = presents {
        all.extend([Tensor::of(&k_shape, k), Tensor::of(&v_shape, v)]);
    }
    if outputs > 3 {
        all.push(Tensor::of(&s.scores(), shown));
    }
    all.truncate(outputs.max(1));
    Ok(all)
}

/// Keys and values of all heads, each contiguous, with their shapes.
type Presents<T> = ((Vec<T>, Vec<usize>), (Vec<T>, Vec<usize>));

/// What the kernels do not do: binary64, and scores that are asked for (`shown`, empty where they are not).
fn by_head<T: Real>(
    s: &Sizes,
    [q, k, v]: [&Tensor; 3],
    presents: Option<&Presents<T>>,
    weigh: impl Fn([usize; 3], &mut [T], &mut [T]) + Sync,
    (y, shown): (&mut [T], &mut [T]),
) -> Result<()> {
    let (q, _) = gathered::<T>(q, None, [s.batch, s.q_heads, s.queries, s.size])?;
    let joined: Presents<T>;
    let ((k, _), (v, _)) = match presents {
        Some(presents) => presents,
        None => {
            let sizes = |size| [s.batch, s.kv_heads, s.total, size];
            joined = (gathered::<T>(k, None, sizes(s.size))?, gathered::<T>(v, None, sizes(s.v_size))?);
            &joined
        }
    };
    let (per_q, per_y) = (s.queries * s.total, s.queries * s.v_size);
    if per_y == 0 || s.total == 0 {
        y.fill(T::ZERO);
        return Ok(());
    }
    let mut out = vec![T::ZERO; y.len()];
    let mut rows: Vec<&mut [T]> = match shown.is_empty() {
        true => (0..s.batch * s.q_heads).map(|_| &mut [][..]).collect(),
        false => shown.chunks_mut(per_q).collect(),
    };
    out.par_chunks_mut(per_y).zip(&mut rows).enumerate().for_each(|(i, (out, shown))| {
        let (b, h) = (i / s.q_heads, i % s.q_heads);
        let kv = b * s.kv_heads + h / (s.q_heads / s.kv_heads);
        let queries = Strided { data: &q[i * s.queries * s.size..][..s.queries * s.size], row: s.size, col: 1 };
        let keys = Strided { data: &k[kv * s.total * s.size..][..s.total * s.size], row: 1, col: s.size };
        let mut scores = vec![T::ZERO; per_q];
        multiply(queries, keys, [s.queries, s.size, s.total], &mut scores);
        let mut shown = shown.chunks_mut(s.total);
        for (r, row) in scores.chunks_mut(s.total).enumerate() {
            weigh([b, h, r], row, shown.next().unwrap_or_default());
        }
        let values = Strided { data: &v[kv * s.total * s.v_size..][..s.total * s.v_size], row: s.v_size, col: 1 };
        multiply(Strided { data: &scores, row: s.total, col: 1 }, values, [s.queries, s.total, s.v_size], out);
    });
    for (i, row) in out.chunks_exact(s.v_size).enumerate() {
        let (b, h, r) = (i / s.queries / s.q_heads, i / s.queries % s.q_heads, i % s.queries);
        let at = if s.flat { (b * s.queries + r) * s.q_heads + h } else { i };
        y[at * s.v_size..][..s.v_size].copy_from_slice(row);
    }
    Ok(())
}

/// Pairs `(a, b)` of a head become `(a cos - b sin, a sin + b cos)` (Su et al. 2021).
pub(super) fn rotary(interleaved: bool, n: usize, size: usize, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    by_type(x, |x| rotary_of::<f32>(interleaved, n, size, x, ctx), |x| rotary_of::<f64>(interleaved, n, size, x, ctx))
}

fn rotary_of<T: Real>(interleaved: bool, n: usize, size: usize, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let (t, cos, sin) = (args::need(x, 0, "X")?, args::need(x, 1, "cos_cache")?, args::need(x, 2, "sin_cache")?);
    let [batch, n, length, head] = heads(t, n, "an input")?;
    let turned = if size == 0 { head } else { size };
    let half = turned / 2;
    let positions = args::optional(x, 3);
    let rows = match positions {
        None => batch * length,
        Some(p) if p.shape() == [batch, length] => cos.shape().first().copied().unwrap_or(0),
        Some(p) => {
            return Err(Error::shape(format!("positions of shape {:?}, expected [{batch}, {length}]", p.shape())));
        }
    };
    let want: &[usize] = if positions.is_some() { &[rows, half] } else { &[batch, length, half] };
    if turned > head || turned % 2 != 0 || cos.shape() != want || sin.shape() != want {
        return Err(Error::shape(format!(
            "cosines {:?} and sines {:?}, expected {want:?} to turn {turned} of {head} numbers",
            cos.shape(),
            sin.shape()
        )));
    }
    let at: Vec<usize> = match positions {
        None => (0..rows).collect(),
        Some(p) => {
            let row = |&i: &i64| usize::try_from(i).ok().filter(|&i| i < rows);
            let one = |i: &i64| row(i).ok_or_else(|| Error::value(format!("position {i} of {rows}")));
            p.to_i64s().map_err(|e| e.at("position_ids"))?.iter().map(one).collect::<Result<_>>()?
        }
    };
    let (x, cos, sin) = (t.as_slice::<T>()?, cos.as_slice::<T>()?, sin.as_slice::<T>()?);
    let mut y = T::take(ctx, x.len());
    y.copy_from_slice(x);
    let flat = t.shape().len() == 3;
    for (i, row) in y.chunks_exact_mut(head.max(1)).enumerate() {
        let (b, l) = if flat { (i / n / length, i / n % length) } else { (i / length / n, i % length) };
        let angle = at[b * length + l] * half;
        for j in 0..half {
            let (p, q) = if interleaved { (2 * j, 2 * j + 1) } else { (j, half + j) };
            let (c, s, first, second) = (cos[angle + j], sin[angle + j], row[p], row[q]);
            row[p] = c * first - s * second;
            row[q] = s * first + c * second;
        }
    }
    Tensor::new(t.shape().to_vec(), T::wrap(y.into()))
}
