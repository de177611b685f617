//! Files as bytes: inflated streams that do not grow memory, and writing that never leaves half a file.
use crate::error::{Error, Result};
use bytes::Bytes;
use std::{
    fs::File,
    io::{BufWriter, Read, Write},
    path::Path,
};

/// Up to this many inflated bytes are kept in memory, more go to a temporary file that is mapped.
const IN_MEMORY: u64 = 16 << 20;

/// A mapped temporary file that lives as long as the bytes.
struct Spilled {
    map: Bytes,
    _file: tempfile::NamedTempFile,
}

impl AsRef<[u8]> for Spilled {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// Reads `start` and then exactly what is left to `total` bytes from a decompressing `reader`.
///
/// # Errors
/// When the stream is corrupt or ends early or goes on: `total` comes from a header within the stream, and bounds what a
/// decompression bomb can write.
pub(super) fn inflate(start: Vec<u8>, mut reader: impl Read, total: u64) -> Result<Bytes> {
    let broken = |e: std::io::Error| Error::malformed(format!("the compressed data is corrupt: {e}"));
    let rest = total.checked_sub(start.len() as u64).ok_or_else(|| Error::internal("more bytes than announced"))?;
    // One byte more than announced shows that the stream goes on.
    let mut reader = reader.by_ref().take(rest + 1);
    let check = |found: u64| match found.cmp(&total) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => {
            Err(Error::malformed(format!("the header announces {total} bytes, the compressed data holds {found}")))
        }
        std::cmp::Ordering::Greater => {
            Err(Error::malformed(format!("the compressed data holds more than the {total} bytes its header announces")))
        }
    };
    if total <= IN_MEMORY {
        let mut bytes = start;
        reader.read_to_end(&mut bytes).map_err(broken)?;
        check(bytes.len() as u64)?;
        return Ok(bytes.into());
    }
    let temp = std::env::temp_dir();
    let mut file = tempfile::NamedTempFile::new().map_err(|e| Error::io(&temp, e))?;
    file.write_all(&start).map_err(|e| Error::io(&temp, e))?;
    let mut found = start.len() as u64;
    let mut chunk = vec![0; 1 << 18];
    loop {
        let n = reader.read(&mut chunk).map_err(broken)?;
        if n == 0 {
            break;
        }
        found += n as u64;
        file.write_all(&chunk[..n])
            .map_err(|e| Error::io(file.path(), e).cure("free some space for temporary files"))?;
    }
    check(found)?;
    let map = nnq_kernels::mmap::map(file.path()).map_err(|e| Error::io(file.path(), e))?;
    Ok(Bytes::from_owner(Spilled { map, _file: file }))
}

/// Writes a file under a temporary name in the same folder and renames it when all is written.
///
/// # Errors
/// Whatever `write` or the file system answers; the temporary file is removed.
pub(super) fn write_atomic(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let name = path.file_name().ok_or_else(|| Error::usage("no file name").at(path.display()))?;
    let mut partial = std::ffi::OsString::from(".");
    partial.push(name);
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(partial);
    let file = File::create(&partial).map_err(|e| Error::io(path, e))?;
    let mut out = BufWriter::new(file);
    let result = write(&mut out)
        .and_then(|()| out.flush().map_err(|e| Error::io(path, e)))
        .and_then(|()| std::fs::rename(&partial, path).map_err(|e| Error::io(path, e)));
    if result.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&partial);
    }
    result
}
