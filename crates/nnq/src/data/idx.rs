//! IDX files (MNIST and its relatives), plain or gzip.
//!
//! Format: two zero bytes, a type code (8 = unsigned byte), the number of dimensions, each dimension as a big-endian u32,
//! then the elements.
use super::store::inflate;
use crate::{
    error::{At, Error, Result},
    ir::count,
};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use std::{
    io::{Cursor, Read},
    path::{Path, PathBuf},
};

/// Unsigned bytes with their dimensions.
pub(super) struct Idx {
    pub shape: Vec<usize>,
    pub data: Bytes,
}

/// Whether the content may be an IDX file or a gzip file.
pub(super) fn looks_like(start: &[u8]) -> bool {
    start.starts_with(&[0x1F, 0x8B]) || matches!(start, [0, 0, 8..=0xE, 1..=4, ..])
}

pub(super) fn open(path: &Path) -> Result<Idx> {
    let bytes = nnq_kernels::mmap::map(path).map_err(|e| Error::io(path, e))?;
    read(bytes).at(|| path.display())
}

fn read(bytes: Bytes) -> Result<Idx> {
    if !bytes.starts_with(&[0x1F, 0x8B]) {
        let (shape, offset) = header(&mut Cursor::new(&bytes))?;
        let expected = count(&shape)?;
        let found = bytes.len() - offset.len();
        if expected != found {
            return Err(Error::malformed(format!(
                "the IDX header says {shape:?}, that is {expected} bytes, but {found} follow"
            )));
        }
        return Ok(Idx { shape, data: bytes.slice(offset.len()..) });
    }
    let mut gzip = MultiGzDecoder::new(Cursor::new(&bytes));
    let (shape, start) = header(&mut gzip)?;
    let offset = start.len();
    let total =
        (offset as u64).checked_add(count(&shape)? as u64).ok_or_else(|| Error::malformed("a file too large"))?;
    let all = inflate(start, gzip, total).at(|| format!("IDX {shape:?}"))?;
    Ok(Idx { shape, data: all.slice(offset..) })
}

/// The dimensions and the header's bytes.
fn header(reader: &mut impl Read) -> Result<(Vec<usize>, Vec<u8>)> {
    let mut bytes = vec![0; 4];
    let mut fill = |bytes: &mut [u8]| {
        reader.read_exact(bytes).map_err(|e| Error::malformed(format!("the IDX header is truncated or corrupt: {e}")))
    };
    fill(&mut bytes)?;
    let rank = match bytes[..] {
        [0, 0, 8, rank @ 1..=4] => usize::from(rank),
        [0, 0, kind @ (9 | 0xB..=0xE), _] => {
            return Err(Error::unsupported(format!(
                "an IDX file of type 0x{kind:02x}: only unsigned bytes (0x08) are read"
            )));
        }
        _ => return Err(Error::malformed("the content is no IDX file of unsigned bytes in 1 to 4 dimensions")),
    };
    let mut dims = vec![0; 4 * rank];
    fill(&mut dims)?;
    let shape: Vec<usize> =
        dims.chunks_exact(4).map(|d| u32::from_be_bytes([d[0], d[1], d[2], d[3]]) as usize).collect();
    count(&shape)?;
    bytes.extend(dims);
    Ok((shape, bytes))
}

/// The file of labels that belongs to a file of images: `images-idx3` becomes `labels-idx1`, with or without `.gz`.
pub(super) fn labels_beside(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    if !name.contains("images") {
        return None;
    }
    let name = name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1");
    let plain = name.strip_suffix(".gz").unwrap_or(&name).to_owned();
    [name, format!("{plain}.gz"), plain].into_iter().map(|n| images.with_file_name(n)).find(|p| p.is_file())
}
