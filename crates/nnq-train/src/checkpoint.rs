//! The state of a run in a file, so that a run that was killed goes on and ends with the same bytes.
//!
//! Layout: `NNQTRAIN`, the version (u32), SHA-256 of the body, the body in postcard's encoding. Written under a temporary name and renamed: what stands
//! under the name is always whole.
use crate::precision::Scaler;
use nnq::{Error, Result, error::At as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{io::Write as _, path::Path};

const MAGIC: [u8; 8] = *b"NNQTRAIN";
const VERSION: u32 = 3;
const HEADER: usize = MAGIC.len() + 4 + 32;

/// The numbers of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Every parameter.
    pub values: Vec<Vec<f32>>,
    /// Running statistics of batch normalisation.
    pub statistics: Vec<Vec<f32>>,
}

/// What a run needs to go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Stands for everything that the result depends on.
    pub key: [u8; 32],
    /// Steps done.
    pub step: u64,
    /// Sum of losses and count of right answers of the epoch so far.
    pub epoch_sums: (f64, u64),
    /// What is trained.
    pub state: State,
    /// Its average over the steps.
    pub average: Option<State>,
    /// Of the optimizer.
    pub optimizer: Vec<Vec<u8>>,
    /// Of the loss.
    pub scaler: Option<Scaler>,
}

/// Stands for everything that a result depends on.
pub fn key(parts: &[&[u8]]) -> [u8; 32] {
    let mut all = Sha256::new();
    for part in [env!("CARGO_PKG_VERSION").as_bytes()].iter().chain(parts) {
        all.update((part.len() as u64).to_le_bytes());
        all.update(part);
    }
    all.finalize().into()
}

impl Checkpoint {
    /// Writes the file.
    ///
    /// # Errors
    /// Names the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let body = postcard::to_stdvec(self).map_err(|e| Error::internal(format!("a checkpoint: {e}")))?;
        let io = |e| Error::io(path, e);
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        // What an ordinary new file would get; the process's mask applies.
        #[cfg(unix)]
        let ordinary = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666);
        #[cfg(unix)]
        builder.permissions(ordinary);
        let mut file = builder.prefix(".checkpoint").tempfile_in(folder).map_err(io)?;
        let digest = Sha256::digest(&body);
        for part in [&MAGIC[..], &VERSION.to_le_bytes(), digest.as_slice(), &body] {
            file.write_all(part).map_err(io)?;
        }
        file.as_file().sync_all().map_err(io)?;
        file.persist(path).map_err(|e| io(e.error))?;
        Ok(())
    }
    /// Reads the file; `None` where there is none.
    ///
    /// # Errors
    /// When it is no whole checkpoint, or one of a run with another key.
    pub fn read(path: &Path, key: [u8; 32]) -> Result<Option<Self>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path, e)),
        };
        let found = Self::from_bytes(&bytes).at(|| path.display())?;
        if found.key != key {
            return Err(Error::usage("the checkpoint belongs to another run: network, data, recipe or options differ")
                .at(path.display())
                .cure("run with the options that it was written with, or remove it"));
        }
        Ok(Some(found))
    }
    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let broken =
            || Error::malformed("no whole checkpoint of this version of nnq").cure("remove it, and train again");
        let (head, body) = bytes.split_at_checked(HEADER).ok_or_else(broken)?;
        let version = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
        if head[..12] != version || Sha256::digest(body).as_slice() != &head[12..] {
            return Err(broken());
        }
        match postcard::take_from_bytes(body) {
            Ok((found, [])) => Ok(found),
            _ => Err(broken()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(x: f32) -> State {
        State { values: vec![vec![x, -0.0], vec![]], statistics: vec![vec![f32::MIN_POSITIVE]] }
    }

    fn state() -> Checkpoint {
        Checkpoint {
            key: [3; 32],
            step: 7,
            epoch_sums: (0.5, 3),
            state: numbers(1.0),
            average: Some(numbers(2.0)),
            optimizer: vec![vec![1, 2], vec![]],
            scaler: Some(Scaler::default()),
        }
    }

    #[test]
    fn files_come_back_and_replace_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.checkpoint");
        assert_eq!(Checkpoint::read(&path, [3; 32]).unwrap(), None);
        state().write(&path).unwrap();
        let later = Checkpoint { step: 8, ..state() };
        later.write(&path).unwrap();
        assert_eq!(Checkpoint::read(&path, [3; 32]).unwrap(), Some(later));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let e = Checkpoint::read(&path, [4; 32]).unwrap_err().to_string();
        assert!(e.contains("run.checkpoint") && e.contains("another run"), "{e}");
    }

    #[test]
    fn damaged_bytes_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        state().write(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        for n in 0..good.len() {
            assert!(Checkpoint::from_bytes(&good[..n]).is_err(), "cut at {n}");
            let mut bad = good.clone();
            bad[n] ^= 0x40;
            assert!(Checkpoint::from_bytes(&bad).is_err(), "byte {n}");
        }
        assert!(Checkpoint::from_bytes(&[&good[..], &[0]].concat()).is_err());
    }
}
