//! Linear and cubic resizing.
use crate::{
    Bench,
    draw::{Draw, at_most},
    product::{dyadic, factor},
    same,
    spec::Grid,
};
use nnq_kernels::{
    SLACK,
    resize::{BoundResize, FRACTION, Line, Resize, UNIT},
    round::ScalarRequant,
};
use std::sync::Arc;

/// Elements with up to four taps, whose weights sum to 1 in fixed point and may be negative.
fn line(draw: &mut Draw, input: usize, output: usize) -> Arc<Line> {
    let mut line = Line { ends: vec![], taps: vec![] };
    for _ in 0..output {
        let n = draw.within(1..=4);
        let mut rest = 1 << FRACTION;
        for i in 0..n {
            // The largest sum of magnitudes is 1.4.
            let weight = if i + 1 == n { rest } else { draw.within(0..=900 / n) as i32 - 130 };
            rest -= weight;
            line.taps.push((draw.within(0..=input - 1) as u32, weight as i16));
        }
        line.ends.push(line.taps.len() as u32);
    }
    Arc::new(line)
}

/// A drawn resizing of at most so many bytes of input.
pub fn resize(draw: &mut Draw, bytes: usize) -> Resize {
    let (batch, in_h, in_w) = loop {
        let sizes = (draw.within(1..=3), draw.within(1..=9), draw.within(1..=12));
        if sizes.0 * sizes.1 * sizes.2 <= bytes {
            break sizes;
        }
    };
    let c = draw.size(140).min(bytes / (batch * in_h * in_w));
    let (out_h, out_w) = (draw.within(0..=9), draw.within(0..=9));
    let bound = UNIT as f64 * 255.0;
    let requant = match draw.once_in(2) {
        true => ScalarRequant::Onnx(factor(draw, bound) as f32),
        false => ScalarRequant::Dyadic(dyadic(draw, bound)),
    };
    let (zero, lo, hi) = draw.limits();
    let (rows, columns) = (line(draw, in_h, out_h), line(draw, in_w, out_w));
    Resize { batch, in_h, in_w, c, rows, columns, requant, x_zero: draw.byte(), zero, lo, hi }
}

/// Section 7: the output codes, `[batch][rows][columns][c]`.
pub fn formula(r: &Resize, x: &[u8]) -> Vec<u8> {
    let to = Grid::new((r.zero, r.lo, r.hi));
    let mut out = Vec::new();
    for n in 0..r.batch {
        for h in 0..r.rows.len() {
            for w in 0..r.columns.len() {
                for c in 0..r.c {
                    let mut acc = 0;
                    for &(y, a) in r.rows.taps(h) {
                        for &(z, b) in r.columns.taps(w) {
                            let code = x[((n * r.in_h + y as usize) * r.in_w + z as usize) * r.c + c];
                            acc += i64::from(a) * i64::from(b) * (i64::from(code) - i64::from(r.x_zero));
                        }
                    }
                    out.push(to.requantize(acc, r.requant));
                }
            }
        }
    }
    out
}

pub fn case(draw: &mut Draw, bench: &mut Bench) -> Result<(), String> {
    let of = resize(draw, at_most(1 << 15, 1 << 10));
    let pitch = of.c + if draw.once_in(2) { 0 } else { draw.within(1..=40) };
    let cuts = draw.parts(of.lines());
    bench.note((&of, pitch, &cuts));
    let x = draw.bytes(of.batch * of.in_h * of.in_w * of.c + SLACK);
    let width = of.columns.len();
    let mut want = vec![0x5a; of.lines() * width * pitch + 80];
    for (i, code) in formula(&of, &x).into_iter().enumerate() {
        want[i / of.c * pitch + i % of.c] = code;
    }
    let (of, mut sums) = (Arc::new(of), Vec::new());
    for &isa in &bench.isas {
        let mut got = vec![0x5a; want.len()];
        let bound = BoundResize::new(isa, of.clone());
        for lines in cuts.iter().filter(|lines| !lines.is_empty()) {
            bound.run(&x, lines.clone(), &mut got[lines.start * width * pitch..], pitch, &mut sums);
        }
        same(isa, &got, &want)?;
    }
    Ok(())
}
