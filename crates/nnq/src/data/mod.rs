//! Floor 2: data sets and preprocessing.
//!
//! [`Dataset::open`] finds out what a path holds, [`Preprocess`] says what becomes of a sample, [`Loader`] decodes in the
//! background and gives batches in data order, [`ClassMap`] and [`Accuracy`] judge a model's answers. See `docs/data.md`.
mod cifar;
mod classes;
mod dataset;
mod folder;
mod idx;
mod image;
mod jpeg;
mod kept;
mod loader;
mod metrics;
mod npy;
mod npz;
mod preprocess;
mod resize;
mod store;
mod subset;
mod text;

pub use classes::{ClassMap, ClassRow, read_classes};
pub use dataset::{Dataset, Options, Sample, Split};
pub use image::{Image, MAX_FILE, MAX_PIXELS};
pub use kept::{Keeping, Kept};
pub use loader::{Batch, Loader, Settings};
pub use metrics::{Accuracy, paired_difference};
pub use npy::{NpyArray, save_npy};
pub use npz::save_npz;
pub use preprocess::{Color, Layout, PRESETS, Preprocess, Resize};
pub use resize::{Filter, resize};
pub use subset::mix;
pub use subset::{Choice, subset};
pub use text::{Text, Tokens};
