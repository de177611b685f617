//! Which vectors the float kernels use.
use super::vector::{Plain, Work};

/// Vectors for binary32. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatIsa {
    /// One number at a time, on every machine.
    Scalar,
    /// 256 bits with fused multiply-add.
    Avx2Fma,
    /// 512 bits.
    Avx512,
}

impl FloatIsa {
    /// Every one, slowest first.
    pub const fn all() -> &'static [Self] {
        &[Self::Scalar, Self::Avx2Fma, Self::Avx512]
    }

    /// Whether this machine can run it.
    pub fn is_supported(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use super::vector::{Wide8, Wide16};
            match self {
                Self::Scalar => true,
                Self::Avx2Fma => Wide8::new().is_some(),
                Self::Avx512 => Wide16::new().is_some(),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Scalar
        }
    }

    /// The fastest one that this machine can run.
    pub fn best() -> Self {
        let mut fastest_first = Self::all().iter().rev().copied();
        fastest_first.find(|isa| isa.is_supported()).unwrap_or(Self::Scalar)
    }

    /// Floats of one vector.
    pub(super) const fn lanes(self) -> usize {
        match self {
            Self::Scalar => 1,
            Self::Avx2Fma => 8,
            Self::Avx512 => 16,
        }
    }

    /// Floats of a panel of output channels.
    pub(super) const fn panel(self) -> usize {
        match self {
            Self::Scalar => 2,
            Self::Avx2Fma => 16,
            Self::Avx512 => 64,
        }
    }

    /// Runs `work` with these vectors.
    ///
    /// # Panics
    /// When this machine does not have them.
    pub(super) fn run(self, work: impl Work) {
        #[cfg(target_arch = "x86_64")]
        {
            use super::vector::{Lanes, Wide8, Wide16};
            const LACKS: &str = "this machine does not have these vectors";
            match self {
                Self::Scalar => work.call(Plain),
                Self::Avx2Fma => Wide8::new().expect(LACKS).run(work),
                Self::Avx512 => Wide16::new().expect(LACKS).run(work),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        work.call(Plain);
    }
}
