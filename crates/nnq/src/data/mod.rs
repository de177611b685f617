//! Floor 2: data sets and preprocessing.
