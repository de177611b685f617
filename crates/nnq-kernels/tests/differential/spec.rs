//! The formulas of `docs/numerics.md`, as plainly as they can be written.
use nnq_kernels::{
    conv::ConvGeom,
    eltwise::{AddMode, AddSpec, MulMode, MulSpec},
    pool::PoolGeom,
    round::{AddDyadic, Dyadic, ScalarRequant},
    tape::Within,
};

/// Output codes.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub zero: u8,
    pub lo: u8,
    pub hi: u8,
}

impl Grid {
    pub fn new((zero, lo, hi): (u8, u8, u8)) -> Grid {
        Grid { zero, lo, hi }
    }

    /// `clamp(rne(real), lo - zero, hi - zero) + zero`; NaN gives `lo`.
    fn of_real(self, real: f32) -> u8 {
        let [zero, lo, hi] = [self.zero, self.lo, self.hi].map(f64::from);
        let even = nearest_even(f64::from(real));
        let code = if even.is_nan() { lo } else { (even + zero).clamp(lo, hi) };
        code as u8
    }

    fn of_integer(self, value: i128) -> u8 {
        (value + i128::from(self.zero)).clamp(self.lo.into(), self.hi.into()) as u8
    }

    /// Section 2.
    pub fn quantize(self, x: f32, scale: f32) -> u8 {
        self.of_real(x / scale)
    }

    /// Section 4.
    pub fn requantize(self, acc: i64, by: ScalarRequant) -> u8 {
        match by {
            ScalarRequant::Onnx(m) => self.of_real(acc as f32 * m),
            ScalarRequant::Dyadic(Dyadic { mult, shift }) => {
                self.of_integer(half_up(i128::from(acc) * i128::from(mult), shift))
            }
        }
    }
}

/// From the floor, which is exact.
fn nearest_even(x: f64) -> f64 {
    let floor = x.floor();
    let above = x - floor;
    let odd = floor.rem_euclid(2.0) == 1.0;
    if above > 0.5 || (above == 0.5 && odd) { floor + 1.0 } else { floor }
}

/// `value / 2^shift`, ties toward +infinity.
fn half_up(value: i128, shift: u8) -> i128 {
    (value + (1 << (shift - 1))).div_euclid(1 << shift)
}

/// Section 2.
pub fn dequantize(code: u8, scale: f32, zero: u8) -> f32 {
    (i32::from(code) - i32::from(zero)) as f32 * scale
}

/// Section 11: scale and zero point for some numbers, all of them finite.
pub fn dynamic(x: &[f32]) -> (f32, u8) {
    let (low, high) = x.iter().fold((0f32, 0f32), |(low, high), &x| (low.min(x), high.max(x)));
    let scale = (high - low) / 255.0;
    let scale = if scale == 0.0 { 1.0 } else { scale };
    (scale, nearest_even(f64::from(-low / scale)).clamp(0.0, 255.0) as u8)
}

/// Section 6.
pub fn add(spec: &AddSpec, a: u8, b: u8) -> u8 {
    let to = Grid { zero: spec.zero, lo: spec.lo, hi: spec.hi };
    match spec.mode {
        AddMode::Onnx { sa, sb, sy } => {
            let (a, b) = (dequantize(a, sa, spec.za), dequantize(b, sb, spec.zb));
            to.quantize(if spec.subtract { a - b } else { a + b }, sy)
        }
        AddMode::Dyadic(AddDyadic { ma, mb, shift }) => {
            let (a, b) = (i128::from(a) - i128::from(spec.za), i128::from(b) - i128::from(spec.zb));
            let (a, b) = (a * i128::from(ma), b * i128::from(mb));
            to.of_integer(half_up(if spec.subtract { a - b } else { a + b }, shift))
        }
    }
}

/// Section 6.
pub fn mul(spec: &MulSpec, a: u8, b: u8) -> u8 {
    let to = Grid { zero: spec.zero, lo: spec.lo, hi: spec.hi };
    match spec.mode {
        MulMode::Onnx { sa, sb, sy } => to.quantize(dequantize(a, sa, spec.za) * dequantize(b, sb, spec.zb), sy),
        MulMode::Dyadic(by) => {
            let (a, b) = (i64::from(a) - i64::from(spec.za), i64::from(b) - i64::from(spec.zb));
            to.requantize(a * b, ScalarRequant::Dyadic(by))
        }
    }
}

