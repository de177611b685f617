//! Floor 2: executors.
pub mod float;
