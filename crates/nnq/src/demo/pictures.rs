//! A generator of labelled pictures.
//!
//! A picture shows one of ten patterns with random colour, size, position and rotation before a clutter of small patterns, with
//! noise and sometimes something in front. Everything is integer arithmetic on a counter-based random number generator,
//! so picture `i` of a stream is the same on every machine, and no picture depends on another one.
use crate::{
    data::{Dataset, Image, Preprocess},
    error::{Error, Result},
};
use std::path::Path;

/// Width and height of a picture in pixels.
pub const SIDE: usize = 32;

/// Names of the classes; the label is the index.
pub const CLASSES: [&str; 10] =
    ["disc", "square", "triangle", "cross", "ring", "star", "stripes", "checker", "crescent", "gradient"];

/// Two sequences of pictures that share nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// What the network was trained on, and what calibration may look at.
    Train,
    /// Never seen in training.
    Test,
}

impl Stream {
    fn seed(self) -> u64 {
        match self {
            Self::Train => 0x6e6e_7121_7472_6169,
            Self::Test => 0x6e6e_7121_7465_7374,
        }
    }
}

/// One picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Channel-major RGB: 3 x 32 x 32 bytes.
    pub pixels: Vec<u8>,
    /// Index into [`CLASSES`].
    pub label: u8,
}

/// Picture `index` of a stream.
pub fn picture(stream: Stream, index: u64) -> Picture {
    let mut rng = Rng(mix(stream.seed() ^ mix(index)));
    let label = rng.below(10);
    let mut canvas = Canvas::backdrop(&mut rng);
    for _ in 0..rng.range(1, 4) {
        let kind = rng.below(10);
        let small = Figure::random(&mut rng, kind, (12, 28));
        let colour = rng.colour();
        canvas.paint(&small, colour);
    }
    let figure = Figure::random(&mut rng, label, (32, 92));
    let behind = canvas.at(figure.cx / 8, figure.cy / 8);
    let colour = rng.colour_unlike(behind);
    canvas.paint(&figure, colour);
    if rng.below(2) == 0 {
        let kind = rng.below(10);
        let front = Figure::random(&mut rng, kind, (12, 26));
        let colour = rng.colour();
        canvas.paint(&front, colour);
    }
    let noise = rng.range(4, 48);
    Picture { pixels: canvas.finish(&mut rng, noise), label: label as u8 }
}

/// Pictures `0..count` of a stream as a data set.
///
/// # Errors
/// When `count` is 0.
pub fn dataset(stream: Stream, count: u64) -> Result<Dataset> {
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for i in 0..count {
        let Picture { pixels, label } = picture(stream, i);
        let area = SIDE * SIDE;
        let interleaved = (0..3 * area).map(|k| pixels[k % 3 * area + k / 3]).collect();
        images.push(Image::new(SIDE, SIDE, 3, interleaved)?);
        labels.push(label.into());
    }
    Dataset::in_memory(images, Some(labels), CLASSES.map(String::from).into())
}

/// What the network expects.
pub fn preprocess() -> Preprocess {
    Preprocess { divide: 127.5, mean: vec![1.0], ..Preprocess::raw() }
}

/// Writes pictures `0..count` of a stream in the binary format of CIFAR-10: per picture the label byte and 3072 bytes of
/// channel-major RGB.
///
/// # Errors
/// When the file cannot be written.
pub fn write_cifar(stream: Stream, count: u64, path: &Path) -> Result<()> {
    use std::io::Write;
    let io = |e| Error::io(path, e);
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).map_err(io)?);
    for i in 0..count {
        let picture = picture(stream, i);
        file.write_all(&[picture.label]).map_err(io)?;
        file.write_all(&picture.pixels).map_err(io)?;
    }
    file.flush().map_err(io)
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        let x = mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x
    }
    /// `0..n`, for small n.
    fn below(&mut self, n: i32) -> i32 {
        (((self.next() >> 33) as i64 * i64::from(n)) >> 31) as i32
    }
    /// `low..=high`.
    fn range(&mut self, low: i32, high: i32) -> i32 {
        low + self.below(high - low + 1)
    }
    fn colour(&mut self) -> [i32; 3] {
        [self.below(256), self.below(256), self.below(256)]
    }
    /// A colour that can be told from `other`, if only just.
    fn colour_unlike(&mut self, other: [i32; 3]) -> [i32; 3] {
        loop {
            let c = self.colour();
            if c.iter().zip(other).map(|(a, b)| (a - b).abs()).sum::<i32>() >= 72 {
                return c;
            }
        }
    }
}

/// 2^14 sin(k π / 32) for the first quarter.
const SINE: [i32; 17] =
    [0, 1606, 3196, 4756, 6270, 7723, 9102, 10394, 11585, 12665, 13623, 14449, 15137, 15679, 16069, 16305, 16384];

/// 2^14 sin of `k` 64ths of a turn.
fn sine(k: i32) -> i32 {
    let (half, k) = (k.rem_euclid(64) / 32, k.rem_euclid(32));
    let s = SINE[k.min(32 - k) as usize];
    if half == 0 { s } else { -s }
}

/// A pattern somewhere on the canvas. Lengths in eighths of a pixel.
struct Figure {
    kind: i32,
    cx: i32,
    cy: i32,
    radius: i32,
    turn: i32,
}

