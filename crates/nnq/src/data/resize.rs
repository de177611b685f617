//! Resizing of 8-bit images, equal to Pillow's `Image.resize`: separable convolution with 22-bit fixed-point weights and
//! an 8-bit image between the passes.
use super::image::Image;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How pixels are interpolated. Bilinear and bicubic widen with the reduction (antialiasing).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// The pixel under the new pixel's centre.
    Nearest,
    /// Triangle.
    #[default]
    Bilinear,
    /// Cubic convolution with a = -0.5 (Keys 1981).
    Bicubic,
}

impl Filter {
    /// Half the width of the kernel at scale 1.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.5,
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }
    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Nearest => f64::from(u8::from(x <= 0.5)),
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Self::Bicubic => 0.0,
        }
    }
}

/// Fraction bits of a weight: 32 less 8 for the pixel and 2 for the overshoot of the bicubic kernel.
const BITS: u32 = 22;

/// For each output position: the first input position and the weights from there on.
struct Weights {
    first: Vec<usize>,
    /// `stride` per output position; unused ones at the end of a run are 0 and never reach beyond `length`.
    weights: Vec<i32>,
    length: Vec<usize>,
    stride: usize,
}

impl Weights {
    fn new(from: usize, to: usize, filter: Filter) -> Self {
        let scale = from as f64 / to as f64;
        let widen = scale.max(1.0);
        let support = filter.support() * widen;
        let stride = support.ceil() as usize * 2 + 1;
        let mut this = Self { first: vec![0; to], weights: vec![0; to * stride], length: vec![0; to], stride };
        let mut real = vec![0.0; stride];
        for i in 0..to {
            let centre = (i as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let length = end - first;
            let mut sum = 0.0;
            for (k, w) in real[..length].iter_mut().enumerate() {
                *w = filter.weight(((first + k) as f64 - centre + 0.5) * (1.0 / widen));
                sum += *w;
            }
            for (w, out) in real[..length].iter().zip(&mut this.weights[i * stride..]) {
                let fixed = if sum == 0.0 { *w } else { *w / sum } * f64::from(1u32 << BITS);
                // Half away from zero: part of Pillow's definition, no rounding of ours.
                *out = (fixed + if fixed < 0.0 { -0.5 } else { 0.5 }) as i32;
            }
            (this.first[i], this.length[i]) = (first, length);
        }
        this
    }
    fn at(&self, i: usize) -> (usize, &[i32]) {
        (self.first[i], &self.weights[i * self.stride..i * self.stride + self.length[i]])
    }
}

fn fixed_to_u8(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

fn horizontal<const C: usize>(image: &Image, width: usize, filter: Filter) -> Vec<u8> {
    let weights = Weights::new(image.width, width, filter);
    let mut out = vec![0; image.height * width * C];
    for (row, out) in image.pixels.chunks_exact(image.width * C).zip(out.chunks_exact_mut(width * C)) {
        for (x, out) in out.chunks_exact_mut(C).enumerate() {
            let (first, w) = weights.at(x);
            let mut sum = [1i32 << (BITS - 1); C];
            for (pixel, &w) in row[first * C..].chunks_exact(C).zip(w) {
                for c in 0..C {
                    sum[c] += i32::from(pixel[c]) * w;
                }
            }
            for c in 0..C {
                out[c] = fixed_to_u8(sum[c]);
            }
        }
    }
    out
}

/// `row` values per row; channels need no distinction.
fn vertical(pixels: &[u8], row: usize, from: usize, to: usize, filter: Filter) -> Vec<u8> {
    let weights = Weights::new(from, to, filter);
    let mut out = vec![0; to * row];
    let mut sums = vec![0i32; row];
    for (y, out) in out.chunks_exact_mut(row).enumerate() {
        let (first, w) = weights.at(y);
        sums.fill(1 << (BITS - 1));
        for (values, &w) in pixels[first * row..].chunks_exact(row).zip(w) {
            for (sum, &v) in sums.iter_mut().zip(values) {
                *sum += i32::from(v) * w;
            }
        }
        for (out, &sum) in out.iter_mut().zip(&sums) {
            *out = fixed_to_u8(sum);
        }
    }
    out
}

/// The input position of each output position. Positions are accumulated as Pillow does, roundings included.
fn nearest_positions(from: usize, to: usize) -> Vec<usize> {
    let step = from as f64 / to as f64;
    let mut at = step * 0.5;
    (0..to)
        .map(|_| {
            let i = (at as usize).min(from - 1);
            at += step;
            i
        })
        .collect()
}

/// Resizes to `width` x `height`: first along the rows, then along the columns; a direction whose size stays is left alone.
///
/// # Errors
/// When a side is 0 or the result is larger than [`super::MAX_PIXELS`].
pub fn resize(image: &Image, width: usize, height: usize, filter: Filter) -> Result<Image> {
    if width == 0 || height == 0 {
        return Err(Error::usage(format!("cannot resize to {height} x {width} (rows x columns)")));
    }
    super::image::check_size(width, height, super::MAX_PIXELS)?;
    super::image::check_size(width, image.height, super::MAX_PIXELS)?;
    if (width, height) == (image.width, image.height) {
        return Ok(image.clone());
    }
    let c = image.channels;
    if filter == Filter::Nearest {
        let (columns, rows) = (nearest_positions(image.width, width), nearest_positions(image.height, height));
        let mut pixels = Vec::with_capacity(width * height * c);
        for &y in &rows {
            for &x in &columns {
                let at = (y * image.width + x) * c;
                pixels.extend_from_slice(&image.pixels[at..at + c]);
            }
        }
        return Image::new(width, height, c, pixels);
    }
    let wide = match (width == image.width, c) {
        (true, _) => image.pixels.clone(),
        (false, 1) => horizontal::<1>(image, width, filter),
        (false, _) => horizontal::<3>(image, width, filter),
    };
    let pixels = if height == image.height { wide } else { vertical(&wide, width * c, image.height, height, filter) };
    Image::new(width, height, c, pixels)
}
