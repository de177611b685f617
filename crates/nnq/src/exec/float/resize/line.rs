//! One axis of a resize: where its samples lie, and with which weights they make the result.
use crate::{
    error::{Error, Result},
    exec::float::arrange::HOLE,
    ir::op::{CoordMode, NearestMode, ResizeAttrs, ResizeMode},
};

/// Sizes and scale of an axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub input: usize,
    pub output: usize,
    /// The scale as a quotient: `output / input` in whole numbers where sizes are given, so that coordinates which are whole numbers come
    /// out whole.
    pub scale: (f64, f64),
    /// Start and end of the region of tf_crop_and_resize.
    pub roi: (f64, f64),
}

/// The samples of each element of the result, concatenated.
pub(crate) struct Taps {
    /// Element `i` has the samples `ends[i - 1] .. ends[i]`; none: it lies outside and gets the extrapolation value.
    pub ends: Vec<usize>,
    /// Index and weight.
    pub samples: Vec<(usize, f32)>,
}

impl Taps {
    /// Index and weight of the samples of each element.
    pub fn elements(&self) -> impl Iterator<Item = &[(usize, f32)]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| &self.samples[std::mem::replace(&mut start, end)..end])
    }
}

impl Line {
    /// Nothing changes along this axis.
    pub fn is_same(&self, coord: CoordMode) -> bool {
        self.input == self.output && self.scale.0 == self.scale.1 && coord != CoordMode::TfCropAndResize
    }

    /// Where element `x` of the result lies in the input. `None`: outside of the region that is cropped.
    fn original(&self, x: usize, coord: CoordMode) -> Option<f64> {
        let (x, n) = (x as f64, self.input as f64);
        let (up, down) = self.scale;
        let half_pixel = (x + 0.5) * down / up - 0.5;
        // The size before it was cut to a whole number.
        let ideal = n * up / down;
        Some(match coord {
            CoordMode::HalfPixel => half_pixel,
            CoordMode::HalfPixelSymmetric => half_pixel + n / 2.0 * (1.0 - self.output as f64 / ideal),
            CoordMode::PytorchHalfPixel if self.output > 1 => half_pixel,
            CoordMode::PytorchHalfPixel => 0.0,
            // The ideal size here, the whole one below: so the official tests of the operator have it.
            CoordMode::AlignCorners if self.output > 1 => x * (n - 1.0) / (ideal - 1.0),
            CoordMode::AlignCorners => 0.0,
            CoordMode::Asymmetric => x * down / up,
            CoordMode::TfCropAndResize => {
                let (start, end) = self.roi;
                let at = if self.output > 1 {
                    start * (n - 1.0) + x * (end - start) * (n - 1.0) / (self.output as f64 - 1.0)
                } else {
                    0.5 * (start + end) * (n - 1.0)
                };
                return (at >= 0.0 && at <= n - 1.0).then_some(at);
            }
        })
    }

    /// The one sample of each element, as index times `stride`.
    pub fn nearest(&self, a: &ResizeAttrs, stride: usize) -> Vec<usize> {
        let last = self.input as f64 - 1.0;
        let pick = |x: usize| {
            let Some(at) = self.original(x, a.coord) else { return HOLE };
            let whole = match a.nearest {
                NearestMode::RoundPreferFloor => (at - 0.5).ceil(),
                NearestMode::RoundPreferCeil => (at + 0.5).floor(),
                NearestMode::Floor => at.floor(),
                NearestMode::Ceil => at.ceil(),
            };
            whole.clamp(0.0, last) as usize * stride
        };
        (0..self.output).map(pick).collect()
    }

    /// Weighted samples. Those beyond an end repeat the element at the end, or are left out and the others raised
    /// (`exclude_outside`).
    pub fn taps(&self, a: &ResizeAttrs) -> Result<Taps> {
        let reach = if a.mode == ResizeMode::Cubic { 2.0 } else { 1.0 };
        // An antialiasing filter is as much wider as the result is smaller.
        let shrink = if a.antialias { (self.scale.0 / self.scale.1).min(1.0) } else { 1.0 };
        let first = (-reach / shrink).floor() as i64 + 1;
        let last = self.input as i64 - 1;
        let mut taps = Taps { ends: Vec::with_capacity(self.output), samples: vec![] };
        let mut weights: Vec<(i64, f64)> = vec![];
        for x in 0..self.output {
            if let Some(at) = self.original(x, a.coord) {
                // The sample left of the point; a point on a sample counts as right of the one before.
                let left = at.ceil() - 1.0;
                let ratio = at - left;
                let left = left.clamp(-1e12, 1e12) as i64;
                weights.clear();
                weights.extend((first..=1 - first).map(|i| {
                    let distance = ((i as f64 - ratio) * shrink).abs();
                    (left + i, if a.mode == ResizeMode::Cubic { cubic(distance, a.cubic_a) } else { linear(distance) })
                }));
                if a.exclude_outside {
                    weights.retain(|&(i, _)| (0..=last).contains(&i));
                }
                if a.exclude_outside || a.antialias {
                    let sum: f64 = weights.iter().map(|w| w.1).sum();
                    if sum == 0.0 {
                        return Err(Error::value(format!("no sample of {} lies near element {x}", self.input)));
                    }
                    weights.iter_mut().for_each(|w| w.1 /= sum);
                }
                // Without weight, not even an infinity counts.
                let used = weights.iter().filter(|w| w.1 != 0.0);
                taps.samples.extend(used.map(|&(i, w)| (i.clamp(0, last) as usize, w as f32)));
            }
            taps.ends.push(taps.samples.len());
        }
        Ok(taps)
    }
}

fn linear(distance: f64) -> f64 {
    (1.0 - distance).max(0.0)
}

/// Keys' convolution kernel, equation (4) of "Cubic convolution interpolation for digital image processing" (1981).
fn cubic(d: f64, a: f32) -> f64 {
    let a = f64::from(a);
    if d <= 1.0 {
        ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    } else if d < 2.0 {
        ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    } else {
        0.0
    }
}
