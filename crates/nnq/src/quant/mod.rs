//! Floor 3: quantization.
