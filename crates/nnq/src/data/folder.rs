//! Image files: folders with one sub-folder per class, flat folders, and lists of files.
use crate::error::{Error, Result};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Extensions of image files that are read (the content decides what they are).
const READ: [&str; 4] = ["jpg", "jpeg", "png", "bmp"];
/// Extensions of image files that are not.
const UNREAD: [&str; 11] = ["gif", "webp", "tif", "tiff", "ppm", "pgm", "pbm", "heic", "avif", "jxl", "jp2"];
/// Deeper trees are taken for loops of links.
const MAX_DEPTH: usize = 16;

/// Files with their labels.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub paths: Vec<PathBuf>,
    pub labels: Option<Vec<u32>>,
    pub classes: Vec<String>,
}

/// The names in a folder, sorted by their bytes, hidden ones left out: folders and files apart.
pub(super) fn list(folder: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    let io = |e| Error::io(folder, e);
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name =
            path.file_name().unwrap_or_default().to_str().ok_or_else(|| {
                Error::unsupported("a file name that is no UTF-8").at(path.display()).cure("rename it")
            })?;
        if name.starts_with('.') {
            continue;
        }
        // Follows links, as data sets are often farms of links.
        let to =
            if std::fs::metadata(&path).map_err(|e| Error::io(&path, e))?.is_dir() { &mut folders } else { &mut files };
        to.push(name.to_owned());
    }
    folders.sort();
    files.sort();
    Ok((folders, files))
}

/// Whether a name is that of an image. Images in formats that are not read are an error: leaving them out would change
/// the data set in silence.
pub(super) fn is_image(folder: &Path, name: &str) -> Result<bool> {
    let Some((_, extension)) = name.rsplit_once('.') else { return Ok(false) };
    let extension = extension.to_ascii_lowercase();
    if UNREAD.contains(&extension.as_str()) {
        return Err(Error::unsupported(format!("{extension} images are not read"))
            .cure("convert them to PNG, JPEG or BMP")
            .at(folder.join(name).display()));
    }
    Ok(READ.contains(&extension.as_str()))
}

/// A folder of images. `folders` and `files` are what [`list`] found in it.
pub(super) fn open(folder: &Path, folders: &[String], files: &[String]) -> Result<Files> {
    let mut flat = Vec::new();
    for name in files {
        if is_image(folder, name)? {
            flat.push(folder.join(name));
        }
    }
    let fail = |cause: &str, cure: &str| Err(Error::usage(cause).cure(cure).at(folder.display()));
    match (folders.is_empty(), flat.is_empty()) {
        (true, true) => fail(
            "the folder holds no data that is known",
            "known are images (JPEG, PNG, BMP; one sub-folder per class, or none), CIFAR-10 batches and IDX files",
        ),
        (true, false) => Ok(Files { paths: flat, ..Files::default() }),
        (false, false) => fail(
            "the folder holds images beside sub-folders, so it is unclear whether the sub-folders are classes",
            "name a folder that holds either, or give a list of files",
        ),
        (false, true) => classes(folder, folders),
    }
}

fn classes(folder: &Path, folders: &[String]) -> Result<Files> {
    const SPLITS: [&str; 6] = ["train", "val", "valid", "validation", "test", "extra"];
    if folders.iter().all(|f| SPLITS.contains(&f.to_lowercase().as_str())) {
        let names: Vec<_> = folders.iter().map(|f| folder.join(f).display().to_string()).collect();
        return Err(Error::usage(format!("the folder holds the splits {}", folders.join(", ")))
            .cure(format!("name one of them: {}", names.join(", ")))
            .at(folder.display()));
    }
    let mut found = Files::default();
    let mut labels = Vec::new();
    for (class, name) in (0u32..).zip(folders) {
        let before = found.paths.len();
        collect(&folder.join(name), 0, &mut found.paths)?;
        if found.paths.len() == before {
            let sub = folder.join(name);
            let cause = match list(&sub)?.1.iter().any(|f| f.ends_with(".bin") || f.contains("idx3")) {
                true => "the sub-folder holds no images, but what may be another data set",
                false => "the class folder holds no images",
            };
            return Err(Error::usage(cause)
                .cure("name the sub-folder itself, or remove it when it is no class")
                .at(sub.display()));
        }
        labels.resize(found.paths.len(), class);
        found.classes.push(name.clone());
    }
    found.labels = Some(labels);
    Ok(found)
}

/// All images below a folder: its own first, then those of its sub-folders, sorted by name.
fn collect(folder: &Path, depth: usize, into: &mut Vec<PathBuf>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::unsupported(format!("more than {MAX_DEPTH} folders deep")).at(folder.display()));
    }
    let (folders, files) = list(folder)?;
    for name in &files {
        if is_image(folder, name)? {
            into.push(folder.join(name));
        }
    }
    folders.iter().try_for_each(|name| collect(&folder.join(name), depth + 1, into))
}

/// A text file with a path per line, and a label after a tab on all lines or on none. Paths are relative to the list.
/// Labels are numbers on all lines, or names, which are sorted and numbered.
pub(super) fn open_list(list: &Path) -> Result<Files> {
    let text = std::fs::read_to_string(list).map_err(|e| Error::io(list, e))?;
    let here = |line: usize| format!("{}, line {}", list.display(), line + 1);
    let base = list.parent().unwrap_or(Path::new(""));
    let (mut paths, mut names): (Vec<PathBuf>, Vec<&str>) = (Vec::new(), Vec::new());
    for (i, line) in text.lines().enumerate() {
        let line = line.trim_end_matches(['\r', ' ']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (path, label) = match line.split_once('\t') {
            Some((path, label)) => (path, Some(label.trim())),
            None => (line, None),
        };
        let path = base.join(path);
        if !path.is_file() {
            return Err(Error::usage("no such file")
                .cure("paths are relative to the list, and a tab separates path and label")
                .at(path.display())
                .at(here(i)));
        }
        if !paths.is_empty() && label.is_some() == names.is_empty() {
            return Err(Error::malformed("some lines have a label and some have none").at(here(i)));
        }
        paths.push(path);
        names.extend(label);
    }
    if names.is_empty() {
        return Ok(Files { paths, ..Files::default() });
    }
    if let Ok(labels) = names.iter().map(|n| n.parse()).collect::<Result<Vec<u32>, _>>() {
        return Ok(Files { paths, labels: Some(labels), classes: Vec::new() });
    }
    let mut classes: BTreeMap<&str, u32> = names.iter().map(|&n| (n, 0)).collect();
    classes.values_mut().zip(0..).for_each(|(v, i)| *v = i);
    Ok(Files {
        paths,
        labels: Some(names.iter().map(|n| classes[n]).collect()),
        classes: classes.keys().map(|&n| n.to_owned()).collect(),
    })
}
