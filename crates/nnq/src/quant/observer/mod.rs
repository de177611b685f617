//! What calibration remembers about a value.
//!
//! An observer sees values and decides nothing: ranges are chosen afterwards, from the same statistics, for any bit
//! width and method ([`crate::quant::range`]). Everything here merges exactly, so that calibration can be sharded over
//! threads and machines and interrupted.
//!
//! To add an observer: a file here that implements [`Observer`], an arm in [`Statistics`] and one in [`ObserverKind`].
mod channel;
mod count;
mod extremes;
mod sketch;
#[cfg(test)]
mod tests;

pub use channel::ChannelSketch;
pub use count::Counter;
pub use extremes::Extremes;
pub use sketch::{COARSEST, FINE, FINEST, MAX_COUNT, Segment, Sketch};

pub(crate) use sketch::magnitudes;

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Statistics that can be fed and merged.
pub trait Observer: Send {
    /// Sees the elements of one calibration sample (row-major, of `shape`). `sample` is its index in the calibration
    /// set.
    ///
    /// # Errors
    /// When the shape does not fit the observer or its counts would overflow.
    fn observe(&mut self, sample: u64, shape: &[usize], data: &[f32]) -> Result<()>;
    /// Adds what `other` has seen. Associative, commutative, and equal to having seen both.
    ///
    /// # Errors
    /// When the two do not fit each other; `self` is unchanged then.
    fn merge(&mut self, other: &Self) -> Result<()>
    where
        Self: Sized;
}

impl Observer for Sketch {
    fn observe(&mut self, sample: u64, _shape: &[usize], data: &[f32]) -> Result<()> {
        self.observe_sample(sample, data)
    }
    fn merge(&mut self, other: &Self) -> Result<()> {
        Self::merge(self, other)
    }
}

/// Which statistics to collect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ObserverKind {
    /// One sketch of all elements.
    Tensor,
    /// One coarser sketch per index of `axis`.
    Channel {
        /// The channel axis.
        axis: usize,
    },
}

impl ObserverKind {
    /// Empty statistics of this kind.
    pub fn start(self) -> Statistics {
        match self {
            Self::Tensor => Statistics::Tensor(Sketch::new()),
            Self::Channel { axis } => Statistics::Channel(ChannelSketch::new(axis)),
        }
    }
}

/// The statistics of one value, of any kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Statistics {
    /// Over all elements.
    Tensor(Sketch),
    /// By channel.
    Channel(ChannelSketch),
}

impl Statistics {
    /// The kind.
    pub fn kind(&self) -> ObserverKind {
        match self {
            Self::Tensor(_) => ObserverKind::Tensor,
            Self::Channel(c) => ObserverKind::Channel { axis: c.axis() },
        }
    }
    /// The sketch of all elements.
    ///
    /// # Errors
    /// When only channels were observed.
    pub fn tensor(&self) -> Result<&Sketch> {
        match self {
            Self::Tensor(s) => Ok(s),
            Self::Channel(_) => Err(Error::usage("the statistics are per channel, not of the whole tensor")
                .cure("calibrate again with an observer of the whole tensor")),
        }
    }
}

impl Observer for Statistics {
    fn observe(&mut self, sample: u64, shape: &[usize], data: &[f32]) -> Result<()> {
        match self {
            Self::Tensor(s) => s.observe_sample(sample, data),
            Self::Channel(c) => c.observe(sample, shape, data),
        }
    }
    fn merge(&mut self, other: &Self) -> Result<()> {
        match (self, other) {
            (Self::Tensor(a), Self::Tensor(b)) => a.merge(b),
            (Self::Channel(a), Self::Channel(b)) => a.merge(b),
            (a, b) => {
                Err(Error::usage(format!("statistics of kinds {:?} and {:?} cannot be merged", a.kind(), b.kind())))
            }
        }
    }
}
