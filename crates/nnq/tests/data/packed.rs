//! CIFAR-10 batches and IDX files.
use super::util::{image_of, refused};
use flate2::{Compression, write::GzEncoder};
use nnq::data::{Dataset, Options, Preprocess, Split};
use std::{fs, io::Write, path::Path};

/// Records with labels `labels`; pixel `p` of channel `c` of record `i` is `i + 50 c + p % 32`.
fn batch(labels: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, &l) in labels.iter().enumerate() {
        out.push(l);
        out.extend((0..3072).map(|k| (i + 50 * (k / 1024) + k % 32) as u8));
    }
    out
}

fn with(split: Split) -> Options {
    Options { split, ..Options::calibration() }
}

#[test]
fn cifar() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("data_batch_2.bin"), batch(&[3])).unwrap();
    fs::write(dir.path().join("data_batch_1.bin"), batch(&[1, 2])).unwrap();
    fs::write(dir.path().join("test_batch.bin"), batch(&[9, 8, 7, 6])).unwrap();
    fs::write(dir.path().join("batches.meta.txt"), "airplane automobile bird cat deer dog frog horse ship truck\n\n")
        .unwrap();
    let open = |o: &Options| Dataset::open(dir.path(), o).unwrap();
    let labels = |d: &Dataset| (0..d.len()).map(|i| d.label(i).unwrap()).collect::<Vec<_>>();
    let (train, test) = (open(&Options::calibration()), open(&Options::evaluation()));
    assert_eq!((labels(&train), labels(&test)), (vec![1, 2, 3], vec![9, 8, 7, 6]));
    assert_eq!(labels(&open(&with(Split::All))), [1, 2, 3, 9, 8, 7, 6]);
    assert_eq!((train.classes()[3].as_str(), train.label_count()), ("cat", 10));
    assert!(train.name(2).ends_with("data_batch_2.bin, record 0"));
    // Row 0, column 5 of record 1.
    let image = image_of(train.sample(1).unwrap());
    assert_eq!((image.width, image.height, &image.pixels[15..18]), (32, 32, &[6, 56, 106][..]));
    // As the file has it: channel-major.
    let tensor = train.first(&Preprocess::raw()).unwrap();
    let expected: Vec<f32> = batch(&[1])[1..].iter().map(|&b| b.into()).collect();
    assert_eq!((tensor.shape(), tensor.as_slice::<f32>().unwrap()), (&[3, 32, 32][..], &expected[..]));
    // One file.
    assert_eq!(Dataset::open(dir.path().join("test_batch.bin"), &Options::calibration()).unwrap().len(), 4);
    // Without the split that is asked for.
    fs::remove_file(dir.path().join("test_batch.bin")).unwrap();
    let e = Dataset::open(dir.path(), &Options::evaluation()).unwrap_err().to_string();
    assert!(e.contains("no test_batch.bin") && e.contains("train split"), "{e}");
}

#[test]
fn broken_cifar() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data_batch_1.bin");
    for (bytes, says) in [
        (batch(&[1, 10]), "record 1 has label 10"),
        (batch(&[1, 2])[..6145].to_vec(), "6145 bytes"),
        (vec![0; 3074], "CIFAR-100"),
        (vec![], "0 bytes"),
    ] {
        fs::write(&path, bytes).unwrap();
        for p in [dir.path(), &path] {
            let e = refused(p);
            assert!(e.contains(says) && e.contains("data_batch_1.bin"), "{e}");
        }
    }
}

fn idx(dims: &[u32], data: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 8, dims.len() as u8];
    out.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
    out.extend(data);
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::default());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

fn write(dir: &Path, name: &str, bytes: &[u8]) {
    fs::write(dir.join(name), bytes).unwrap();
}

#[test]
fn idx_files() {
    let dir = tempfile::tempdir().unwrap();
    let images = idx(&[2, 2, 3], &[0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]);
    write(dir.path(), "t10k-images-idx3-ubyte.gz", &gzip(&images));
    write(dir.path(), "t10k-labels-idx1-ubyte", &idx(&[2], &[4, 0]));
    let open = |name: &str| Dataset::open(dir.path().join(name), &Options::evaluation());
    for path in ["", "t10k-images-idx3-ubyte.gz"] {
        let set = open(path).unwrap();
        assert_eq!((set.len(), set.label(0), set.label(1), set.label_count()), (2, Some(4), Some(0), 5));
        let t = set.first(&Preprocess::mnist()).unwrap();
        assert_eq!((t.shape(), t.as_slice::<f32>().unwrap()[5]), (&[1, 2, 3][..], 5.0 / 255.0));
        assert_eq!(image_of(set.sample(1).unwrap()).pixels, [10, 11, 12, 13, 14, 15]);
    }
    let e = Dataset::open(dir.path(), &Options::calibration()).unwrap_err().to_string();
    assert!(e.contains("no train-images"), "{e}");
    let e = open("t10k-labels-idx1-ubyte").unwrap_err().to_string();
    assert!(e.contains("three dimensions"), "{e}");
    // Without labels beside them.
    write(dir.path(), "other", &images);
    assert!(!open("other").unwrap().has_labels());
}

#[test]
fn lying_idx_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images-idx3-ubyte");
    let max = u32::MAX;
    for (bytes, says) in [
        (idx(&[3, 2, 2], &[0; 11]), "12 bytes, but 11"),
        (idx(&[3, 2, 2], &[0; 13]), "12 bytes, but 13"),
        (idx(&[max, max, max], &[0; 13]), "addressed"),
        (idx(&[max, 28, 28], &[0; 13]), "but 13"),
        (idx(&[0, 28, 28], &[]), "no samples"),
        (idx(&[5, 0, 28], &[]), "0 x 28"),
        (vec![0, 0, 8, 3, 0, 0], "truncated"),
        (vec![0, 0, 0xD, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0], "0x0d"),
        (vec![0, 0, 8, 9], "no data that is known"),
        (gzip(&idx(&[3, 2, 2], &[0; 11])), "data holds 27"),
        (gzip(&idx(&[3, 2, 2], &[0; 13])), "more than"),
        (gzip(&idx(&[max, 60000, 28], &[0; 13])), "holds"),
        (gzip(b"hello world, no idx"), "no IDX"),
        (gzip(&idx(&[3, 2, 2], &[0; 12]))[..20].to_vec(), "corrupt"),
    ] {
        fs::write(&path, bytes).unwrap();
        let e = refused(&path);
        assert!(e.contains(says) && e.contains("images-idx3"), "{says}: {e}");
    }
    fs::write(&path, idx(&[2, 1, 1], &[0, 0])).unwrap();
    write(dir.path(), "labels-idx1-ubyte", &idx(&[3], &[0, 1, 2]));
    let e = refused(&path);
    assert!(e.contains("2 images") && e.contains("[3]"), "{e}");
}
