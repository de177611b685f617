//! The vectors against the specification: plain loops, bit for bit.
use super::*;

fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(next).collect()
}

/// The instruction sets to test here; those missing are printed.
#[allow(clippy::print_stderr)]
pub(super) fn tested() -> Vec<FloatIsa> {
    let (have, lack): (Vec<FloatIsa>, Vec<FloatIsa>) = FloatIsa::all().iter().partition(|isa| isa.is_supported());
    for isa in lack {
        eprintln!("NOT TESTED: this machine does not have the vectors {isa:?}");
    }
    have
}

/// Weights `[out, taps, channels]`, or `[taps, channels]` for a depthwise window.
fn specified(p: &Place, x: &[f32], w: &[f32], e: &Epilogue<'_>, depthwise: bool) -> Vec<f32> {
    let mut out = Vec::new();
    for pixel in 0..p.pixels() {
        let (image, rest) = (pixel / (p.output[0] * p.output[1]), pixel % (p.output[0] * p.output[1]));
        for o in 0..p.out_channels {
            let mut acc = e.bias.map_or(0.0, |b| b[o]);
            for tap in 0..p.taps() {
                let at = [(0, rest / p.output[1], tap / p.kernel[1]), (1, rest % p.output[1], tap % p.kernel[1])];
                let [y, z] = at.map(|(axis, out, tap)| p.source(axis, out, tap));
                let from = y.zip(z).map(|(y, z)| ((image * p.input[0] + y) * p.input[1] + z) * p.channels);
                if depthwise {
                    acc = from.map_or(acc, |from| x[from + o].mul_add(w[tap * p.channels + o], acc));
                    continue;
                }
                for c in 0..p.channels {
                    let x = from.map_or(0.0, |from| x[from + c]);
                    acc = x.mul_add(w[(o * p.taps() + tap) * p.channels + c], acc);
                }
            }
            if let Some(r) = e.residual {
                acc += r[out.len()];
            }
            out.push(if acc < e.lo {
                e.lo
            } else if acc > e.hi {
                e.hi
            } else {
                acc
            });
        }
    }
    out
}

fn place(images: usize, input: [usize; 2], channels: usize, out_channels: usize, kernel: [usize; 2]) -> Place {
    Place { images, input, channels, out_channels, kernel, ..Place::matrix(1, 1, 1) }
}

/// With stride, dilation and padding, and the output that belongs to them.
fn windows(p: Place) -> Vec<Place> {
    let mut all = Vec::new();
    for (stride, dilation, begin) in [(1, 1, 0), (1, 1, 1), (2, 1, 1), (1, 2, 2), (3, 1, 0), (2, 1, -1)] {
        let size = |a: usize| {
            let room = p.input[a] as i64 + 2 * begin - ((p.kernel[a] - 1) * dilation + 1) as i64;
            usize::try_from(room).map_or(0, |r| r / stride + 1)
        };
        let output = [size(0), size(1)];
        all.push(Place { output, stride: [stride; 2], dilation: [dilation; 2], begin: [begin; 2], ..p });
    }
    all
}

fn check(p: &Place, depthwise: bool, failures: &mut Vec<String>) {
    let x = noise(p.input_len(), 1);
    let w = noise(if depthwise { p.taps() * p.channels } else { p.out_channels * p.taps() * p.channels }, 2);
    let (bias, residual) = (noise(p.out_channels, 3), noise(p.output_len(), 4));
    let full = Epilogue { bias: Some(&bias), residual: Some(&residual), lo: 0.0, hi: 0.75, done: None };
    // Halved where they are handed over: none forgotten, none twice, all in their place.
    let halve = |start: usize, run: &mut [f32]| {
        assert!(start.is_multiple_of(p.out_channels) && run.len().is_multiple_of(p.out_channels));
        run.iter_mut().zip(start..).for_each(|(x, at)| *x = *x * 0.5 + (at % 64) as f32);
    };
    for e in [Epilogue::default(), full, Epilogue { done: Some(&halve), ..full }] {
        let mut want = specified(p, &x, &w, &e, depthwise);
        if let Some(done) = e.done {
            done(0, &mut want);
        }
        for isa in tested() {
            for tasks in [1, 3] {
                let mut out = vec![f32::NAN; want.len()];
                if depthwise {
                    let turned: Vec<f32> =
                        (0..p.channels).flat_map(|c| w[c..].iter().step_by(p.channels).copied()).collect();
                    let packed = PackedDepthwise::pack(isa, &turned, p.channels, p.taps());
                    packed.run(p, &x, &e, &mut out, tasks, &in_turn);
                } else {
                    let (k, sizes) = (p.taps() * p.channels, [p.out_channels, p.taps(), p.channels]);
                    let packed = PackedProduct::pack(isa, &w, sizes, [k, p.channels, 1]);
                    packed.run(p, &x, &e, &mut out, tasks, &in_turn);
                }
                if out.iter().zip(&want).any(|(a, b)| a.to_bits() != b.to_bits()) {
                    failures.push(format!("{isa:?}, {tasks} tasks, {p:?}"));
                }
            }
        }
    }
}

