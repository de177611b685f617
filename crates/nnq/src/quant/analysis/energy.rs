//! Signal and noise of two versions of a value.

/// Sums over all elements `x` of a reference and `y` of its quantized version. The sums are taken in the order of the elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Energy {
    /// `sum x^2`.
    pub signal: f64,
    /// `sum (x - y)^2`.
    pub noise: f64,
    /// `sum x y`.
    pub dot: f64,
    /// `sum y^2`.
    pub other: f64,
}

impl Energy {
    /// Adds elements.
    pub fn add(&mut self, x: &[f32], y: &[f32]) {
        for (&x, &y) in x.iter().zip(y) {
            let (x, y) = (f64::from(x), f64::from(y));
            self.signal += x * x;
            self.noise += (x - y) * (x - y);
            self.dot += x * y;
            self.other += y * y;
        }
    }
    /// Signal-to-quantization-noise ratio `10 log10(signal / noise)` in dB; infinite without noise, 0 without signal.
    pub fn sqnr_db(&self) -> f64 {
        match (self.signal > 0.0, self.noise > 0.0) {
            (_, false) => f64::INFINITY,
            (false, true) => 0.0,
            (true, true) => 10.0 * libm::log10(self.signal / self.noise),
        }
    }
    /// `noise / signal`; 0 without signal.
    pub fn ratio(&self) -> f64 {
        if self.signal > 0.0 { self.noise / self.signal } else { 0.0 }
    }
    /// Cosine of the angle between the two; 1 where both are zero.
    pub fn cosine(&self) -> f64 {
        let size = (self.signal * self.other).sqrt();
        if size > 0.0 { (self.dot / size).clamp(-1.0, 1.0) } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let mut e = Energy::default();
        e.add(&[3.0, 4.0], &[3.0, 3.0]);
        // 25 to 1; (9 + 12) / (5 sqrt 18).
        assert!((e.sqnr_db() - 13.979_400_086_720_377).abs() < 1e-12);
        assert!((e.cosine() - 21.0 / (5.0 * 18f64.sqrt())).abs() < 1e-15);
        assert!((e.ratio() - 0.04).abs() < 1e-15);
        assert_eq!(Energy::default().sqnr_db(), f64::INFINITY);
        assert_eq!(Energy::default().cosine(), 1.0);
    }
}
