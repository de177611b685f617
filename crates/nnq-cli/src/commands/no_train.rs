//! `nnq train` where training is not built in.
use crate::args::Train;
use nnq::{Error, Result};

/// Says so.
pub fn run(_: &Train) -> Result<()> {
    Err(Error::usage("training is not built into this nnq")
        .cure("build it with: cargo build --release --features train"))
}
