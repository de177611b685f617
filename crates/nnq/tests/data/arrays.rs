//! `.npy` and `.npz`.
use super::util::{all_ok, refused};
use half::f16;
use nnq::{
    data::{Dataset, NpyArray, Options, Sample, save_npy, save_npz},
    ir::{DType, Tensor},
};
use std::{io::Write, path::Path};

/// A `.npy` file with this header text and these elements.
fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
}

fn head(descr: &str, shape: &str) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n")
}

fn parse(bytes: Vec<u8>) -> nnq::Result<NpyArray> {
    NpyArray::from_bytes(&bytes.into())
}

fn archive(path: &Path, entries: &[(&str, Vec<u8>)], method: zip::CompressionMethod) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in entries {
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

fn open(path: &Path) -> Dataset {
    Dataset::open(path, &Options::evaluation()).unwrap()
}

fn values(set: &Dataset, i: usize) -> (Vec<usize>, Vec<f32>) {
    match set.sample(i).unwrap() {
        Sample::Array(t, _) => (t.shape().to_vec(), t.to_f32s()),
        Sample::Image { image, .. } => panic!("{image:?}"),
    }
}

/// Bytes that `numpy.save` 2.4 wrote for `numpy.arange(6, dtype=">f4").reshape(2, 3)`.
#[test]
fn reads_what_numpy_wrote() {
    let mut header = head(">f4", "(2, 3)").trim_end().to_owned();
    header.push_str(&" ".repeat(128 - 10 - 1 - header.len()));
    header.push('\n');
    let data: Vec<u8> = (0..6u8).flat_map(|i| f32::from(i).to_be_bytes()).collect();
    let array = parse(npy(&header, &data)).unwrap();
    assert_eq!((array.dtype(), array.shape()), (DType::F32, &[2, 3][..]));
    assert_eq!(array.to_tensor().unwrap().as_slice::<f32>().unwrap(), [0., 1., 2., 3., 4., 5.]);
    assert_eq!(array.row(1).unwrap().as_slice::<f32>().unwrap(), [3., 4., 5.]);
    assert!(array.row(2).is_err());
}

/// The format's own example of a header: `numpy.save` of `numpy.zeros((1, 2), "<i2")`, byte for byte.
#[test]
fn writes_what_numpy_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    save_npy(&path, &Tensor::of(&[1, 2], vec![7i16, -1])).unwrap();
    let mut expected = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<i2', 'fortran_order': False, 'shape': (1, 2), }".to_vec();
    expected.resize(127, b' ');
    expected.extend(b"\n\x07\0\xff\xff");
    assert_eq!(std::fs::read(&path).unwrap(), expected);
    // Nothing else is left in the folder.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn all_types_go_back_and_forth() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    let tensors = [
        Tensor::of(&[3], vec![1.5f32, -0.0, f32::INFINITY]),
        Tensor::of(&[1, 1], vec![2.5f64]),
        Tensor::of(&[2], vec![f16::ONE, f16::MAX]),
        Tensor::of(&[2, 0, 3], Vec::<i64>::new()),
        Tensor::of(&[], vec![-5i8]),
        Tensor::of(&[2], vec![u16::MAX, 3]),
        Tensor::of(&[2, 2], vec![1u64, u64::MAX, 0, 4]),
        Tensor::from_bools(&[3], &[true, false, true]),
    ];
    for t in &tensors {
        save_npy(&path, t).unwrap();
        let back = NpyArray::open(&path).unwrap().to_tensor().unwrap();
        assert_eq!((back.dtype(), back.shape()), (t.dtype(), t.shape()));
        assert_eq!(back.data().as_bytes(), t.data().as_bytes());
    }
    let e = save_npy(&path, &Tensor::of(&[1], vec![half::bf16::ONE])).unwrap_err().to_string();
    assert!(e.contains("bf16"), "{e}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no partial file is left");
    assert!(save_npy(&dir.path().join("no/such/folder/a.npy"), &tensors[0]).is_err());
    save_npz(&dir.path().join("a.npz"), &[("x", &tensors[0]), ("y", &Tensor::of(&[3], vec![4u8, 5, 6]))]).unwrap();
    let set = open(&dir.path().join("a.npz"));
    assert_eq!((set.len(), set.label(2), values(&set, 0)), (3, Some(6), (vec![], vec![1.5])));
}

