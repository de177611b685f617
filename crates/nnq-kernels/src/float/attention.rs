//! Attention: queries times keys, what the caller makes of each row of that, times values.
use super::{Each, FloatIsa, PackedProduct, Shared, once, part};

/// Scores that a task holds at once: they stay in the second-level cache.
const HELD: usize = 1 << 15;
/// Rows are cut in units of so many.
const UNIT: usize = 12;

/// Matrices of heads in memory: row `r` of head `h` of sample `s` begins at `s * steps[0] + h * steps[1] + r * steps[2]`.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// The numbers.
    pub data: &'a [f32],
    /// From sample to sample, from head to head, from row to row.
    pub steps: [usize; 3],
}

impl<'a> Heads<'a> {
    /// `[samples, rows, heads * size]` (`flat`) or `[samples, heads, rows, size]`, without gaps.
    pub fn new(data: &'a [f32], flat: bool, [heads, rows, size]: [usize; 3]) -> Self {
        Self { data, steps: steps(flat, [heads, rows, size]) }
    }
    fn of(&self, sample: usize, head: usize, row: usize) -> &'a [f32] {
        let [s, h, r] = self.steps;
        &self.data[sample * s + head * h + row * r..]
    }
    /// All rows of all heads lie within the data.
    fn holds(&self, counts: [usize; 3], size: usize) -> bool {
        let last = counts.iter().zip(self.steps).map(|(&n, step)| (n.saturating_sub(1)).checked_mul(step));
        let end = last.sum::<Option<usize>>().and_then(|at| at.checked_add(size));
        counts.contains(&0) || end.is_some_and(|end| end <= self.data.len())
    }
}

fn steps(flat: bool, [heads, rows, size]: [usize; 3]) -> [usize; 3] {
    let sample = heads * rows * size;
    if flat { [sample, size, heads * size] } else { [sample, rows * size, size] }
}

/// Sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Samples.
    pub samples: usize,
    /// Heads of queries and of the output.
    pub heads: usize,
    /// Heads of keys and values: each is read by as many heads of queries.
    pub kv_heads: usize,
    /// Rows of each head of queries.
    pub queries: usize,
    /// Rows of each head of keys and values.
    pub keys: usize,
    /// Columns of queries and keys.
    pub size: usize,
    /// Columns of values and of the output.
    pub v_size: usize,
}

impl Attention {
    /// For each head `out = f(q k') v`, where `f` works on a row of products at a time: it is given sample, head and row. Every sum is one chain of fused
    /// multiply-adds in order, as in [`PackedProduct`]. The output lies as [`Heads::new`] has it, `flat` or not. The work is cut into about `tasks` pieces, which `each` runs.
    ///
    /// # Panics
    /// When the slices are too short, or heads of queries are no multiple of those of keys.
    pub fn run(
        &self,
        isa: FloatIsa,
        [q, k, v]: [Heads<'_>; 3],
        f: &(dyn Fn([usize; 3], &mut [f32]) + Sync),
        (out, flat): (&mut [f32], bool),
        (tasks, each): (usize, Each<'_>),
    ) {
        let Self { samples, heads, kv_heads, queries, keys, size, v_size } = *self;
        assert!(q.holds([samples, heads, queries], size));
        assert!(k.holds([samples, kv_heads, keys], size) && v.holds([samples, kv_heads, keys], v_size));
        assert_eq!(out.len(), samples * heads * queries * v_size);
        if out.is_empty() {
            return;
        }
        assert!(heads.is_multiple_of(kv_heads));
        // Heads go to tasks; where they are fewer, their rows do, and keys are packed for each.
        let parts = tasks.div_ceil(samples * heads).min(queries.div_ceil(4 * UNIT));
        let (units, to) = (samples * heads * parts, steps(flat, [heads, queries, v_size]));
        let tasks = tasks.clamp(1, units);
        let out = Shared(out.as_mut_ptr());
        once(tasks, each, |i| {
            let mut keys_packed = PackedProduct::empty(isa, [keys, 1, size]);
            let mut values_packed = PackedProduct::empty(isa, [v_size, 1, keys]);
            let chunk = (HELD / keys.max(1) / UNIT * UNIT).clamp(UNIT, queries.next_multiple_of(UNIT));
            let mut scores = vec![0.0; chunk * keys];
            let mut packed = None;
            for unit in part(units, 1, tasks, i) {
                let (sample, head) = (unit / parts / heads, unit / parts % heads);
                let source = (sample, head / (heads / kv_heads));
                if packed.replace(source) != Some(source) && keys > 0 {
                    keys_packed.fill(k.of(source.0, source.1, 0), [k.steps[2], 0, 1]);
                    values_packed.fill(v.of(source.0, source.1, 0), [1, 0, v.steps[2]]);
                }
                let rows = part(queries, UNIT, parts, unit % parts);
                for first in rows.clone().step_by(chunk) {
                    let count = chunk.min(rows.end - first);
                    let scores = &mut scores[..count * keys];
                    let start = sample * to[0] + head * to[1] + first * to[2];
                    // SAFETY: `holds` has seen that the rows of queries are there, and scores have a row for each. The output's rows
                    // of different units lie apart, and within its length.
                    unsafe {
                        if keys > 0 {
                            let from = (q.of(sample, head, first), q.steps[2]);
                            keys_packed.rows(from, count, scores.as_mut_ptr(), keys);
                            for (r, row) in scores.chunks_exact_mut(keys).enumerate() {
                                f([sample, head, first + r], row);
                            }
                        }
                        values_packed.rows((scores, keys), count, out.pointer().add(start), to[2]);
                    }
                }
            }
        });
    }
}
