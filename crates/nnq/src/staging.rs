//! A result that appears whole or not at all.
use crate::error::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// A folder beside the file that is to be written, where the file (and its external data) stays until everything has
/// succeeded. Made before the work begins, so that a place that cannot be written to shows at once. Removed on errors.
pub struct Staging {
    folder: tempfile::TempDir,
    out: PathBuf,
    name: std::ffi::OsString,
}

impl Staging {
    /// A place beside `out`.
    ///
    /// # Errors
    /// When `out` cannot be a file, or nothing can be written beside it.
    pub fn new(out: &Path) -> Result<Self> {
        let usage = |cause: &str| Error::usage(cause).at(out.display()).cure("name the file to write");
        let name = out.file_name().ok_or_else(|| usage("this is no name of a file"))?.to_owned();
        if out.is_dir() {
            return Err(usage("this is a folder"));
        }
        let beside = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = tempfile::Builder::new().prefix(".nnq-").tempdir_in(beside).map_err(|e| Error::io(out, e))?;
        Ok(Self { folder, out: out.to_owned(), name })
    }
    /// Where the file is to be written.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }
    /// An error of writing there, with the place that the user knows.
    pub fn error(&self, e: Error) -> Error {
        let e = if e.kind() == ErrorKind::Io { Error::new(ErrorKind::Io, e.cause()) } else { e };
        e.at(self.out.display())
    }
    /// Moves everything to its place, the model last.
    ///
    /// # Errors
    /// When a file cannot be moved.
    pub fn finish(self) -> Result<()> {
        let io = |e| Error::io(&self.out, e);
        for entry in std::fs::read_dir(self.folder.path()).map_err(io)? {
            let entry = entry.map_err(io)?;
            if entry.file_name() != self.name {
                std::fs::rename(entry.path(), self.out.with_file_name(entry.file_name())).map_err(io)?;
            }
        }
        std::fs::rename(self.path(), &self.out).map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("m.onnx");
        let names = || {
            let mut n: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            n.sort();
            n
        };
        let fill = |s: &Staging| {
            std::fs::write(s.path(), "model").unwrap();
            std::fs::write(s.path().with_file_name("m.onnx.data"), "data").unwrap();
        };
        let s = Staging::new(&out).unwrap();
        fill(&s);
        assert!(!out.exists());
        drop(s);
        assert!(names().is_empty());
        let s = Staging::new(&out).unwrap();
        fill(&s);
        s.finish().unwrap();
        assert_eq!(names(), ["m.onnx", "m.onnx.data"]);
        assert!(
            Staging::new(dir.path()).is_err()
                && Staging::new(&out.join("x")).is_err()
                && Staging::new(Path::new("..")).is_err()
        );
    }
}
