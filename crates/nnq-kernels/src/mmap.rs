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

/// The pages of `bytes`, and those around them that the system brought along, leave the memory of this process if they are of a file that [`map`] mapped; they come
/// back when somebody reads them. Other bytes stay as they are, and so does everything where the system cannot do it.
pub fn release(bytes: &[u8]) {
    let start = bytes.as_ptr() as usize;
    let maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    for map in maps.iter().filter_map(Weak::upgrade) {
        let Some(at) = start.checked_sub(map.as_ptr() as usize) else { continue };
        if at + bytes.len() <= map.len() {
            let (from, to) = (at.saturating_sub(AROUND), (at + bytes.len() + AROUND).min(map.len()));
            #[cfg(unix)]
            // SAFETY: a private read-only map of a file holds no bytes of its own: pages that are dropped are read from the file
            // again. An error leaves them where they are.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, to - from) };
        }
    }
}

/// Linux maps so many bytes around a page that is missing (`fault_around_bytes`).
const AROUND: usize = 64 << 10;

/// Gives back to the system what the allocator holds without need, where it can be asked to: after work that took much in many
/// small pieces.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has the allocator keep what is given back to it, where it can be told to: for work that takes and gives back large blocks over and over, which the
/// system would fill with zeros each time. All blocks then come from one place, so threads that take many small ones wait for each other. Call it before
/// there are threads, which have places of their own from then on.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time, from any thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
    }
}

/// The pages of the program's own code leave the memory of this process; those that are needed come back from its file. For the moment when a model
/// is read and prepared: what runs it needs little of the code. Does nothing where the system cannot, or under a debugger.
pub fn forget_code() {
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    {
        let read = |name: &str| std::fs::read_to_string(name).unwrap_or_default();
        let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
        // A debugger's breakpoints are changes of the code, which would be lost.
        let traced = !read("/proc/self/status").lines().any(|l| l.split_whitespace().eq(["TracerPid:", "0"]));
        if traced || program.as_os_str().is_empty() {
            return;
        }
        for line in read("/proc/self/maps").lines() {
            let parts: Vec<&str> = line.split_whitespace().collect();
            let &[range, "r-xp", _, _, _, path] = &parts[..] else { continue };
            let ends = range.split_once('-').map(|(a, b)| (usize::from_str_radix(a, 16), usize::from_str_radix(b, 16)));
            let Some((Ok(start), Ok(end))) = ends else { continue };
            if std::path::Path::new(path) == program && start < end {
                // SAFETY: a private map of the program's file that cannot be written to and, without a debugger, never was: on machines of
                // 64 bits linkers leave no relocations in code. Pages that are dropped are read from the file again. An error leaves them where
                // they are.
                let _ = unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgotten_code_runs_on() {
        // Kilobytes of code of this program that is resident.
        #[cfg(target_os = "linux")]
        let resident = || -> u64 {
            let program = std::fs::read_link("/proc/self/exe").unwrap();
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let (mut ours, mut sum) = (false, 0);
            for line in smaps.lines() {
                let parts: Vec<&str> = line.split_whitespace().collect();
                match parts[..] {
                    [_, perms, _, _, _, path] if perms.len() == 4 => {
                        ours = perms == "r-xp" && program == std::path::Path::new(path)
                    }
                    ["Rss:", kilobytes, "kB"] if ours => sum += kilobytes.parse::<u64>().unwrap(),
                    _ => {}
                }
            }
            sum
        };
        #[cfg(target_os = "linux")]
        let before = resident();
        forget_code();
        #[cfg(target_os = "linux")]
        assert!(resident() < before, "{before} kB before, {} kB after", resident());
        assert_eq!((1..=10).product::<u64>(), 3_628_800);
    }

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
