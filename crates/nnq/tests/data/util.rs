//! What several tests need.
use nnq::data::{Dataset, Image, Options, Sample};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A file of `tests/data/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(name)
}

/// The folder of real data, if it is there.
pub fn real(sub: &str) -> Option<PathBuf> {
    let root = std::env::var_os("NNQ_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from);
    let path = root.join(sub);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

pub fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The pseudorandom picture of `tools/golden_resize.py`.
pub fn picture(width: usize, height: usize, channels: usize) -> Image {
    let mut state = (width as u32).wrapping_mul(73_856_093)
        ^ (height as u32).wrapping_mul(19_349_663)
        ^ (channels as u32).wrapping_mul(83_492_791);
    let pixels = (0..width * height * channels)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match ((i / 32) % 3, (i / 96) % 2) {
                (2, 0) => 0,
                (2, _) => 255,
                _ => (state >> 24) as u8,
            }
        })
        .collect();
    Image::new(width, height, channels, pixels).unwrap()
}

/// The message of the error of opening `path`.
pub fn refused(path: &Path) -> String {
    Dataset::open(path, &Options::calibration()).unwrap_err().to_string()
}

pub fn image_of(sample: Sample) -> Image {
    match sample {
        Sample::Image { image, .. } => image,
        Sample::Array(t, _) => panic!("an array {t:?}"),
    }
}

/// Reports all failures of a table at once.
pub fn all_ok(failures: Vec<String>) {
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