impl Figure {
    fn random(rng: &mut Rng, kind: i32, radius: (i32, i32)) -> Self {
        let radius = rng.range(radius.0, radius.1);
        let margin = radius * 3 / 4;
        let side = 8 * SIDE as i32;
        let (cx, cy) = (rng.range(margin, side - margin), rng.range(margin, side - margin));
        Self { kind, cx, cy, radius, turn: rng.below(64) }
    }
    /// How much of the figure's colour, 0 to 256, the point (x, y) takes.
    fn alpha(&self, x: i32, y: i32) -> i32 {
        let (dx, dy) = (x - self.cx, y - self.cy);
        if dx * dx + dy * dy > 2 * self.radius * self.radius {
            return 0;
        }
        let (s, c) = (sine(self.turn), sine(self.turn + 16));
        // In the figure's own coordinates, where its radius is 256.
        let (u, v) = ((dx * c + dy * s) / (self.radius * 64), (dy * c - dx * s) / (self.radius * 64));
        let r2 = u * u + v * v;
        let disc = r2 <= 256 * 256;
        // How many half planes `n . p <= d` hold the point; normals of length 256.
        let inside = |normals: &[(i32, i32)], d: i32| normals.iter().filter(|n| n.0 * u + n.1 * v <= 256 * d).count();
        let tile = u.abs() <= 220 && v.abs() <= 220;
        let hit = match self.kind {
            0 => disc,
            1 => u.abs() <= 200 && v.abs() <= 200,
            2 => inside(&[(0, 256), (-222, -128), (222, -128)], 128) == 3,
            3 => u.abs().min(v.abs()) <= 76 && u.abs().max(v.abs()) <= 240,
            4 => disc && r2 >= 150 * 150,
            // A pentagram: the points beyond at most one of the five sides of its inner pentagon.
            5 => inside(&[(0, 256), (-243, 79), (-150, -207), (150, -207), (243, 79)], 84) >= 4,
            6 => tile && (u + 220) / 63 % 2 == 0,
            7 => tile && ((u + 220) / 111 + (v + 220) / 111) % 2 == 0,
            8 => disc && (u - 110) * (u - 110) + v * v > 190 * 190,
            _ => return if disc { (u + 256) / 2 } else { 0 },
        };
        if hit { 256 } else { 0 }
    }
}

/// Pixels, row by row.
struct Canvas(Vec<[i32; 3]>);

impl Canvas {
    /// A colour that fades into another one across the picture.
    fn backdrop(rng: &mut Rng) -> Self {
        let (a, b, turn) = (rng.colour(), rng.colour(), rng.below(64));
        let (s, c) = (sine(turn), sine(turn + 16));
        let side = SIDE as i32;
        let shade = |i: i32| {
            let (x, y) = (2 * (i % side) - side + 1, 2 * (i / side) - side + 1);
            // -46..46 times 2^14, to 0..=96; only half of the way from a to b.
            let t = ((x * c + y * s) >> 14) + 48;
            std::array::from_fn(|k| a[k] + (b[k] - a[k]) * t / 192)
        };
        Self((0..side * side).map(shade).collect())
    }
    /// The colour at a pixel, clamped into the picture.
    fn at(&self, x: i32, y: i32) -> [i32; 3] {
        let clamp = |i: i32| i.clamp(0, SIDE as i32 - 1) as usize;
        self.0[clamp(y) * SIDE + clamp(x)]
    }
    /// Blends a figure in, with 16 sample points per pixel.
    fn paint(&mut self, figure: &Figure, colour: [i32; 3]) {
        for (i, pixel) in self.0.iter_mut().enumerate() {
            let (x, y) = (8 * (i % SIDE) as i32, 8 * (i / SIDE) as i32);
            let alpha: i32 = (0..16).map(|k| figure.alpha(x + 1 + 2 * (k % 4), y + 1 + 2 * (k / 4))).sum();
            for (p, c) in pixel.iter_mut().zip(colour) {
                *p += (c - *p) * alpha / 4096;
            }
        }
    }
    /// Adds noise of at most `noise` per component and puts channels outermost.
    fn finish(mut self, rng: &mut Rng, noise: i32) -> Vec<u8> {
        for p in self.0.iter_mut().flatten() {
            *p = (*p + rng.range(-noise, noise)).clamp(0, 255);
        }
        (0..3).flat_map(|k| self.0.iter().map(move |p| p[k] as u8)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn digest(stream: Stream, count: u64) -> String {
        let mut hash = Sha256::new();
        for i in 0..count {
            let p = picture(stream, i);
            hash.update([p.label]);
            hash.update(&p.pixels);
        }
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The embedded network was trained on these bytes.
    #[test]
    fn the_same_bytes_everywhere() {
        assert_eq!(digest(Stream::Train, 100), "2d644765a16399b1b0def6d8e4e906f58b7ed58a300b0696a547ac994ba48ab6");
        assert_eq!(digest(Stream::Test, 100), "55a88cda98f02a5e673899d6580851a612552d6f7fa3b848bfca20fb11871fbc");
    }

    #[test]
    fn sine_table() {
        for k in -64..128 {
            let want = (16384.0 * (f64::from(k) * std::f64::consts::PI / 32.0).sin()).round();
            assert_eq!(f64::from(sine(k)), want, "{k}");
        }
    }

    #[test]
    fn classes_are_balanced_and_streams_disjoint() {
        let mut counts = [0u32; 10];
        let mut seen = std::collections::HashSet::new();
        for stream in [Stream::Train, Stream::Test] {
            for i in 0..500 {
                let p = picture(stream, i);
                counts[p.label as usize] += 1;
                assert!(seen.insert(p.pixels), "{stream:?} {i} seen before");
            }
        }
        assert!(counts.iter().all(|&c| (70..=130).contains(&c)), "{counts:?}");
    }

    #[test]
    fn cifar_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.bin");
        write_cifar(Stream::Test, 3, &path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 3 * 3073);
        let p = picture(Stream::Test, 2);
        assert_eq!((bytes[2 * 3073], &bytes[2 * 3073 + 1..]), (p.label, &p.pixels[..]));
        assert!(write_cifar(Stream::Test, 1, &dir.path().join("no/such/folder")).is_err());
    }
}
