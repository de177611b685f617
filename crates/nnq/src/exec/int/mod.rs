//! The integer engine.