#[test]
fn products_are_as_specified() {
    let mut failures = Vec::new();
    for m in [1, 2, 5, 6, 7, 11, 12, 13, 15, 29, 230] {
        for n in [1, 7, 8, 9, 16, 17, 31, 32, 33, 47, 63, 65, 130] {
            for k in [1, 3, 4, 257] {
                check(&Place::matrix(m, k, n), false, &mut failures);
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn convolutions_are_as_specified() {
    let mut failures = Vec::new();
    for (input, channels, out, kernel) in
        [([7, 9], 3, 17, [3, 3]), ([6, 5], 16, 33, [3, 2]), ([8, 8], 130, 8, [2, 3]), ([5, 11], 5, 3, [1, 5])]
    {
        for p in windows(place(2, input, channels, out, kernel)) {
            check(&p, false, &mut failures);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn depthwise_is_as_specified() {
    let mut failures = Vec::new();
    for (input, channels, kernel) in
        [([7, 19], 17, [3, 3]), ([5, 6], 40, [5, 5]), ([2, 1], 3, [3, 3]), ([4, 30], 8, [1, 4])]
    {
        for p in windows(place(2, input, channels, channels, kernel)) {
            check(&p, true, &mut failures);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_task_that_is_called_twice_runs_once() {
    let p = Place::matrix(200, 3, 4);
    let (x, w) = (noise(600, 1), noise(12, 2));
    let packed = PackedProduct::pack(FloatIsa::best(), &w, [4, 1, 3], [3, 3, 1]);
    let (mut once, mut twice) = (vec![0.0; 800], vec![0.0; 800]);
    packed.run(&p, &x, &Epilogue::default(), &mut once, 1, &in_turn);
    packed.run(&p, &x, &Epilogue::default(), &mut twice, 3, &|n, task| {
        in_turn(n, task);
        in_turn(n, task);
    });
    assert_eq!(once, twice);
}

/// Heads side by side and one after the other, shared keys, few and many rows, on any number of tasks.
#[test]
fn attention_is_two_products() {
    for (i, [samples, heads, kv_heads, queries, keys, size, v_size]) in [
        [1, 1, 1, 1, 1, 1, 1],
        [2, 3, 3, 5, 7, 3, 2],
        [1, 4, 2, 50, 70, 33, 65],
        [1, 2, 1, 61, 200, 64, 64],
        [2, 2, 2, 3, 0, 4, 5],
        [1, 1, 1, 4, 3, 0, 2],
        [1, 1, 1, 30, 3000, 2, 20],
    ]
    .into_iter()
    .enumerate()
    {
        let sizes = Attention { samples, heads, kv_heads, queries, keys, size, v_size };
        let seed = i as u32;
        let q = noise(samples * heads * queries * size, seed);
        let k = noise(samples * kv_heads * keys * size, seed + 1);
        let v = noise(samples * kv_heads * keys * v_size, seed + 2);
        let change = |at: [usize; 3], row: &mut [f32]| {
            let by = (at[0] + 2 * at[1] + 3 * at[2]) as f32;
            row.iter_mut().for_each(|x| *x = *x * 0.5 + by);
        };
        for flat in [false, true] {
            let [of_q, of_k, of_v] = [
                Heads::new(&q, flat, [heads, queries, size]),
                Heads::new(&k, flat, [kv_heads, keys, size]),
                Heads::new(&v, flat, [kv_heads, keys, v_size]),
            ];
            let row = |x: &Heads<'_>, s: usize, h: usize, r: usize| s * x.steps[0] + h * x.steps[1] + r * x.steps[2];
            let mut want = vec![0.0; samples * heads * queries * v_size];
            let to = Heads::new(&[], flat, [heads, queries, v_size]);
            for (s, h, r) in
                (0..samples * heads * queries).map(|i| (i / queries / heads, i / queries % heads, i % queries))
            {
                let shared = h / (heads / kv_heads);
                let of = |j: usize| {
                    let pairs = q[row(&of_q, s, h, r)..].iter().zip(&k[row(&of_k, s, shared, j)..]).take(size);
                    pairs.fold(0.0f32, |sum, (&x, &w)| x.mul_add(w, sum))
                };
                let mut scores: Vec<f32> = (0..keys).map(of).collect();
                change([s, h, r], &mut scores);
                for c in 0..v_size {
                    let pairs = scores.iter().enumerate();
                    want[row(&to, s, h, r) + c] =
                        pairs.fold(0.0f32, |sum, (j, &x)| x.mul_add(v[row(&of_v, s, shared, j) + c], sum));
                }
            }
            for isa in tested() {
                for tasks in [1, 2, 5] {
                    let mut got = vec![f32::NAN; want.len()];
                    sizes.run(isa, [of_q, of_k, of_v], &change, (&mut got, flat), (tasks, &in_turn));
                    assert_eq!(got, want, "{sizes:?} {flat} {isa:?} {tasks}");
                }
            }
        }
    }
}
