//! Read-only memory maps behind a safe interface.
use memmap2::Mmap;
use std::{
    fs::File,
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// The maps that are in use, for [`release`].
static MAPS: Mutex<Vec<Weak<Mmap>>> = Mutex::new(Vec::new());

/// Keeps a map alive.
struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

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
    let map = Arc::new(unsafe { Mmap::map(&file)? });
    let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    maps.retain(|m| m.strong_count() > 0);
    maps.push(Arc::downgrade(&map));
    Ok(bytes::Bytes::from_owner(Owner(map)))
}

/// The pages of `bytes` leave the memory of this process if they are of a file that [`map`] mapped; they come back when
/// somebody reads them. Other bytes stay as they are, and so does everything where the system cannot do it.
pub fn release(bytes: &[u8]) {
    let start = bytes.as_ptr() as usize;
    let maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    for map in maps.iter().filter_map(Weak::upgrade) {
        let Some(at) = start.checked_sub(map.as_ptr() as usize) else { continue };
        if at + bytes.len() <= map.len() {
            #[cfg(unix)]
            // SAFETY: a private read-only map of a file holds no bytes of its own: pages that are dropped are read from the file
            // again. An error leaves them where they are.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at, bytes.len()) };
        }
    }
}

/// Gives back to the system what the allocator holds without need, where it can be asked to: after work that took much in many
/// small pieces.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_bytes_come_back() {
        let path = std::env::temp_dir().join(format!("nnq-map-{}", std::process::id()));
        let content: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let bytes = map(&path).unwrap();
        release(&bytes[5000..90_000]);
        assert!(bytes[..] == content[..]);
        // Memory of another kind keeps what it holds.
        release(&content);
        assert!(content[77] == 77 && content.len() == bytes.len());
        std::fs::remove_file(&path).unwrap();
    }
}
