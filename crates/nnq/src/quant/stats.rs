//! Calibration statistics of a whole model, and their file (`.qstats`).
//!
//! A file holds one [`Statistics`] per value and says which model, preprocessing and samples they come from. Files
//! made from different samples of the same model merge; the result has the same bytes for any sharding and any order.
//!
//! Layout: `NNQSTATS`, format version (u32), length of the body (u64), SHA-256 of the body, body; numbers
//! little-endian, body in postcard's encoding of [`Stats`].
use super::observer::{Observer, ObserverKind, Statistics};
use crate::error::{At, Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    ops::Range,
    path::Path,
};

const MAGIC: [u8; 8] = *b"NNQSTATS";
/// Version of the file's layout.
pub const FORMAT: u32 = 3;
const HEADER: usize = 8 + 4 + 8 + 32;

/// A set of sample indices as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct SampleSet {
    /// End (exclusive) by start; ranges are not empty and do not touch.
    ranges: BTreeMap<u64, u64>,
}

impl SampleSet {
    /// Adds indices, which may be there already.
    pub fn insert(&mut self, mut new: Range<u64>) {
        if new.is_empty() {
            return;
        }
        // Swallow whatever overlaps or touches.
        while let Some((&start, &end)) = self.ranges.range(..=new.end).next_back().filter(|(_, end)| **end >= new.start)
        {
            self.ranges.remove(&start);
            new = start.min(new.start)..end.max(new.end);
        }
        self.ranges.insert(new.start, new.end);
    }
    /// The ranges in ascending order.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(&a, &b)| a..b)
    }
    /// Number of samples.
    pub fn len(&self) -> u64 {
        self.ranges().map(|r| r.end - r.start).sum()
    }
    /// No samples.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
    /// Whether `index` is in the set.
    pub fn contains(&self, index: u64) -> bool {
        self.ranges.range(..=index).next_back().is_some_and(|(_, end)| index < *end)
    }
    /// The first common range of two sets.
    fn overlap(&self, other: &Self) -> Option<Range<u64>> {
        other.ranges().find_map(|o| {
            let before = self.ranges.range(..o.end).next_back().map(|(&a, &b)| a.max(o.start)..b.min(o.end));
            before.filter(|r| !r.is_empty())
        })
    }
}

impl From<SampleSet> for Vec<(u64, u64)> {
    fn from(s: SampleSet) -> Self {
        s.ranges.into_iter().collect()
    }
}

impl TryFrom<Vec<(u64, u64)>> for SampleSet {
    type Error = &'static str;
    fn try_from(list: Vec<(u64, u64)>) -> Result<Self, Self::Error> {
        let apart = list.windows(2).all(|w| w[0].1 < w[1].0);
        if !apart || list.iter().any(|(a, b)| a >= b) {
            return Err("sample ranges are empty, overlap or are out of order");
        }
        Ok(Self { ranges: list.into_iter().collect() })
    }
}

/// Where statistics come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// SHA-256 of the model file.
    pub model: [u8; 32],
    /// How samples became inputs, in words that are equal when the preprocessing is.
    pub preprocessing: String,
    /// Versions of nnq that contributed.
    pub versions: BTreeSet<String>,
    /// Indices of the samples seen.
    pub samples: SampleSet,
}

/// The statistics of a model's values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Where they come from.
    pub meta: Meta,
    /// By the name of the value.
    pub values: BTreeMap<String, Statistics>,
}

