//! NumPy's `.npz` archives: one `.npy` per zip entry.
use super::{
    npy::{Header, NpyArray, header_bytes, write_elements},
    store::{inflate, write_atomic},
};
use crate::{
    error::{At, Error, Result},
    ir::Tensor,
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    io::{Cursor, Read, Write},
    path::Path,
};
use zip::{CompressionMethod, ZipArchive, ZipWriter, read::ZipFile, write::SimpleFileOptions};

/// More entries than any archive of arrays has.
const MAX_ENTRIES: usize = 10_000;

/// The arrays of an archive by name (without `.npy`). Stored entries are views of the memory-mapped file, compressed ones
/// are inflated, the large ones into a temporary file.
///
/// # Errors
/// When the archive or the array `only` in it is malformed. Arrays that are not asked for are not read.
pub(super) fn open(path: &Path, only: impl Fn(&str) -> bool) -> Result<BTreeMap<String, NpyArray>> {
    let bytes = nnq_kernels::mmap::map(path).map_err(|e| Error::io(path, e))?;
    let mut arrays = BTreeMap::new();
    let mut archive = archive(path, &bytes)?;
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).map_err(|e| broken(path, &e))?;
        let Some(name) = npy_name(path, &entry)? else { continue };
        if only(&name) {
            let array = array(&mut entry, &bytes).at(|| format!("array {name:?}")).at(|| path.display())?;
            arrays.insert(name, array);
        }
    }
    Ok(arrays)
}

/// The names of the arrays, with their shapes.
///
/// # Errors
/// When the archive or one of the headers is malformed.
pub(super) fn list(path: &Path) -> Result<Vec<(String, Vec<usize>)>> {
    let bytes = nnq_kernels::mmap::map(path).map_err(|e| Error::io(path, e))?;
    let mut archive = archive(path, &bytes)?;
    let mut found = Vec::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).map_err(|e| broken(path, &e))?;
        let Some(name) = npy_name(path, &entry)? else { continue };
        let (header, _) = start(&mut entry).at(|| format!("array {name:?}")).at(|| path.display())?;
        found.push((name, header.shape));
    }
    Ok(found)
}

fn archive(path: &Path, bytes: &Bytes) -> Result<ZipArchive<Cursor<Bytes>>> {
    let archive = ZipArchive::new(Cursor::new(bytes.clone())).map_err(|e| broken(path, &e))?;
    if archive.len() > MAX_ENTRIES {
        return Err(Error::malformed(format!("an archive of {} entries", archive.len())).at(path.display()));
    }
    Ok(archive)
}

/// The array's name; `None` for entries that are no arrays, which NumPy ignores, too.
fn npy_name(path: &Path, entry: &ZipFile<'_, Cursor<Bytes>>) -> Result<Option<String>> {
    let name = entry.name().map_err(|e| broken(path, &e))?;
    Ok(name.strip_suffix(".npy").map(str::to_owned))
}

fn broken(path: &Path, e: &zip::result::ZipError) -> Error {
    Error::malformed(format!("the zip archive is broken: {e}")).at(path.display())
}

/// Reads enough of an entry to parse the header, in steps, since only the header itself says how long it is.
fn start(entry: &mut impl Read) -> Result<(Header, Vec<u8>)> {
    let mut bytes = Vec::new();
    let fetch = |bytes: &mut Vec<u8>, to: u64, entry: &mut dyn Read| {
        let more = to.saturating_sub(bytes.len() as u64);
        entry.take(more).read_to_end(bytes).map_err(|e| Error::malformed(format!("the zip entry is corrupt: {e}")))
    };
    fetch(&mut bytes, 12, entry)?;
    let length = match bytes.get(6..12) {
        Some(&[1, _, a, b, ..]) => 10 + u64::from(u16::from_le_bytes([a, b])),
        Some(&[_, _, a, b, c, d]) => 12 + u64::from(u32::from_le_bytes([a, b, c, d])),
        _ => 0,
    };
    // The parser refuses longer ones.
    fetch(&mut bytes, length.min(1 << 17), entry)?;
    Ok((Header::parse(&bytes)?, bytes))
}

fn array(entry: &mut ZipFile<'_, Cursor<Bytes>>, archive: &Bytes) -> Result<NpyArray> {
    let (header, begun) = start(entry)?;
    let total = (header.offset as u64)
        .checked_add(header.bytes()? as u64)
        .ok_or_else(|| Error::malformed("an array larger than a file can be"))?;
    if entry.compression() == CompressionMethod::Stored
        && let (Some(at), Ok(size)) = (entry.data_start(), usize::try_from(entry.size()))
        && let Ok(at) = usize::try_from(at)
        && at.checked_add(size).is_some_and(|end| end <= archive.len())
    {
        // Reading to the end checks the CRC.
        std::io::copy(entry, &mut std::io::sink())
            .map_err(|e| Error::malformed(format!("the zip entry is corrupt: {e}")))?;
        return NpyArray::from_bytes(&archive.slice(at..at + size));
    }
    NpyArray::from_bytes(&inflate(begun, entry, total)?)
}

/// Writes tensors as an uncompressed `.npz` archive, atomically like [`super::save_npy`].
///
/// # Errors
/// When writing fails, a name occurs twice, and for bfloat16, which NumPy does not have.
pub fn save_npz(path: &Path, tensors: &[(&str, &Tensor)]) -> Result<()> {
    write_atomic(path, |out| {
        let mut zip = ZipWriter::new(out);
        for (name, tensor) in tensors {
            let large = tensor.data().as_bytes().len() as u64 >= u64::from(u32::MAX) - (1 << 20);
            let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(large);
            zip.start_file(format!("{name}.npy"), options).map_err(|e| broken(path, &e).at(*name))?;
            zip.write_all(&header_bytes(tensor)?)
                .and_then(|()| write_elements(&mut zip, tensor))
                .map_err(|e| Error::io(path, e))?;
        }
        zip.finish().map(drop).map_err(|e| broken(path, &e))
    })
}
