//! Data sets: finding out what a path holds, and access to single samples.
use super::{
    MAX_FILE, MAX_PIXELS,
    cifar::{self, Cifar},
    folder,
    idx::{self, Idx},
    image::{Image, sniff},
    npy::NpyArray,
    npz,
    preprocess::Layout,
    subset::{Choice, subset},
    text::{Text, Tokens},
};
use crate::{
    error::{At, Error, Result},
    ir::Tensor,
};
use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Which part of a data set that comes in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// For training and calibration.
    Train,
    /// For evaluation.
    Test,
    /// Both.
    All,
}

/// How to read a data set.
#[derive(Clone, Debug)]
pub struct Options {
    /// The part of CIFAR-10 and MNIST folders and of archives with `x_train` and `x_test`.
    pub split: Split,
    /// Where arrays of rank 4 hold their channels. Absent: the dimension of 1 or 3, if there is exactly one.
    pub layout: Option<Layout>,
    /// The key of the samples in an `.npz`. Absent: see [`Dataset::open`].
    pub inputs: Option<String>,
    /// The key of the labels in an `.npz`. Absent: see [`Dataset::open`].
    pub labels: Option<String>,
    /// The most pixels an image may have.
    pub max_pixels: usize,
}

impl Options {
    /// The training part.
    pub fn calibration() -> Self {
        Self { split: Split::Train, layout: None, inputs: None, labels: None, max_pixels: MAX_PIXELS }
    }
    /// The test part.
    pub fn evaluation() -> Self {
        Self { split: Split::Test, ..Self::calibration() }
    }
}

/// One sample before preprocessing.
#[derive(Clone, Debug)]
pub enum Sample {
    /// An image.
    Image {
        /// The pixels.
        image: Image,
        /// It comes from an image file, where the number of channels is an accident of the file, so that RGB is the
        /// default; elsewhere the data set says whether it is gray.
        file: bool,
    },
    /// Numbers, without the batch dimension, and where the channels are when the caller said so.
    Array(Tensor, Option<Layout>),
}

enum Source {
    Files { paths: Vec<PathBuf>, max_pixels: usize },
    Array { array: NpyArray, layout: Option<Layout> },
    Cifar(Cifar),
    Idx(Idx),
    Memory(Vec<Image>),
    Texts(Vec<Text>),
    Part { whole: Arc<Dataset>, chosen: Vec<usize> },
}

/// Samples, perhaps with labels. Samples are read when they are asked for; what stays in memory is a path or a label per
/// sample.
pub struct Dataset {
    source: Source,
    place: String,
    kind: &'static str,
    len: usize,
    labels: Option<Vec<u32>>,
    classes: Vec<String>,
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dataset({})", self.describe())
    }
}

