//! What was chosen for kernels by trying, in a file of the user's cache folder: one for each kind of machine.
use crate::{
    error::{Error, Result},
    exec::int::Choices,
    machine::Machine,
    staging::Staging,
};
use etcetera::BaseStrategy;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The folder of the cache, where it is not that of the user's other programs.
pub const FOLDER_VARIABLE: &str = "NNQ_CACHE";

/// Choices, and the file that they are kept in.
pub struct Tuning {
    path: PathBuf,
    kept: Kept,
}

/// The file.
#[derive(Serialize, Deserialize, PartialEq)]
struct Kept {
    /// Of nnq: other kernels, other times.
    version: String,
    machine: Machine,
    choices: Choices,
}

impl Tuning {
    /// What is known of this machine, in the folder that `NNQ_CACHE` names or in that of the user's caches.
    ///
    /// # Errors
    /// When there is no such folder, or the file is no such file.
    pub fn open() -> Result<Self> {
        let folder = match std::env::var_os(FOLDER_VARIABLE) {
            Some(folder) => PathBuf::from(folder),
            None => etcetera::choose_base_strategy()
                .map_err(|e| Error::usage(format!("the folder for caches is not known: {e}")).cure("set NNQ_CACHE"))?
                .cache_dir()
                .join("nnq"),
        };
        Self::in_folder(&folder)
    }

    fn in_folder(folder: &Path) -> Result<Self> {
        let machine = Machine::here();
        let identity = format!("{} {:?}", machine.cpu, machine.features);
        let hash: String = Sha256::digest(identity).iter().take(8).map(|b| format!("{b:02x}")).collect();
        let path = folder.join(format!("tuning-{hash}.json"));
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let fresh = Kept { version, machine, choices: Choices::new() };
        let kept = match std::fs::read_to_string(&path) {
            Ok(text) => {
                let damaged = |e: serde_json::Error| {
                    Error::malformed(format!("no choices that nnq has kept: {e}"))
                        .at(path.display())
                        .cure("delete the file: it is made again")
                };
                let kept: Kept = serde_json::from_str(&text).map_err(damaged)?;
                // Another nnq's, or another machine's with as many features.
                if (&kept.version, &kept.machine) == (&fresh.version, &fresh.machine) { kept } else { fresh }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => fresh,
            Err(e) => return Err(Error::io(&path, e)),
        };
        Ok(Self { path, kept })
    }

    /// Where they are kept.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The choices.
    pub fn choices(&mut self) -> &mut Choices {
        &mut self.kept.choices
    }

    /// Keeps them.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self) -> Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        let text = serde_json::to_string_pretty(&self.kept)
            .map_err(|e| Error::internal(format!("choices cannot be written: {e}")))?;
        let staging = Staging::new(&self.path)?;
        std::fs::write(staging.path(), text).map_err(|e| staging.error(Error::io(&staging.path(), e)))?;
        staging.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnq_kernels::tape::{Choice, Split};

    #[test]
    fn choices_are_kept_for_this_machine_and_version() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("nnq");
        let mut tuning = Tuning::in_folder(&folder).unwrap();
        assert!(tuning.choices().is_empty());
        let split = Some(Split { by_panels: true, pieces: 4 });
        tuning.choices().insert("a step".into(), Choice { split, ..Choice::default() });
        tuning.save().unwrap();
        let mut again = Tuning::in_folder(&folder).unwrap();
        assert_eq!(again.choices()["a step"].split, split);

        let path = again.path().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let other = text.replace(&format!("\"{}\"", env!("CARGO_PKG_VERSION")), "\"0.0.0\"");
        std::fs::write(&path, other).unwrap();
        assert!(Tuning::in_folder(&folder).unwrap().choices().is_empty());

        std::fs::write(&path, &text[..text.len() / 2]).unwrap();
        let e = Tuning::in_folder(&folder).err().unwrap().to_string();
        assert!(e.contains("tuning-") && e.contains("delete the file"), "{e}");
    }
}
