//! Image folders and lists.
use super::util::{golden, refused};
use nnq::data::{Dataset, Options, Preprocess};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn put(dir: &Path, name: &str) -> PathBuf {
    let to = dir.join(name);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let from = if name.ends_with("png") { "rgb.png" } else { "s444.jpg" };
    fs::copy(golden(from), &to).unwrap();
    to
}

fn open(path: &Path) -> Dataset {
    Dataset::open(path, &Options::calibration()).unwrap()
}

fn names(set: &Dataset, dir: &Path) -> Vec<String> {
    let prefix = format!("{}/", dir.display());
    (0..set.len()).map(|i| set.name(i).strip_prefix(&prefix).unwrap().to_owned()).collect()
}

#[test]
fn classes_by_sub_folder() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["b/2.JPEG", "b/10.png", "a/x.jpg", "c/deep/y.png", "c/z.png", ".hidden/q.png"] {
        put(dir.path(), name);
    }
    fs::write(dir.path().join("b/notes.txt"), "x").unwrap();
    fs::write(dir.path().join("classes.tsv"), "x").unwrap();
    let set = open(dir.path());
    assert_eq!(names(&set, dir.path()), ["a/x.jpg", "b/10.png", "b/2.JPEG", "c/z.png", "c/deep/y.png"]);
    assert_eq!((0..5).map(|i| set.label(i).unwrap()).collect::<Vec<_>>(), [0, 1, 1, 2, 2]);
    assert_eq!(set.classes(), ["a", "b", "c"]);
    assert!(set.describe().ends_with("5 samples, 3 classes"), "{}", set.describe());
    assert_eq!(set.first(&Preprocess::raw()).unwrap().shape(), [3, 14, 21]);
}

#[test]
fn flat_folders_and_single_images() {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), "b.png");
    put(dir.path(), "a.jpg");
    let set = open(dir.path());
    assert_eq!(
        (names(&set, dir.path()), set.has_labels(), set.label(0)),
        (vec!["a.jpg".into(), "b.png".into()], false, None)
    );
    assert_eq!(open(&file).len(), 1);
}

#[test]
fn unclear_folders_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fresh = |name: &str, files: &[&str]| {
        let d = dir.path().join(name);
        fs::create_dir_all(&d).unwrap();
        files.iter().for_each(|f| drop(put(&d, f)));
        d
    };
    let cases = [
        (fresh("empty", &[]), "no data that is known"),
        (fresh("mixed", &["a.png", "b/c.png"]), "beside sub-folders"),
        (fresh("splits", &["train/a/1.png", "val/a/1.png"]), "name one of them"),
        (fresh("other", &["a/1.png", "b/2.webp"]), "webp images are not read"),
        (dir.path().join("none"), "No such file"),
    ];
    for (path, says) in cases {
        let e = refused(&path);
        assert!(e.contains(says) && e.contains(dir.path().to_str().unwrap()), "{e}");
    }
    let hole = fresh("hole", &["a/1.png"]);
    fs::create_dir(hole.join("b")).unwrap();
    assert!(refused(&hole).contains("hole/b: the class folder holds no images"), "{}", refused(&hole));
    fs::write(hole.join("b/data_batch_1.bin"), "").unwrap();
    assert!(refused(&hole).contains("another data set"), "{}", refused(&hole));
    fs::write(dir.path().join("strange.dat"), "hello").unwrap();
    assert!(refused(&dir.path().join("strange.dat")).contains("no data that is known"));
}

#[cfg(unix)]
#[test]
fn loops_of_links_end() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "a/1.png");
    std::os::unix::fs::symlink(dir.path(), dir.path().join("a/again")).unwrap();
    assert!(refused(dir.path()).contains("folders deep"));
}

#[test]
fn lists() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "x/a.png");
    put(dir.path(), "x/b c.jpg");
    let list = dir.path().join("list.txt");
    let with = |text: &str| {
        fs::write(&list, text).unwrap();
        Dataset::open(&list, &Options::calibration())
    };
    let set = with("# comment\nx/b c.jpg\t7\r\n\nx/a.png\t2\n").unwrap();
    assert_eq!((set.len(), set.label(0), set.label(1), set.label_count()), (2, Some(7), Some(2), 8));
    assert!(set.name(0).ends_with("x/b c.jpg"));
    let set = with("x/a.png\tdog\nx/a.png\tcat\nx/b c.jpg\tdog").unwrap();
    assert_eq!((set.classes(), set.label(0), set.label(1)), (&["cat".to_owned(), "dog".into()][..], Some(1), Some(0)));
    assert!(!with("x/a.png\nx/b c.jpg\n").unwrap().has_labels());
    let absolute = format!("{}\t1", dir.path().join("x/a.png").display());
    assert_eq!(with(&absolute).unwrap().len(), 1);
    for (text, says) in [
        ("x/a.png\nx/none.png\n", "line 2"),
        ("x/a.png\nx/a.png\t1\n", "line 2"),
        ("x/a.png\t1\nx/a.png\n", "line 2"),
        ("", "no samples"),
    ] {
        let e = with(text).unwrap_err().to_string();
        assert!(e.contains(says) && e.contains("list.txt"), "{e}");
    }
    fs::write(&list, [0xFF, 0xFE, 0x00]).unwrap();
    assert!(refused(&list).contains("list.txt"));
}
