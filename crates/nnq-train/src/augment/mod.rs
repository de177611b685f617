//! Random changes of training images. What happens to an image depends on seed, epoch and its index in the data set, and on nothing else.
mod color;
mod mixup;
mod resample;
mod zoom;

pub use color::Palette;
pub use mixup::Mixed;

use nnq::{
    Error, Result,
    data::{Preprocess, mix},
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Which changes; written as a list such as `crop,flip` or `color:0.3,crop:4,flip,cutout:8,mixup:0.2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Augment {
    /// Multiplies brightness, contrast and saturation by up to so much more or less than 1; 0: not at all.
    pub color: f32,
    /// Takes a part of at least this share of the area in place of the image, as large as that; 0: not at all.
    pub zoom: f32,
    /// Shifts by up to so many pixels in each direction; what comes in is 0, the mean colour of normalised images.
    pub crop: usize,
    /// Mirrors every other image.
    pub flip: bool,
    /// Sets a square of so many pixels a side to 0.
    pub cutout: usize,
    /// Mixes each image with another one of its batch, and their labels: the parameter of Zhang et al.'s distribution of shares; 0: not at all.
    pub mixup: f32,
    /// The share of the epochs, at the end, that mix nothing: what is measured on the way sees images as they are.
    pub apart: f32,
    /// Makes the shorter side of images so many pixels long; 0: they stay.
    pub shrink: usize,
    /// The share of the epochs, at the end, in which images keep their size.
    pub whole: f32,
}

/// Numbers drawn for one image of one epoch.
struct Draws {
    key: u64,
    drawn: u64,
}

impl Draws {
    fn new(seed: u64, epoch: u64, index: u64) -> Self {
        Self { key: mix(mix(seed, epoch), index), drawn: 0 }
    }
    fn next(&mut self) -> u64 {
        let bits = mix(self.key, self.drawn);
        self.drawn += 1;
        bits
    }
    /// Between 0 and 1, neither of them.
    fn open(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
    /// One of `0..n`.
    fn below(&mut self, n: usize) -> usize {
        usize::try_from((u128::from(self.next()) * n as u128) >> 64).unwrap_or(0)
    }
}

impl Augment {
    /// What changes in one of so many epochs.
    pub fn of_epoch(self, epoch: u64, epochs: u64) -> Self {
        let before = |share: f32| (epoch as f64) < epochs as f64 * (1.0 - f64::from(share));
        Self {
            mixup: if before(self.apart) { self.mixup } else { 0.0 },
            shrink: if before(self.whole) { self.shrink } else { 0 },
            ..self
        }
    }
    /// Makes images of a batch of `shape` smaller, where they are to be.
    ///
    /// # Errors
    /// When they are smaller already.
    pub fn resize(&self, numbers: Vec<f32>, shape: &mut [usize]) -> Result<Vec<f32>> {
        let &mut [_, _, height, width] = shape else { return Ok(numbers) };
        let shorter = height.min(width);
        if self.shrink > shorter {
            return Err(Error::usage(format!("images of {height} x {width} pixels, to be shrunk to {}", self.shrink))
                .cure(format!("use shrink with less than {shorter} pixels, or leave it out")));
        }
        if self.shrink == 0 || self.shrink == shorter {
            return Ok(numbers);
        }
        let small = resample::sizes([height, width], self.shrink);
        shape[2..].copy_from_slice(&small);
        Ok(resample::resample(&numbers, [height, width], [0..height, 0..width], small))
    }
    /// Whether single images change.
    pub fn changes_images(&self) -> bool {
        (self.crop, self.flip, self.cutout, self.shrink) != (0, false, 0, 0) || self.color > 0.0 || self.zoom > 0.0
    }
    /// Mixes the samples of a batch, each `one` numbers long; answers what each holds of others, or nothing.
    pub fn mix(&self, seed: u64, epoch: u64, indices: &[usize], numbers: &mut [f32], one: usize) -> Vec<Mixed> {
        if self.mixup > 0.0 { mixup::mix(self.mixup, (seed, epoch), indices, numbers, one) } else { Vec::new() }
    }
    /// What colours are in data that is prepared so, where they change.
    ///
    /// # Errors
    /// When the images have no colours.
    pub fn palette(&self, preprocess: &Preprocess, channels: usize) -> Result<Option<Palette>> {
        (self.color > 0.0).then(|| Palette::new(preprocess, channels)).transpose()
    }
    /// Changes the colours of an image in place.
    pub fn recolor(&self, image: &mut [f32], palette: &Palette, seed: u64, epoch: u64, index: u64) {
        color::jitter(image, palette, self.color, seed, epoch, index);
    }
    /// Changes where pixels of an image of `[channels, height, width]` are, in place.
    pub fn apply(&self, image: &mut [f32], [channels, height, width]: [usize; 3], seed: u64, epoch: u64, index: u64) {
        if self.zoom > 0.0 {
            zoom::zoom(image, [height, width], self.zoom, (seed, epoch, index));
        }
        let mut draws = Draws::new(seed, epoch, index);
        let mut shift = || draws.below(2 * self.crop + 1) as isize - self.crop as isize;
        let (down, right) = (shift(), shift());
        let mirror = self.flip && draws.below(2) == 1;
        if (down, right) != (0, 0) || mirror {
            let old = image.to_vec();
            let from = |i: usize, by: isize, n: usize| i.checked_add_signed(by).filter(|&k| k < n);
            for (c, plane) in image.chunks_mut((height * width).max(1)).enumerate().take(channels) {
                for y in 0..height {
                    for x in 0..width {
                        let seen = if mirror { width - 1 - x } else { x };
                        let at = from(y, down, height).zip(from(seen, right, width));
                        plane[y * width + x] = at.map_or(0.0, |(y, x)| old[(c * height + y) * width + x]);
                    }
                }
            }
        }
        if self.cutout > 0 && height > 0 && width > 0 {
            let (y, x, half) = (draws.below(height), draws.below(width), self.cutout / 2);
            let span = |at: usize, n: usize| at.saturating_sub(half)..(at + self.cutout - half).min(n);
            for plane in image.chunks_mut(height * width).take(channels) {
                for y in span(y, height) {
                    plane[y * width..][span(x, width)].fill(0.0);
                }
            }
        }
    }
}

impl fmt::Display for Augment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.color > 0.0 {
            parts.push(format!("color:{}", self.color));
        }
        if self.zoom > 0.0 {
            parts.push(format!("zoom:{}", self.zoom));
        }
        if self.crop > 0 {
            parts.push(format!("crop:{}", self.crop));
        }
        if self.flip {
            parts.push("flip".into());
        }
        if self.cutout > 0 {
            parts.push(format!("cutout:{}", self.cutout));
        }
        if self.mixup > 0.0 {
            let apart = if self.apart > 0.0 { format!(":{}", self.apart) } else { String::new() };
            parts.push(format!("mixup:{}{apart}", self.mixup));
        }
        if self.shrink > 0 {
            parts.push(format!("shrink:{}:{}", self.shrink, self.whole));
        }
        f.write_str(if parts.is_empty() { "none".into() } else { parts.join(",") }.as_str())
    }
}

impl FromStr for Augment {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let mut out = Self::default();
        for part in s.split(',').filter(|p| !matches!(*p, "none" | "")) {
            let (name, number) = part.split_once(':').map_or((part, None), |(n, x)| (n, Some(x)));
            let size = |usual: usize| match number.map(str::parse::<usize>) {
                None => Ok(usual),
                Some(Ok(n)) if (1..=1024).contains(&n) => Ok(n),
                _ => Err(Error::usage(format!("'{part}': a size is a number from 1 to 1024"))),
            };
            let between = |x: &str| match x.parse::<f32>() {
                Ok(x) if x > 0.0 && x <= 1.0 => Ok(x),
                _ => Err(Error::usage(format!("'{part}': the number lies between 0 and 1"))),
            };
            let share = |usual: f32| number.map_or(Ok(usual), between);
            match name {
                "color" => out.color = share(0.3)?,
                "zoom" => out.zoom = share(0.35)?,
                "crop" => out.crop = size(4)?,
                "flip" if part == "flip" => out.flip = true,
                "cutout" => out.cutout = size(8)?,
                "mixup" => {
                    let (alpha, apart) = number.and_then(|x| x.split_once(':')).unzip();
                    out.mixup = alpha.map_or_else(|| share(0.2), between)?;
                    out.apart = apart.map_or(Ok(0.0), between)?;
                }
                "shrink" => {
                    let (side, whole) =
                        number.map_or(("", None), |x| x.split_once(':').map_or((x, None), |(a, b)| (a, Some(b))));
                    out.shrink = side.parse().ok().filter(|n| (1..=4096).contains(n)).ok_or_else(|| {
                        Error::usage(format!("'{part}': the shorter side has 1 to 4096 pixels, as in shrink:128"))
                    })?;
                    out.whole = whole.map_or(Ok(0.25), between)?;
                }
                _ => {
                    return Err(Error::usage(format!("'{part}' is no change of images")).cure(
                        "use a list of color[:SHARE], zoom[:SHARE], crop[:PIXELS], flip, cutout[:PIXELS], mixup[:ALPHA[:SHARE]], shrink:PIXELS[:SHARE], or none",
                    ));
                }
            }
        }
        Ok(out)
    }
}

impl TryFrom<String> for Augment {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<Augment> for String {
    fn from(a: Augment) -> Self {
        a.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Vec<f32> {
        (0..2 * 5 * 4).map(|i| i as f32 + 1.0).collect()
    }

    #[test]
    fn images_are_shifted_and_mirrored() {
        let augment: Augment = "crop:1,flip".parse().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for index in 0..200 {
            let mut x = image();
            augment.apply(&mut x, [2, 5, 4], 7, 0, index);
            // Found again by trying all eighteen.
            let found = (-1..=1isize).flat_map(|dy| (-1..=1isize).map(move |dx| (dy, dx))).find_map(|(dy, dx)| {
                [false, true].into_iter().find_map(|mirror| {
                    let pixel = |c: usize, y: isize, x: isize| {
                        let x = if mirror { 3 - x } else { x } + dx;
                        let y = y + dy;
                        let inside = (0..5).contains(&y) && (0..4).contains(&x);
                        if inside { (c as isize * 20 + y * 4 + x) as f32 + 1.0 } else { 0.0 }
                    };
                    let all = (0..2).flat_map(|c| (0..5).flat_map(move |y| (0..4).map(move |x| pixel(c, y, x))));
                    all.eq(x.iter().copied()).then_some((dy, dx, mirror))
                })
            });
            seen.insert(found.expect("a shifted image"));
        }
        assert_eq!(seen.len(), 18);
    }

    #[test]
    fn the_same_draw_gives_the_same_image_and_another_epoch_another() {
        let augment: Augment = "crop,flip,cutout:2".parse().unwrap();
        let draw = |epoch, index| {
            let mut x = image();
            augment.apply(&mut x, [2, 5, 4], 1, epoch, index);
            x
        };
        assert_eq!(draw(3, 9), draw(3, 9));
        assert!((0..20).any(|i| draw(3, i) != draw(4, i)));
        let mut x = image();
        Augment::default().apply(&mut x, [2, 5, 4], 1, 0, 0);
        assert_eq!(x, image());
        let mut x = image();
        Augment { cutout: 2, ..Augment::default() }.apply(&mut x, [2, 5, 4], 1, 0, 0);
        let holes = x.iter().filter(|x| **x == 0.0).count();
        assert!((2..=8).contains(&holes), "{holes}");
    }

    #[test]
    fn the_last_epochs_mix_nothing() {
        let augment: Augment = "flip,mixup:1:0.25".parse().unwrap();
        let mixing: Vec<bool> = (0..8).map(|epoch| augment.of_epoch(epoch, 8).mixup > 0.0).collect();
        assert_eq!(mixing, [true, true, true, true, true, true, false, false]);
        let always: Augment = "mixup".parse().unwrap();
        assert!((0..8).all(|epoch| always.of_epoch(epoch, 8) == always));
    }

    #[test]
    fn the_last_epochs_shrink_nothing() {
        let augment: Augment = "shrink:2:0.5".parse().unwrap();
        let sizes = |epoch| {
            let mut shape = [1, 2, 5, 4];
            let numbers = augment.of_epoch(epoch, 2).resize(image(), &mut shape).unwrap();
            assert_eq!(numbers.len(), shape.iter().product::<usize>());
            shape
        };
        assert_eq!((sizes(0), sizes(1)), ([1, 2, 3, 2], [1, 2, 5, 4]));
        let larger: Augment = "shrink:9".parse().unwrap();
        let e = larger.resize(image(), &mut [1, 2, 5, 4]).unwrap_err().to_string();
        assert!(e.contains("5 x 4 pixels") && e.contains("less than 4"), "{e}");
    }

    #[test]
    fn lists_are_read_and_written() {
        for text in [
            "none",
            "crop:4,flip",
            "crop:2,flip,cutout:16",
            "flip,mixup:0.4",
            "color:0.5,flip",
            "mixup:1:0.25",
            "flip,shrink:128:0.5",
            "zoom:0.5,flip",
        ] {
            assert_eq!(text.parse::<Augment>().unwrap().to_string(), text);
        }
        assert_eq!("crop,flip".parse::<Augment>().unwrap().to_string(), "crop:4,flip");
        assert_eq!("shrink:64".parse::<Augment>().unwrap().to_string(), "shrink:64:0.25");
        for text in [
            "crop:0",
            "flip:2",
            "rotate",
            "crop:x",
            "mixup:2",
            "mixup:0",
            "mixup:1:2",
            "mixup:1:",
            "color:2",
            "shrink",
            "shrink:0",
            "shrink:8:2",
        ] {
            assert!(text.parse::<Augment>().is_err(), "{text}");
        }
    }
}
