//! How biases make up for what rounding weights does to a layer's mean.
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{fmt, str::FromStr};

/// How biases are corrected. Written as `false`, `"empirical"` (or `true`) or `"analytic"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BiasCorrection {
    /// Not at all.
    #[default]
    Off,
    /// So that each layer is right on average over calibration samples, layer by layer, with the network quantized up to it.
    Empirical,
    /// By `-E[W_q - W] E[x]` with the expected input of each channel: that of the batch normalisation and the ReLU before the layer (no data), or as measured in
    /// the float network where there is none (Nagel et al., 2019, section 4.2).
    Analytic,
}

impl fmt::Display for BiasCorrection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Empirical => "empirical",
            Self::Analytic => "analytic",
        })
    }
}

impl FromStr for BiasCorrection {
    type Err = crate::Error;
    fn from_str(s: &str) -> crate::Result<Self> {
        [Self::Off, Self::Empirical, Self::Analytic].into_iter().find(|b| b.to_string() == s).ok_or_else(|| {
            crate::Error::usage(format!("no correction of biases is called '{s}'"))
                .cure("use empirical, analytic or off")
        })
    }
}

impl Serialize for BiasCorrection {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => s.serialize_bool(false),
            other => s.collect_str(other),
        }
    }
}

impl<'de> Deserialize<'de> for BiasCorrection {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "true, false, \"empirical\" or \"analytic\"")]
        enum Form {
            Switch(bool),
            Name(String),
        }
        match Form::deserialize(d)? {
            Form::Switch(on) => Ok(if on { Self::Empirical } else { Self::Off }),
            Form::Name(name) => name.parse().map_err(D::Error::custom),
        }
    }
}
