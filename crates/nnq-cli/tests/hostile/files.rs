//! Data files of a few bytes each.
use super::onnx;
use std::path::Path;

/// Gray, and four inks: 8 x 8 pixels each.
pub const GRAY_JPEG: &[u8] = include_bytes!("gray.jpg");
pub const CMYK_JPEG: &[u8] = include_bytes!("cmyk.jpg");

/// Writes a file and the folders above it.
pub fn put(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders can be made");
    std::fs::write(path, content).expect("files can be written");
}

/// A BMP picture of 24 bits whose pixels depend on `seed`; width a multiple of 4.
pub fn bmp(width: u32, height: u32, seed: u32) -> Vec<u8> {
    let pixels: Vec<u8> = (0..width * height * 3).map(|i| ((i * (37 + 2 * seed) + 11 * seed) % 251) as u8).collect();
    let mut out = b"BM".to_vec();
    for n in
        [54 + pixels.len() as u32, 0, 54, 40, width, height, 1 | 24 << 16, 0, pixels.len() as u32, 2835, 2835, 0, 0]
    {
        out.extend(n.to_le_bytes());
    }
    out.extend(pixels);
    out
}

/// An `.npy` file with any header.
pub fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
}

/// Binary32 numbers as an `.npy` file.
pub fn floats(shape: &str, values: &[f32]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    npy(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"), &data)
}

/// CIFAR-10 records: label byte and 3072 bytes each.
pub fn cifar(records: usize) -> Vec<u8> {
    (0..records)
        .flat_map(|r| std::iter::once((r % 10) as u8).chain((0..3072).map(move |i| ((i * 31 + r * 977) % 256) as u8)))
        .collect()
}

/// `m.onnx`, the sound small network.
pub fn model(f: &Path) {
    put(f, "m.onnx", onnx::net().build());
}

/// `data/`: a folder of CIFAR-10 with eight pictures to calibrate on and four to evaluate.
pub fn pictures(f: &Path) {
    put(f, "data/data_batch_1.bin", cifar(8));
    put(f, "data/test_batch.bin", cifar(4));
}

/// Both.
pub fn sound(f: &Path) {
    model(f);
    pictures(f);
}