/// A product's operands beside its inputs.
pub struct Operands<'a> {
    pub geom: &'a ConvGeom,
    /// `[c_out][k_h][k_w][c_in / groups]`.
    pub w: &'a [i8],
    pub w_zero: Option<&'a [i32]>,
    pub bias: &'a [i32],
    pub x_zero: u8,
}

impl Operands<'_> {
    /// Section 3: `[pixels][c_out]`.
    pub fn accumulators(&self, x: &[u8]) -> Vec<i64> {
        let g = self.geom;
        let (ci, co) = (g.c_in / g.groups, g.c_out / g.groups);
        let mut all = Vec::with_capacity(g.pixels() * g.c_out);
        for pixel in 0..g.pixels() {
            for o in 0..g.c_out {
                let w_zero = self.w_zero.map_or(0, |zeros| i64::from(zeros[o]));
                let mut acc = i64::from(self.bias[o]);
                for tap in 0..g.k_h * g.k_w {
                    let down = tap / g.k_w * g.dil_h + pixel / g.out_w % g.out_h * g.stride_h;
                    let right = tap % g.k_w * g.dil_w + pixel % g.out_w * g.stride_w;
                    let inside = (g.pad_top..g.pad_top + g.in_h).contains(&down)
                        && (g.pad_left..g.pad_left + g.in_w).contains(&right);
                    if !inside {
                        continue;
                    }
                    let row = pixel / (g.out_h * g.out_w) * g.in_h + down - g.pad_top;
                    let at = (row * g.in_w + right - g.pad_left) * g.c_in + o / co * ci;
                    let w = &self.w[(o * g.k_h * g.k_w + tap) * ci..][..ci];
                    for (&x, &w) in x[at..at + ci].iter().zip(w) {
                        acc += (i64::from(x) - i64::from(self.x_zero)) * (i64::from(w) - w_zero);
                    }
                }
                assert!(i32::try_from(acc).is_ok(), "the drawn case is impossible: {acc}");
                all.push(acc);
            }
        }
        all
    }
}

/// The part of a window that counts.
pub struct Window {
    /// Codes inside the input.
    pub codes: Vec<u8>,
    /// Positions inside the input or its padding.
    pub padded: usize,
}

/// Section 7: the windows of each pixel and channel.
pub fn windows<'a>(g: &'a PoolGeom, x: &'a [u8]) -> impl Iterator<Item = Window> + 'a {
    (0..g.pixels() * g.c).map(move |i| {
        let (pixel, c) = (i / g.c, i % g.c);
        let mut window = Window { codes: Vec::new(), padded: 0 };
        for tap in 0..g.k_h * g.k_w {
            let down = tap / g.k_w * g.dil_h + pixel / g.out_w % g.out_h * g.stride_h;
            let right = tap % g.k_w * g.dil_w + pixel % g.out_w * g.stride_w;
            let (bottom, end) = (g.pad_top + g.in_h, g.pad_left + g.in_w);
            window.padded += usize::from(down < bottom + g.pad_bottom && right < end + g.pad_right);
            if (g.pad_top..bottom).contains(&down) && (g.pad_left..end).contains(&right) {
                let row = pixel / (g.out_h * g.out_w) * g.in_h + down - g.pad_top;
                window.codes.push(x[(row * g.in_w + right - g.pad_left) * g.c + c]);
            }
        }
        window
    })
}

/// The mean of a window.
pub fn mean(window: &Window, x_zero: u8, include_pad: bool, requants: &[(usize, ScalarRequant)], to: Grid) -> u8 {
    let sum: i64 = window.codes.iter().map(|&q| i64::from(q) - i64::from(x_zero)).sum();
    let count = if include_pad { window.padded } else { window.codes.len() };
    let by = requants.iter().find(|(of, _)| *of == count.max(1)).or(requants.first().filter(|_| count == 0));
    to.requantize(sum, by.unwrap_or_else(|| panic!("no requantization for {count} positions")).1)
}

/// The nearest number within bounds; where they leave none, the upper one.
pub fn within(x: f32, bounds: Within) -> f32 {
    let x = if x < bounds.lo { bounds.lo } else { x };
    if x > bounds.hi { bounds.hi } else { x }
}
