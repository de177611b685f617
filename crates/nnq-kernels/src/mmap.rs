//! Read-only memory maps behind a safe interface.
use std::{fs::File, io, path::Path};

/// Maps the file at `path` read-only.
///
/// The map shares pages with the operating system's cache, so a model of several gigabytes costs
/// address space and not memory. The file must not be changed by another process while it is
/// mapped: a truncation under the map ends the process with SIGBUS, as with every memory map. nnq
/// itself never writes a model in place: it writes a temporary name and renames.
///
/// # Errors
/// Whatever opening or mapping the file answers. An empty file gives empty bytes.
pub fn map(path: &Path) -> io::Result<bytes::Bytes> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(bytes::Bytes::new());
    }
    // SAFETY: the map is read-only and private to this process; the contract about concurrent
    // truncation is documented above.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    Ok(bytes::Bytes::from_owner(map))
}