#[test]
fn hostile_headers_are_refused() {
    let huge = usize::MAX;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "no .npy"),
        (b"\x93NUMP".to_vec(), "no .npy"),
        (b"\x93NUMPY".to_vec(), "truncated"),
        (b"\x93NUMPY\x01\x00\xff".to_vec(), "truncated"),
        (b"\x93NUMPY\x01\x00\xff\xff{".to_vec(), "truncated"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{".to_vec(), "4294967295 bytes"),
        (b"\x93NUMPY\x09\x00\x02\x00{}".to_vec(), "version 9.0"),
        (npy("{}", &[]), "lacks"),
        (npy("", &[]), "where '{'"),
        (npy("{'descr': '<f4', 'shape': (1,), }", &[0; 4]), "fortran_order"),
        (npy(&head("<f4", &format!("({huge}, {huge})")), &[]), "addressed"),
        (npy(&head("<f8", &format!("({},)", isize::MAX)), &[]), "addressed"),
        (npy(&head("<f4", "(99999999999999999999999999,)"), &[]), "a dimension"),
        (npy(&head("<f4", "(-1,)"), &[]), "a dimension"),
        (npy(&head("<f4", "(3,)"), &[0; 11]), "12 bytes, but 11"),
        (npy(&head("<f4", "(3,)"), &[0; 13]), "12 bytes, but 13"),
        (npy(&head("<f4", "(1000000000,)"), &[0; 4]), "4000000000 bytes, but 4"),
        (npy(&head("<f4", "3"), &[0; 12]), "where '('"),
        (npy(&head("<f4", "(3"), &[0; 12]), "a dimension"),
        (npy(&head("<f4", "(3 4)"), &[0; 48]), "a comma"),
        (npy(&head("<f4", &format!("({})", "1,".repeat(65))), &[0; 4]), "more than 64"),
        (npy(&head("<f4", &"(".repeat(5000)), &[]), "a dimension"),
        (npy(&head("|O", "(1,)"), &[0; 8]), "\"|O\""),
        (npy(&head("<c8", "(1,)"), &[0; 8]), "\"<c8\""),
        (npy(&head("é4", "(1,)"), &[0; 8]), "\"é4\""),
        (npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", &[0; 4]), "records"),
        (npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2)}", &[0; 16]), "column-major"),
        (npy("{'descr': '<f4', 'fortran_order': 1, 'shape': (2, 2)}", &[0; 16]), "True or False"),
        (npy("{'descr': '<f4', 'order': False, 'shape': (2, 2)}", &[0; 16]), "\"order\""),
        (npy("{'descr: '<f4'}", &[]), "':'"),
        (npy("{'descr", &[]), "a whole string"),
    ];
    let mut failures = Vec::new();
    for (bytes, says) in cases {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(90)]).into_owned();
        match parse(bytes) {
            Ok(a) => failures.push(format!("{shown}: {a:?}")),
            Err(e) if !e.to_string().contains(says) => failures.push(format!("{shown}: {e}")),
            Err(_) => {}
        }
    }
    // A bool of 2 shows only when it is read.
    assert!(parse(npy(&head("|b1", "(1,)"), &[2])).unwrap().to_tensor().is_err());
    all_ok(failures);
}

#[test]
fn npy_data_sets() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    save_npy(&path, &Tensor::of(&[4, 2], (0..8i32).collect())).unwrap();
    let set = open(&path);
    assert_eq!((set.len(), set.has_labels(), values(&set, 3)), (4, false, (vec![2], vec![6., 7.])));
    for (shape, says) in [(&[0, 3][..], "no samples"), (&[3, 0], "hold nothing"), (&[], "single number")] {
        let n = shape.iter().product();
        save_npy(&path, &Tensor::of(shape, vec![0f32; n])).unwrap();
        let e = refused(&path);
        assert!(e.contains(says) && e.contains("a.npy"), "{e}");
    }
}