impl Dataset {
    /// Finds out what `path` holds:
    ///
    /// - a folder with CIFAR-10 batches (`data_batch_*.bin`, `test_batch.bin`), or one such file;
    /// - a folder with MNIST's four IDX files, or one IDX file of images, plain or gzip, with its labels beside it;
    /// - a folder of images: one sub-folder per class, numbered in the order of their names, or none and no labels;
    /// - one image;
    /// - `.npy`: the first dimension counts samples;
    /// - `.npz`: samples under `x`, `inputs`, `input`, `images` or `data` (or `x_train`, `x_test` by split), or the only
    ///   array that is not of labels and holds more than one number; labels under `y`, `labels`, `label` or `targets`;
    /// - `.txt`, `.tsv`, `.lst`: a list of image files, one per line, perhaps with a label after a tab.
    ///
    /// # Errors
    /// When the path does not exist, holds nothing known or several things, is malformed, or holds no samples.
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let path = path.as_ref();
        let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        let set = if meta.is_dir() { Self::open_folder(path, options) } else { Self::open_file(path, options) }?;
        if set.len == 0 {
            return Err(Error::usage("the data set holds no samples").at(path.display()));
        }
        if let Some(labels) = set.labels.as_ref().filter(|l| l.len() != set.len) {
            let cause = format!("{} samples, but {} labels", set.len, labels.len());
            return Err(Error::malformed(cause).at(path.display()));
        }
        Ok(set)
    }

    /// Images that are in memory already, with one label each or none at all.
    ///
    /// # Errors
    /// When there are none, or the numbers of images and labels differ.
    pub fn in_memory(images: Vec<Image>, labels: Option<Vec<usize>>, classes: Vec<String>) -> Result<Self> {
        let labels = labels.map(|l| l.into_iter().map(to_label).collect::<Result<Vec<_>>>()).transpose()?;
        if images.is_empty() || labels.as_ref().is_some_and(|l| l.len() != images.len()) {
            let found = labels.map_or(0, |l| l.len());
            return Err(Error::usage(format!("{} images with {found} labels make no data set", images.len())));
        }
        let len = images.len();
        Ok(Self { source: Source::Memory(images), place: "memory".into(), kind: "images", len, labels, classes })
    }

    /// Texts of the file `place`, with one label each or none at all.
    ///
    /// # Errors
    /// When there are none, or the numbers of texts and labels differ.
    pub fn texts(place: &Path, texts: Vec<Text>, labels: Option<Vec<usize>>) -> Result<Self> {
        let labels = labels.map(|l| l.into_iter().map(to_label).collect::<Result<Vec<_>>>()).transpose()?;
        if texts.is_empty() {
            return Err(Error::usage("the file holds no texts").at(place.display()));
        }
        if let Some(found) = labels.as_ref().map(Vec::len).filter(|&n| n != texts.len()) {
            return Err(Error::usage(format!("{} texts with {found} labels", texts.len())).at(place.display()));
        }
        let (place, len) = (place.display().to_string(), texts.len());
        Ok(Self { source: Source::Texts(texts), place, kind: "texts", len, labels, classes: Vec::new() })
    }

    /// Some samples of another data set, in this order.
    ///
    /// # Errors
    /// When there are none, or the data set has no such samples.
    pub fn part(whole: &Arc<Self>, chosen: Vec<usize>) -> Result<Self> {
        if let Some(i) = chosen.iter().find(|i| **i >= whole.len) {
            return Err(Error::usage(format!("sample {i} of {}", whole.len)).at(&whole.place));
        }
        if chosen.is_empty() {
            return Err(Error::usage("no samples were chosen").at(&whole.place));
        }
        let labels = whole.labels.as_ref().map(|l| chosen.iter().map(|&i| l[i]).collect());
        let (place, kind, len, classes) = (whole.place.clone(), whole.kind, chosen.len(), whole.classes.clone());
        Ok(Self { source: Source::Part { whole: whole.clone(), chosen }, place, kind, len, labels, classes })
    }

    /// Two parts: what is left, and the given share of each class (0 to 1), as exactly as whole numbers allow.
    ///
    /// # Errors
    /// When one of them would be empty.
    pub fn split(whole: &Arc<Self>, share: f64, seed: u64) -> Result<[Self; 2]> {
        let count = (share * whole.len as f64) as usize;
        let held = subset(whole.len, count, seed, Choice::Stratified, |i| whole.label(i));
        let mut out = vec![false; whole.len];
        held.iter().for_each(|&i| out[i] = true);
        let rest = (0..whole.len).filter(|&i| !out[i]).collect();
        Ok([Self::part(whole, rest)?, Self::part(whole, held)?])
    }

    fn open_folder(path: &Path, options: &Options) -> Result<Self> {
        let (folders, names) = folder::list(path)?;
        if let Some(files) = cifar::files(path, &names, options.split) {
            return Self::cifar(path, &files?);
        }
        let images: Vec<_> = names.iter().filter(|n| n.contains("images") && n.contains("idx")).collect();
        if !images.is_empty() {
            let wanted = match options.split {
                Split::Train => "train",
                Split::Test => "t10k",
                Split::All => {
                    return Err(Error::unsupported("the training and the test part of IDX files at once")
                        .cure("choose a split")
                        .at(path.display()));
                }
            };
            // A plain file and its .gz hold the same.
            let Some(name) = images.iter().find(|n| n.starts_with(wanted)) else {
                let found: Vec<_> = images.iter().map(|n| n.as_str()).collect();
                return Err(Error::usage(format!(
                    "the folder holds no {wanted}-images-* file, but {}",
                    found.join(", ")
                ))
                .cure("choose the other split, or name one of the files")
                .at(path.display()));
            };
            return Self::idx(&path.join(name));
        }
        Ok(Self::files(path, "image folder", folder::open(path, &folders, &names)?, options))
    }

    fn open_file(path: &Path, options: &Options) -> Result<Self> {
        let mut start = Vec::new();
        File::open(path).and_then(|f| f.take(16).read_to_end(&mut start)).map_err(|e| Error::io(path, e))?;
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        if start.starts_with(b"\x93NUMPY") || extension == "npy" {
            return Self::array(path, "array", NpyArray::open(path)?, options);
        }
        if start.starts_with(b"PK") || extension == "npz" {
            return Self::npz(path, options);
        }
        if sniff(&start).is_some() {
            let files = folder::Files { paths: vec![path.to_owned()], ..folder::Files::default() };
            return Ok(Self::files(path, "image", files, options));
        }
        match extension.as_str() {
            "txt" | "tsv" | "lst" | "list" => Ok(Self::files(path, "list of images", folder::open_list(path)?, options)),
            "bin" => Self::cifar(path, &[path.to_owned()]),
            _ if idx::looks_like(&start) => Self::idx(path),
            _ => Err(Error::unsupported("no data that is known")
                .cure(
                    "known are folders, images (JPEG, PNG, BMP), .npy, .npz, CIFAR-10 .bin, IDX files, and lists of images \
                     in .txt",
                )
                .at(path.display())),
        }
    }

    fn files(path: &Path, kind: &'static str, files: folder::Files, options: &Options) -> Self {
        let folder::Files { paths, labels, classes } = files;
        let len = paths.len();
        let source = Source::Files { paths, max_pixels: options.max_pixels };
        Self { source, place: path.display().to_string(), kind, len, labels, classes }
    }

    fn cifar(path: &Path, files: &[PathBuf]) -> Result<Self> {
        let (source, labels) = Cifar::open(files)?;
        let folder = files[0].parent().unwrap_or(Path::new(""));
        let classes: Vec<String> = std::fs::read_to_string(folder.join("batches.meta.txt"))
            .map(|text| text.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default();
        let classes = if classes.len() == cifar::CLASSES { classes } else { Vec::new() };
        Ok(Self {
            source: Source::Cifar(source),
            place: path.display().to_string(),
            kind: "CIFAR-10",
            len: labels.len(),
            labels: Some(labels),
            classes,
        })
    }

    fn idx(path: &Path) -> Result<Self> {
        let images = idx::open(path)?;
        let &[len, height, width] = images.shape.as_slice() else {
            let cause = format!("an IDX file of {:?}: images have three dimensions", images.shape);
            return Err(Error::shape(cause).cure("name the file of images, not that of labels").at(path.display()));
        };
        if height == 0 || width == 0 {
            return Err(Error::malformed(format!("images of {height} x {width} pixels")).at(path.display()));
        }
        let labels = match idx::labels_beside(path) {
            None => None,
            Some(beside) => {
                let labels = idx::open(&beside)?;
                if labels.shape != [len] {
                    let cause = format!("{len} images, but labels of shape {:?} beside them", labels.shape);
                    return Err(Error::malformed(cause).at(beside.display()));
                }
                Some(labels.data.iter().map(|&l| l.into()).collect())
            }
        };
        let place = path.display().to_string();
        Ok(Self { source: Source::Idx(images), place, kind: "IDX", len, labels, classes: Vec::new() })
    }

    fn array(path: &Path, kind: &'static str, array: NpyArray, options: &Options) -> Result<Self> {
        let Some((&len, inner)) = array.shape().split_first() else {
            return Err(Error::shape("a single number is no data set").at(path.display()));
        };
        if len > 0 && crate::ir::count(inner)? == 0 {
            return Err(Error::shape(format!("samples of {inner:?} hold nothing")).at(path.display()));
        }
        let place = path.display().to_string();
        let source = Source::Array { array, layout: options.layout };
        Ok(Self { source, place, kind, len, labels: None, classes: Vec::new() })
    }

    fn npz(path: &Path, options: &Options) -> Result<Self> {
        let part = if options.split == Split::Test { "test" } else { "train" };
        let all = npz::list(path)?;
        let find = |asked: &Option<String>, known: &[&str], what: &str| -> Result<Option<String>> {
            let has = |name: &str| all.iter().any(|(n, _)| n == name);
            if let Some(name) = asked {
                return if has(name) {
                    Ok(Some(name.clone()))
                } else {
                    Err(missing(path, &all, &format!("{what} {name:?}")))
                };
            }
            let split = known.iter().map(|k| format!("{k}_{part}"));
            Ok(known.iter().map(|&k| k.to_owned()).chain(split).find(|k| has(k)))
        };
        let labels = find(&options.labels, &["y", "labels", "label", "targets"], "labels")?;
        let inputs = find(&options.inputs, &["x", "inputs", "input", "images", "data"], "samples")?;
        let inputs = inputs.map_or_else(
            || {
                let size = |shape: &[usize]| crate::ir::count(shape).unwrap_or(usize::MAX);
                let mut rest = all.iter().filter(|(n, shape)| Some(n) != labels.as_ref() && size(shape) > 1);
                match (rest.next(), rest.next()) {
                    (Some((name, _)), None) => Ok(name.clone()),
                    _ => Err(missing(path, &all, "samples (`x` or `inputs`)")),
                }
            },
            Ok,
        )?;
        let mut arrays = npz::open(path, |name| name == inputs || Some(name) == labels.as_deref())?;
        let array = arrays.remove(&inputs).ok_or_else(|| missing(path, &all, "samples"))?;
        let mut this = Self::array(path, "arrays", array, options)?;
        if let Some(name) = labels {
            let array = arrays.remove(&name).ok_or_else(|| missing(path, &all, "labels"))?;
            let found = labels_of(&array, this.len).at(|| format!("labels {name:?}")).at(|| path.display())?;
            this.labels = Some(found);
        }
        Ok(this)
    }

    /// The tokens of a sample that is a text.
    pub fn tokens(&self, index: usize) -> Option<&Tokens> {
        match &self.source {
            Source::Texts(texts) => texts.get(index).map(|t| &t.tokens),
            Source::Part { whole, chosen } => whole.tokens(*chosen.get(index)?),
            _ => None,
        }
    }
    /// Whether samples are texts.
    pub fn is_text(&self) -> bool {
        self.tokens(0).is_some()
    }
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Never the case for an open data set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Whether the samples have labels (all or none have).
    pub fn has_labels(&self) -> bool {
        self.labels.is_some()
    }
    /// The label of a sample: an index into [`Dataset::classes`] when there are names, else the number in the data.
    pub fn label(&self, index: usize) -> Option<usize> {
        self.labels.as_ref().and_then(|l| l.get(index)).map(|&l| l as usize)
    }
    /// Names of the classes in the order of the labels; empty when the data has none.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }
    /// One more than the largest label, or the number of class names; 0 without labels.
    pub fn label_count(&self) -> usize {
        let largest = self.labels.iter().flatten().max().map_or(0, |&l| l as usize + 1);
        largest.max(self.classes.len())
    }
    /// What was found, for people: `image folder photos: 1966 samples, 10 classes`.
    pub fn describe(&self) -> String {
        let labels = match (&self.labels, self.label_count()) {
            (None, _) => "no labels".into(),
            (Some(_), 1) => "1 class".into(),
            (Some(_), n) => format!("{n} classes"),
        };
        format!("{} {}: {} samples, {labels}", self.kind, self.place, self.len)
    }
    /// The sample's file, or the data set and the sample's number: for messages.
    pub fn name(&self, index: usize) -> String {
        match &self.source {
            Source::Files { paths, .. } => {
                paths.get(index).map_or_else(|| self.place.clone(), |p| p.display().to_string())
            }
            Source::Cifar(c) => c.name(index),
            Source::Texts(texts) => {
                texts.get(index).map_or_else(|| self.place.clone(), |t| format!("{}, line {}", self.place, t.line))
            }
            Source::Part { whole, chosen } => chosen.get(index).map_or_else(|| self.place.clone(), |&i| whole.name(i)),
            _ => format!("{}, sample {index}", self.place),
        }
    }
    /// Samples are files of their own.
    pub(super) fn is_files(&self) -> bool {
        match &self.source {
            Source::Part { whole, .. } => whole.is_files(),
            source => matches!(source, Source::Files { .. }),
        }
    }
    /// Reads a sample.
    ///
    /// # Errors
    /// Names the file (or the sample) that cannot be read or decoded.
    pub fn sample(&self, index: usize) -> Result<Sample> {
        if index >= self.len {
            return Err(Error::usage(format!("sample {index} of {}", self.len)).at(&self.place));
        }
        self.read(index).at(|| self.name(index))
    }

    fn read(&self, index: usize) -> Result<Sample> {
        Ok(match &self.source {
            Source::Files { paths, max_pixels } => {
                let image = Image::decode(&read_file(&paths[index])?, *max_pixels)?;
                Sample::Image { image, file: true }
            }
            Source::Array { array, layout } => Sample::Array(array.row(index)?, *layout),
            Source::Cifar(c) => Sample::Image { image: c.image(index)?, file: false },
            Source::Idx(i) => {
                let (height, width) = (i.shape[1], i.shape[2]);
                let pixels = i.data[index * height * width..][..height * width].to_vec();
                Sample::Image { image: Image::new(width, height, 1, pixels)?, file: false }
            }
            Source::Part { whole, chosen } => whole.read(chosen[index])?,
            Source::Texts(_) => {
                return Err(Error::unsupported("a text, where pictures or tensors are read")
                    .cure("texts are data for nnq calibrate, quantize and eval"));
            }
            Source::Memory(images) => Sample::Image { image: images[index].clone(), file: false },
        })
    }
}

