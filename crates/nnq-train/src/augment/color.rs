//! Random brightness, contrast and saturation, as torchvision's `ColorJitter` computes them, in that order.
use super::Draws;
use nnq::{Error, Result, data::Preprocess};

/// The draws of colours, apart from those of places.
const COLORS: u64 = 0x636f_6c6f_7273_0000;

/// Shares of red, green and blue in what is seen as grey (ITU-R BT.601).
const GREY: [f32; 3] = [0.299, 0.587, 0.114];

/// How normalised numbers become colours between 0 and 1: `x * factor + offset`, for each channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Palette {
    factor: [f32; 3],
    offset: [f32; 3],
}

impl Palette {
    /// Of images that were prepared so: 8-bit values are taken to be 0 for black and 255 for white.
    ///
    /// # Errors
    /// When they are no images of three channels.
    pub fn new(preprocess: &Preprocess, channels: usize) -> Result<Self> {
        if channels != 3 {
            return Err(Error::usage(format!("colours of images with {channels} channels"))
                .cure("leave color out of --augment: it needs red, green and blue"));
        }
        let white = 255.0 / preprocess.divide;
        let mut out = Self { factor: [1.0; 3], offset: [0.0; 3] };
        for c in 0..3 {
            let (mean, std) = preprocess.mean_std(c, channels)?;
            (out.factor[c], out.offset[c]) = (std / white, mean / white);
        }
        Ok(out)
    }
}

/// Changes the colours of an image of three planes: three factors, each within `strength` of 1, as drawn for seed, epoch and index.
pub fn jitter(image: &mut [f32], palette: &Palette, strength: f32, seed: u64, epoch: u64, index: u64) {
    let mut draws = Draws::new(seed ^ COLORS, epoch, index);
    let factors = [(); 3].map(|()| 1.0 + strength * (2.0 * draws.open() - 1.0) as f32);
    apply(image, palette, factors);
}

/// Brightness `b x`, contrast `c x + (1 - c) m` with the mean grey `m` of the image, saturation `s x + (1 - s) g` with the grey `g` of the pixel; each
/// clamped to what colours are.
fn apply(image: &mut [f32], palette: &Palette, [bright, contrast, saturation]: [f32; 3]) {
    let n = image.len() / 3;
    if n == 0 {
        return;
    }
    let (red, rest) = image.split_at_mut(n);
    let (green, blue) = rest.split_at_mut(n);
    let grey = |p: [f32; 3]| p[0] * GREY[0] + p[1] * GREY[1] + p[2] * GREY[2];
    let pixels = || 0..n;
    for (c, plane) in [&mut *red, &mut *green, &mut *blue].into_iter().enumerate() {
        for x in plane {
            *x = (bright * (*x * palette.factor[c] + palette.offset[c])).clamp(0.0, 1.0);
        }
    }
    let mean = pixels().map(|i| f64::from(grey([red[i], green[i], blue[i]]))).sum::<f64>() / n as f64;
    for i in pixels() {
        let p = [red[i], green[i], blue[i]].map(|x| (contrast * x + (1.0 - contrast) * mean as f32).clamp(0.0, 1.0));
        let g = grey(p);
        let p = p.map(|x| (saturation * x + (1.0 - saturation) * g).clamp(0.0, 1.0));
        let back = |c: usize| (p[c] - palette.offset[c]) / palette.factor[c];
        (red[i], green[i], blue[i]) = (back(0), back(1), back(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn palette() -> Palette {
        Palette::new(&Preprocess::cifar10(), 3).unwrap()
    }

    /// Two pixels of known colours, normalised.
    fn image(p: [[f32; 3]; 2]) -> Vec<f32> {
        let palette = palette();
        (0..3).flat_map(|c| p.map(|p| (p[c] - palette.offset[c]) / palette.factor[c])).collect()
    }

    fn check(factors: [f32; 3], from: [[f32; 3]; 2], to: [[f32; 3]; 2]) {
        let mut x = image(from);
        apply(&mut x, &palette(), factors);
        for (a, b) in x.iter().zip(image(to)) {
            assert!((a - b).abs() < 1e-5, "{factors:?}: {x:?}");
        }
    }

    #[test]
    fn by_hand() {
        let from = [[0.2, 0.4, 0.6], [1.0, 0.5, 0.0]];
        check([1.0; 3], from, from);
        check([1.5, 1.0, 1.0], from, [[0.3, 0.6, 0.9], [1.0, 0.75, 0.0]]);
        // Greys: 0.363 and 0.5925, their mean 0.47775.
        let half = |x: f32| 0.5 * x + 0.5 * 0.477_75;
        check([1.0, 0.5, 1.0], from, from.map(|p| p.map(half)));
        check([1.0, 1.0, 0.0], from, [[0.363; 3], [0.5925; 3]]);
    }

    #[test]
    fn draws_are_of_the_image_alone_and_within_the_strength() {
        let run = |epoch, index| {
            let mut x = image([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]);
            jitter(&mut x, &palette(), 0.2, 1, epoch, index);
            x
        };
        assert_eq!(run(2, 3), run(2, 3));
        assert_ne!(run(2, 3), run(2, 4));
        assert_ne!(run(2, 3), run(3, 3));
        // Of grey, only the brightness changes: by up to a fifth.
        let all: Vec<f32> = (0..200).map(|i| run(0, i)[0] * palette().factor[0] + palette().offset[0]).collect();
        assert!(all.iter().all(|x| (0.4 - 1e-5..=0.6 + 1e-5).contains(x)));
        assert!(all.iter().any(|x| *x < 0.42) && all.iter().any(|x| *x > 0.58));
    }

    #[test]
    fn other_images_are_refused() {
        assert!(Palette::new(&Preprocess::raw(), 1).unwrap_err().to_string().contains("color"));
    }
}