impl Stats {
    /// No statistics yet.
    pub fn new(model: [u8; 32], preprocessing: impl Into<String>) -> Self {
        let versions = [env!("CARGO_PKG_VERSION").to_owned()].into();
        Self {
            meta: Meta { model, preprocessing: preprocessing.into(), versions, samples: SampleSet::default() },
            values: BTreeMap::new(),
        }
    }
    /// Adds one sample's elements of the value `name`, starting statistics of `kind` when there are none. Does not
    /// touch [`Meta::samples`]: a sample is complete when all its values were seen.
    ///
    /// # Errors
    /// Names the value.
    pub fn observe(
        &mut self,
        name: &str,
        kind: ObserverKind,
        sample: u64,
        shape: &[usize],
        data: &[f32],
    ) -> Result<()> {
        let seen = match self.values.get_mut(name) {
            Some(s) => s.observe(sample, shape, data),
            None => self.values.entry(name.to_owned()).or_insert_with(|| kind.start()).observe(sample, shape, data),
        };
        seen.at(|| format!("value '{name}'"))
    }
    /// The statistics of a value.
    ///
    /// # Errors
    /// When there are none.
    pub fn get(&self, name: &str) -> Result<&Statistics> {
        self.values.get(name).ok_or_else(|| {
            Error::value(format!("value '{name}' has no calibration statistics"))
                .cure("calibrate again with this model")
        })
    }
    /// Adds the statistics of other samples. `self` is unchanged on errors.
    ///
    /// # Errors
    /// When the two come from different models or preprocessings, share samples, or hold different values.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        let (a, b) = (&self.meta, &other.meta);
        if a.model != b.model {
            return Err(Error::usage(format!(
                "statistics of different models (SHA-256 {} and {})",
                hex(&a.model),
                hex(&b.model)
            ))
            .cure("calibrate all shards with the same model file"));
        }
        if a.preprocessing != b.preprocessing {
            return Err(Error::usage(format!(
                "statistics of different preprocessings: '{}' and '{}'",
                a.preprocessing, b.preprocessing
            )));
        }
        if let Some(r) = a.samples.overlap(&b.samples) {
            return Err(Error::usage(format!("samples {} to {} are in both statistics", r.start, r.end - 1))
                .cure("give each shard samples of its own"));
        }
        let empty = |s: &Self| s.values.is_empty() && s.meta.samples.is_empty();
        let mut values = self.values.clone();
        if empty(self) {
            values.clone_from(&other.values);
        } else if !empty(other) {
            let one_sided = |x: &Self, y: &Self| x.values.keys().find(|k| !y.values.contains_key(*k)).cloned();
            if let Some(name) = one_sided(self, other).or_else(|| one_sided(other, self)) {
                return Err(Error::usage(format!("value '{name}' is in one of the statistics only"))
                    .cure("calibrate all shards with the same recipe"));
            }
            for (name, theirs) in &other.values {
                if let Some(ours) = values.get_mut(name) {
                    ours.merge(theirs).at(|| format!("value '{name}'"))?;
                }
            }
        }
        self.values = values;
        for r in other.meta.samples.ranges() {
            self.meta.samples.insert(r);
        }
        self.meta.versions.extend(other.meta.versions.iter().cloned());
        Ok(())
    }

    /// The file's content.
    ///
    /// # Errors
    /// Never in practice: the encoder can only fail on types that are not used here.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let body =
            postcard::to_stdvec(self).map_err(|e| Error::internal(format!("statistics cannot be written: {e}")))?;
        let mut out = Vec::with_capacity(HEADER + body.len());
        out.extend(MAGIC);
        out.extend(FORMAT.to_le_bytes());
        out.extend((body.len() as u64).to_le_bytes());
        out.extend_from_slice(&Sha256::digest(&body));
        out.extend(body);
        Ok(out)
    }
    /// Reads a file's content.
    ///
    /// # Errors
    /// When it is no statistics file, of another version, cut off, damaged or contradicts itself.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let broken = |cause: &str| Error::malformed(cause).cure("calibrate again");
        let mut rest = bytes;
        let mut take = |n: usize| -> Option<&[u8]> {
            let (head, tail) = rest.split_at_checked(n)?;
            rest = tail;
            Some(head)
        };
        if take(8) != Some(&MAGIC) {
            return Err(Error::malformed("not a statistics file of nnq").cure("give a file made by 'nnq calibrate'"));
        }
        let cut = || broken("the statistics file is cut off");
        let version = take(4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes).ok_or_else(cut)?;
        if version != FORMAT {
            return Err(Error::unsupported(format!("statistics of format {version}; this nnq reads format {FORMAT}"))
                .cure("calibrate again, or use the version of nnq that wrote them"));
        }
        let length = take(8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes).ok_or_else(cut)?;
        let digest = take(32).ok_or_else(cut)?;
        if rest.len() as u64 != length {
            return Err(broken(&format!("the statistics file has a body of {} bytes, not {length}", rest.len())));
        }
        if Sha256::digest(rest).as_slice() != digest {
            return Err(broken("the statistics file is damaged: its checksum is wrong"));
        }
        let (stats, left): (Self, _) =
            postcard::take_from_bytes(rest).map_err(|e| broken(&format!("the statistics cannot be decoded: {e}")))?;
        if !left.is_empty() {
            return Err(broken("bytes follow the statistics"));
        }
        Ok(stats)
    }
    /// Reads a file.
    ///
    /// # Errors
    /// Names the file; otherwise like [`Stats::from_bytes`].
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        Self::from_bytes(&bytes).at(|| path.display())
    }
    /// Writes a file: under a temporary name in the same folder, then renamed, so that a crash leaves the old one.
    ///
    /// # Errors
    /// Names the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let bytes = self.to_bytes()?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        let ordinary = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666);
        #[cfg(unix)]
        builder.permissions(ordinary);
        let io = |e| Error::io(path, e);
        let mut file = builder.prefix(".qstats").tempfile_in(folder).map_err(io)?;
        file.write_all(&bytes).map_err(io)?;
        file.as_file().sync_all().map_err(io)?;
        file.persist(path).map_err(|e| io(e.error))?;
        Ok(())
    }
    /// Reads and merges several files.
    ///
    /// # Errors
    /// Names the file that cannot be read or merged, or when there is none.
    pub fn read_all<P: AsRef<Path>>(paths: &[P]) -> Result<Self> {
        let mut all: Option<Self> = None;
        for path in paths {
            let path = path.as_ref();
            let next = Self::read(path)?;
            match &mut all {
                None => all = Some(next),
                Some(a) => a.merge(&next).at(|| path.display())?,
            }
        }
        all.ok_or_else(|| Error::usage("no statistics files to merge"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use proptest::prelude::*;

    const KINDS: [(&str, ObserverKind); 2] =
        [("act", ObserverKind::Tensor), ("bychannel", ObserverKind::Channel { axis: 0 })];

    fn shard(samples: impl IntoIterator<Item = u64>) -> Stats {
        let mut s = Stats::new([7; 32], "resize 256, crop 224");
        for i in samples {
            for (name, kind) in KINDS {
                let data: Vec<f32> = (0..6).map(|k| ((i * 31 + k * 7) % 13) as f32 - 5.3).collect();
                s.observe(name, kind, i, &[2, 3], &data).unwrap();
            }
            s.meta.samples.insert(i..i + 1);
        }
        s
    }

    #[test]
    fn files_round_trip_and_replace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qstats");
        shard(0..3).write(&path).unwrap();
        shard(0..5).write(&path).unwrap();
        assert_eq!(Stats::read(&path).unwrap(), shard(0..5));
        // No temporary files stay behind.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let other = dir.path().join("b.qstats");
        shard(5..9).write(&other).unwrap();
        assert_eq!(Stats::read_all(&[&other, &path]).unwrap(), shard(0..9));
        let e = Stats::read_all(&[&path, &path]).unwrap_err().to_string();
        assert!(e.contains("a.qstats") && e.contains("samples 0 to 4 are in both"), "{e}");
        assert_eq!(Stats::read(&dir.path().join("none")).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(shard(0..1).write(&dir.path().join("no/such/folder")).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(Stats::read_all::<&Path>(&[]).unwrap_err().kind(), ErrorKind::Usage);
    }
    #[test]
    fn what_does_not_belong_together_is_refused() {
        let mut a = shard(0..3);
        let before = a.clone();
        let mut b = shard(3..4);
        b.meta.model[0] = 0;
        assert!(a.merge(&b).unwrap_err().to_string().contains("0007070707"));
        let mut b = shard(3..4);
        b.meta.preprocessing.clear();
        assert!(a.merge(&b).unwrap_err().to_string().contains("'resize 256, crop 224' and ''"));
        let mut b = shard(3..4);
        b.values.remove("act");
        assert!(a.merge(&b).unwrap_err().to_string().contains("'act' is in one"));
        let mut b = shard(3..4);
        b.values.insert("act".into(), ObserverKind::Channel { axis: 0 }.start());
        assert!(a.merge(&b).unwrap_err().to_string().contains("value 'act'"));
        assert_eq!(a, before);
        // An empty one is neutral on either side.
        a.merge(&shard([])).unwrap();
        assert_eq!(a, before);
        let mut empty = shard([]);
        empty.merge(&a).unwrap();
        assert_eq!(empty, before);
    }
    #[test]
    fn hostile_bytes_are_errors() {
        let good = shard(0..2).to_bytes().unwrap();
        for n in 0..good.len() {
            assert!(Stats::from_bytes(&good[..n]).is_err(), "cut at {n}");
        }
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 0x55;
            assert!(Stats::from_bytes(&bad).is_err(), "byte {i}");
        }
        let mut long = good.clone();
        long.push(0);
        assert!(Stats::from_bytes(&long).is_err());
        // With a matching checksum: bodies that lie. None may panic or allocate much.
        let sealed = |body: &[u8]| {
            let mut f = good[..12].to_vec();
            f.extend((body.len() as u64).to_le_bytes());
            f.extend_from_slice(&Sha256::digest(body));
            f.extend(body);
            f
        };
        let body = &good[HEADER..];
        assert_eq!(sealed(body), good);
        for i in 0..body.len() {
            for x in [1, 0x80, 0xff] {
                let mut bad = body.to_vec();
                bad[i] ^= x;
                if let Ok(s) = Stats::from_bytes(&sealed(&bad)) {
                    // What was accepted can be used.
                    let mut twin = s.clone();
                    twin.meta.samples = SampleSet::default();
                    let _ = twin.merge(&s);
                    s.to_bytes().unwrap();
                }
            }
        }
        assert!(Stats::from_bytes(&sealed(&[0xff; 64])).is_err());
        assert!(Stats::from_bytes(&sealed(&[body, &[0]].concat())).is_err());
        let mut newer = good.clone();
        newer[8] = FORMAT as u8 + 1;
        assert_eq!(Stats::from_bytes(&newer).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    proptest! {
        #[test]
        fn shards_in_any_order_give_the_same_bytes(owner in prop::collection::vec(0usize..4, 1..40), order in Just([0usize, 1, 2, 3]).prop_shuffle()) {
            let all = shard(0..owner.len() as u64).to_bytes().unwrap();
            let mut merged = shard([]);
            for k in order {
                let mine: Vec<u64> = (0..owner.len()).filter(|&i| owner[i] == k).map(|i| i as u64).collect();
                let part = shard(mine.into_iter().rev());
                merged.merge(&Stats::from_bytes(&part.to_bytes().unwrap()).unwrap()).unwrap();
            }
            prop_assert_eq!(merged.to_bytes().unwrap(), all);
        }
        #[test]
        fn sample_sets_against_sets(list in prop::collection::vec((0u64..60, 0u64..8), 0..20), other in prop::collection::vec((0u64..60, 0u64..8), 0..5)) {
            let build = |l: &[(u64, u64)]| {
                let (mut s, mut naive) = (SampleSet::default(), BTreeSet::new());
                for &(a, n) in l { s.insert(a..a + n); naive.extend(a..a + n); }
                (s, naive)
            };
            let ((s, naive), (t, naive_t)) = (build(&list), build(&other));
            prop_assert_eq!(s.ranges().flatten().collect::<Vec<_>>(), naive.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(s.len(), naive.len() as u64);
            prop_assert!((0..70).all(|i| s.contains(i) == naive.contains(&i)));
            let wire: Vec<(u64, u64)> = s.clone().into();
            prop_assert_eq!(SampleSet::try_from(wire).unwrap(), s.clone());
            let common = s.overlap(&t);
            prop_assert_eq!(common.is_none(), naive.is_disjoint(&naive_t));
            if let Some(r) = common { prop_assert!(r.into_iter().all(|i| naive.contains(&i) && naive_t.contains(&i))); }
        }
    }
}
