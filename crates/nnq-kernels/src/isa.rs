//! The instruction sets, which of them this machine has, and the one place that dispatches.
//!
//! A new instruction set is one file in `simd/`, one variant of [`Isa`] and one line in `dispatch`.
use std::{fmt, str::FromStr};

/// The environment variable that forces an instruction set.
pub const ISA_VARIABLE: &str = "NNQ_ISA";

/// An instruction set that the kernels are written for. The scalar code is the specification; all
/// others give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain loops, on every machine.
    Scalar,
    /// AVX2: `vpmaddubsw` where the weights prove that no sum of two products exceeds 16 bits; elsewhere bytes are widened to
    /// 16 bits and multiplied with `vpmaddwd`.
    Avx2,
    /// AVX-VNNI: `vpdpbusd` on 256 bits.
    AvxVnni,
    /// AVX-512 with VNNI: `vpdpbusd` on 512 bits.
    Avx512Vnni,
    /// AMX: `tdpbusd` on tiles for convolutions and matrix products, everything else as
    /// [`Isa::Avx512Vnni`].
    AmxInt8,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const fn all() -> &'static [Isa] {
        &[Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512Vnni, Isa::AmxInt8]
    }

    /// The name used by `NNQ_ISA` and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avx-vnni",
            Isa::Avx512Vnni => "avx512-vnni",
            Isa::AmxInt8 => "amx-int8",
        }
    }

    /// Whether this machine can run it.
    pub fn is_supported(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use crate::simd;
            match self {
                Isa::Scalar => true,
                Isa::Avx2 => simd::avx2::Avx2::new().is_some(),
                Isa::AvxVnni => simd::avxvnni::AvxVnni::new().is_some(),
                Isa::Avx512Vnni => simd::avx512::Avx512Vnni::new().is_some(),
                Isa::AmxInt8 => simd::amx::Amx::new().is_some(),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Isa::Scalar
        }
    }

    /// Whether its vectors have 512 bits.
    pub(crate) fn has_512_bits(self) -> bool {
        matches!(self, Isa::Avx512Vnni | Isa::AmxInt8)
    }

    /// The fastest one that this machine can run.
    pub fn best() -> Isa {
        let mut fastest_first = Isa::all().iter().rev().copied();
        fastest_first.find(|isa| isa.is_supported()).unwrap_or(Isa::Scalar)
    }

    /// The one named by `NNQ_ISA`, or the fastest when the variable is not set.
    ///
    /// # Errors
    /// When the variable names none of them, or one that this machine cannot run.
    pub fn from_env() -> Result<Isa, IsaError> {
        let Some(value) = std::env::var_os(ISA_VARIABLE) else {
            return Ok(Isa::best());
        };
        let isa: Isa = value.to_string_lossy().parse()?;
        if isa.is_supported() { Ok(isa) } else { Err(IsaError { name: isa.name().to_owned(), known: true }) }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Isa, IsaError> {
        let found = Isa::all().iter().find(|isa| isa.name() == name);
        found.copied().ok_or_else(|| IsaError { name: name.to_owned(), known: false })
    }
}

/// An instruction set that does not exist or that this machine does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsaError {
    name: String,
    known: bool,
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = match self.known {
            true => "this machine does not have the instruction set",
            false => "unknown instruction set",
        };
        write!(f, "{fault} '{}'; available here:", self.name)?;
        for isa in Isa::all().iter().filter(|isa| isa.is_supported()) {
            write!(f, " {isa}")?;
        }
        Ok(())
    }
}

impl std::error::Error for IsaError {}

/// Runs `op` with the vectors of `isa`, or answers `None` when the scalar code is to run: for
/// [`Isa::Scalar`].
///
/// # Panics
/// When this machine does not have `isa`.
#[inline]
pub(crate) fn dispatch<O: crate::simd::Op>(isa: Isa, op: O) -> Option<O::Out> {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::simd::{Simd, avx2::Avx2, avx512::Avx512Vnni, avxvnni::AvxVnni};
        match isa {
            Isa::Scalar => None,
            Isa::Avx2 => Some(Avx2::new().unwrap_or_else(|| panic!("{LACKS} {isa}")).run(op)),
            Isa::AvxVnni => Some(AvxVnni::new().unwrap_or_else(|| panic!("{LACKS} {isa}")).run(op)),
            Isa::Avx512Vnni => Some(Avx512Vnni::new().unwrap_or_else(|| panic!("{LACKS} {isa}")).run(op)),
            Isa::AmxInt8 => Some(tiles(isa)?.vectors().run(op)),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = op;
        assert!(isa == Isa::Scalar, "{LACKS} {isa}");
        None
    }
}

const LACKS: &str = "this machine does not have the instruction set";

/// The tiles of [`Isa::AmxInt8`]; `None` for all others.
///
/// # Panics
/// When this machine does not have `isa`.
#[cfg(target_arch = "x86_64")]
pub(crate) fn tiles(isa: Isa) -> Option<crate::simd::amx::Amx> {
    (isa == Isa::AmxInt8).then(|| crate::simd::amx::Amx::new().unwrap_or_else(|| panic!("{LACKS} {isa}")))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The instruction sets to test here; those missing are printed.
    #[allow(clippy::print_stderr)]
    pub(crate) fn tested() -> Vec<Isa> {
        let (have, lack): (Vec<Isa>, Vec<Isa>) = Isa::all().iter().partition(|isa| isa.is_supported());
        for isa in lack {
            eprintln!("NOT TESTED: this machine does not have the instruction set {isa}");
        }
        have
    }

    #[test]
    fn names_parse_and_unknown_names_list_what_there_is() {
        for &isa in Isa::all() {
            assert_eq!(isa.name().parse(), Ok(isa));
            assert_eq!(isa.to_string(), isa.name());
        }
        let message = "sse9".parse::<Isa>().unwrap_err().to_string();
        assert!(message.contains("'sse9'"), "{message}");
        assert!(message.contains("available here: scalar"), "{message}");
    }

    #[test]
    fn best_is_supported() {
        assert!(Isa::Scalar.is_supported());
        assert!(Isa::best().is_supported());
        assert!(tested().contains(&Isa::best()));
    }
}