#[test]
fn npz_data_sets() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npz");
    let x = |n: u8| npy(&head("|u1", &format!("({n}, 2)")), &(0..2 * n).collect::<Vec<_>>());
    let y = |n: u8| {
        npy(&head("<i4", &format!("({n},)")), &(0..n).flat_map(|i| i32::from(i).to_le_bytes()).collect::<Vec<_>>())
    };
    for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
        archive(&path, &[("notes.txt", vec![1]), ("x.npy", x(3)), ("y.npy", y(3))], method);
        let set = open(&path);
        assert_eq!((set.len(), set.label(2), values(&set, 2)), (3, Some(2), (vec![2], vec![4., 5.])), "{method}");
        // The only array, whatever it is called; numbers that describe it are no samples.
        archive(
            &path,
            &[("mfcc.npy", x(3)), ("label.npy", y(3)), ("scale.npy", npy(&head("<f4", "()"), &[0; 4]))],
            method,
        );
        assert_eq!((open(&path).len(), open(&path).label_count()), (3, 3));
    }
    let stored = zip::CompressionMethod::Stored;
    // Keras' names, by split.
    archive(&path, &[("x_train.npy", x(4)), ("y_train.npy", y(4)), ("x_test.npy", x(2)), ("y_test.npy", y(2))], stored);
    assert_eq!((open(&path).len(), Dataset::open(&path, &Options::calibration()).unwrap().len()), (2, 4));
    // By name.
    archive(&path, &[("a.npy", x(4)), ("b.npy", x(2))], stored);
    assert!(refused(&path).contains("a [4, 2], b [2, 2]"), "{}", refused(&path));
    let named = Options { inputs: Some("b".into()), ..Options::calibration() };
    assert_eq!(Dataset::open(&path, &named).unwrap().len(), 2);
    let wrong = Options { labels: Some("c".into()), ..named };
    assert!(Dataset::open(&path, &wrong).unwrap_err().to_string().contains("\"c\""));
    // Wrong shapes and values.
    let negative = npy(&head("<i4", "(3,)"), &[0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]);
    for (labels, says) in [
        (y(2), "[2], expected [3]"),
        (x(3), "[3, 2], expected [3]"),
        (negative, "-1"),
        (npy(&head("<f4", "(3,)"), &[0; 12]), "expected integers"),
    ] {
        archive(&path, &[("x.npy", x(3)), ("y.npy", labels)], stored);
        let e = refused(&path);
        assert!(e.contains(says) && e.contains("\"y\""), "{e}");
    }
    archive(&path, &[], stored);
    assert!(refused(&path).contains("holds no samples"));
    archive(&path, &[("x.npy", b"hello".to_vec())], stored);
    assert!(refused(&path).contains("\"x\""));
}

#[test]
fn broken_archives_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npz");
    let data = npy(&head("|u1", "(1000, 30)"), &(0..30_000u32).map(|i| ((i * i) >> 7) as u8).collect::<Vec<_>>());
    for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
        archive(&path, &[("x.npy", data.clone())], method);
        let good = std::fs::read(&path).unwrap();
        // A changed byte of the elements does not fit the CRC.
        let mut bad = good.clone();
        bad[2000] ^= 4;
        std::fs::write(&path, &bad).unwrap();
        assert!(refused(&path).contains("corrupt"), "{method}: {}", refused(&path));
        for end in [0, 3, 100, 2000, good.len() - 1] {
            std::fs::write(&path, &good[..end]).unwrap();
            assert!(!refused(&path).is_empty());
        }
        // A header that promises more or less than there is.
        for (shape, says) in [("(1001, 30)", "30030 bytes"), ("(999, 30)", "29970 bytes"), ("(99999999, 30)", "bytes")]
        {
            archive(&path, &[("x.npy", npy(&head("|u1", shape), &data[data.len() - 30_000..]))], method);
            // The total of the compressed form includes the header.
            let e = refused(&path);
            assert!(e.contains(says) || method == zip::CompressionMethod::Deflated && e.contains("announce"), "{e}");
        }
    }
}

/// 40 MB of zeros compress to 40 kB; they go through a temporary file.
#[test]
fn large_compressed_arrays_are_not_held_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npz");
    let mut data = npy(&head("|u1", "(40, 1000000)"), &[]);
    let start = data.len();
    data.resize(start + 40_000_000, 0);
    data[start + 39_000_000] = 77;
    archive(&path, &[("x.npy", data)], zip::CompressionMethod::Deflated);
    let set = open(&path);
    assert_eq!((set.len(), values(&set, 39).1[0], values(&set, 38).1[0]), (40, 77.0, 0.0));
}
