//! Layers that are done, in a file: a run that was killed goes on after the last of them, with the same bytes in the end.
//!
//! Layout: `NNQLAYER`, the key of the run (32 bytes), then one record after the other: length of the body (u32, little-endian), the first 8 bytes of
//! the SHA-256 of key and body, the body (a [`Rounded`] in postcard's encoding). A record that was cut off is as if it were not there.
use super::ptq::Rounded;
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

const MAGIC: [u8; 8] = *b"NNQLAYER";
const CHECK: usize = 8;
/// Longer records are none of ours.
const LONGEST: u32 = 1 << 30;

/// The file.
pub struct Log {
    path: PathBuf,
    file: File,
    key: [u8; 32],
    done: VecDeque<Rounded>,
}

impl Log {
    /// Opens the file of a run, or begins one. `key` stands for everything that the result depends on: what another run left is thrown away.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path, key: [u8; 32]) -> Result<Self> {
        let io = |e| Error::io(path, e);
        let mut options = File::options();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let mut header = [0; MAGIC.len() + 32];
        let mut done = VecDeque::new();
        let mut end = header.len() as u64;
        let whole = file.read_exact(&mut header).is_ok();
        if whole && header[..MAGIC.len()] == MAGIC && header[MAGIC.len()..] == key {
            while let Some((record, length)) = next(&mut file, &key) {
                done.push_back(record);
                end += length;
            }
        } else {
            file.set_len(0).map_err(io)?;
            file.seek(SeekFrom::Start(0)).map_err(io)?;
            file.write_all(&[&MAGIC[..], &key].concat()).map_err(io)?;
        }
        file.set_len(end).map_err(io)?;
        file.seek(SeekFrom::Start(end)).map_err(io)?;
        Ok(Self { path: path.to_owned(), file, key, done })
    }
    /// How many layers are done.
    pub fn len(&self) -> usize {
        self.done.len()
    }
    /// None.
    pub fn is_empty(&self) -> bool {
        self.done.is_empty()
    }
    /// What an earlier run made of the layer, which comes next.
    pub fn next(&mut self, node: &str) -> Option<Rounded> {
        // Layers come in the same order in each run: others are not of this one.
        if self.done.front().is_some_and(|r| r.node != node) {
            self.done.clear();
        }
        self.done.pop_front()
    }
    /// Notes a layer.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, layer: &Rounded) -> Result<()> {
        let body = postcard::to_stdvec(layer).map_err(|e| Error::internal(format!("a layer cannot be noted: {e}")))?;
        let length = u32::try_from(body.len()).ok().filter(|&n| n <= LONGEST);
        // A layer beyond a gigabyte is done again.
        let Some(length) = length else { return Ok(()) };
        let record = [&length.to_le_bytes()[..], &check(&self.key, &body), &body].concat();
        self.file.write_all(&record).map_err(|e| Error::io(&self.path, e).cure("free some space"))
    }
}

fn check(key: &[u8; 32], body: &[u8]) -> [u8; CHECK] {
    let digest: [u8; 32] = Sha256::new().chain_update(key).chain_update(body).finalize().into();
    std::array::from_fn(|i| digest[i])
}

/// The next whole record and its length in the file.
fn next(file: &mut File, key: &[u8; 32]) -> Option<(Rounded, u64)> {
    let mut head = [0; 4 + CHECK];
    file.read_exact(&mut head).ok()?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?);
    let left = file.metadata().ok()?.len().checked_sub(file.stream_position().ok()?)?;
    if length > LONGEST || u64::from(length) > left {
        return None;
    }
    let mut body = vec![0; length as usize];
    file.read_exact(&mut body).ok()?;
    if check(key, &body)[..] != head[4..] {
        return None;
    }
    Some((postcard::from_bytes(&body).ok()?, (head.len() + body.len()) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{QParams, QType};

    fn layer(node: &str, codes: Vec<i32>) -> Rounded {
        let params = QParams::tensor(QType::I8, 0.5, 0);
        Rounded { node: node.into(), params, codes, bias: None, messages: vec!["m".into()] }
    }

    #[test]
    fn layers_come_back_up_to_the_last_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (a, b) = (layer("a", vec![1, -2, 300]), layer("b", vec![4; 100]));
        let mut log = Log::open(&path, [7; 32]).unwrap();
        assert!(log.is_empty());
        log.push(&a).unwrap();
        log.push(&b).unwrap();
        drop(log);
        let whole = std::fs::read(&path).unwrap();
        let first = whole.len() - postcard::to_stdvec(&b).unwrap().len() - 4 - CHECK;
        // Cut off anywhere, changed anywhere: never a wrong layer, and what is whole stays.
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut log = Log::open(&path, [7; 32]).unwrap();
            let expected = if cut == whole.len() { 2 } else { usize::from(cut >= first) };
            assert_eq!(log.len(), expected, "{cut} of {} bytes", whole.len());
            // It goes on from there.
            if cut >= first && cut < whole.len() {
                log.push(&b).unwrap();
                drop(log);
                assert_eq!(std::fs::read(&path).unwrap(), whole);
            } else if expected == 2 {
                assert_eq!((log.next("a"), log.next("b"), log.next("c")), (Some(a.clone()), Some(b.clone()), None));
            }
        }
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let mut log = Log::open(&path, [7; 32]).unwrap();
            assert!(log.len() < 2, "byte {at}");
            assert!(log.next("a").is_none_or(|r| r == a));
        }
        // Another run, another order.
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(Log::open(&path, [7; 32]).unwrap().next("b"), None);
        assert!(Log::open(&path, [8; 32]).unwrap().is_empty());
        assert!(Log::open(&path, [7; 32]).unwrap().is_empty());
    }
}