fn missing(path: &Path, all: &[(String, Vec<usize>)], what: &str) -> Error {
    let found: Vec<_> = all.iter().map(|(n, s)| format!("{n} {s:?}")).collect();
    Error::usage(format!("the archive holds no {what}; it holds {}", found.join(", ")))
        .cure("name the keys of samples and labels")
        .at(path.display())
}

fn to_label(l: usize) -> Result<u32> {
    u32::try_from(l).map_err(|_| Error::value(format!("a label of {l}")))
}

fn labels_of(array: &NpyArray, samples: usize) -> Result<Vec<u32>> {
    let shape = array.shape();
    if !matches!(shape, &[n] | &[n, 1] if n == samples) {
        return Err(Error::shape(format!("shape {shape:?}, expected [{samples}]: one number per sample")));
    }
    let numbers = array.to_tensor()?.to_i64s()?;
    numbers.into_iter().map(|l| u32::try_from(l).map_err(|_| Error::value(format!("a label of {l}")))).collect()
}

/// A whole file without the place in errors: the caller knows it.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let io = |e: std::io::Error| Error::new(crate::ErrorKind::Io, e.to_string());
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    if length > MAX_FILE {
        return Err(Error::value(format!("{length} bytes are too many for an image (at most {MAX_FILE})")));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    // The length may have changed, or be 0 for a device.
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}
