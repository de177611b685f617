use super::*;
use crate::error::ErrorKind;
use serde_json::Value as Json;
use std::{io::Write as _, path::PathBuf};
use zip::write::SimpleFileOptions;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torchvision").join(name)
}

/// Files that PyTorch and safetensors wrote (`tools/torchvision_names.py`), against the numbers that PyTorch printed.
#[test]
fn files_of_others_hold_their_numbers() {
    let said: BTreeMap<String, Json> =
        serde_json::from_str(&std::fs::read_to_string(golden("small.json")).unwrap()).unwrap();
    for name in ["small.pth", "checkpoint.pth", "small.safetensors"] {
        let found = read(&golden(name)).unwrap();
        assert!(found.keys().eq(said.keys()), "{name}");
        for (key, tensor) in &found {
            let numbers =
                |at: &str| said[key][at].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect::<Vec<_>>();
            let shape: Vec<f64> = tensor.shape().iter().map(|n| *n as f64).collect();
            assert_eq!(shape, numbers("shape"), "{name}: {key}");
            // 0.1 is the one that binary32 does not hold.
            let wanted: Vec<f32> = numbers("numbers").iter().map(|x| *x as f32).collect();
            assert_eq!(tensor.to_f32s(), wanted, "{name}: {key}");
        }
    }
}

/// Every beginning of a file and every changed byte is read, or refused with the file's name; nothing panics or takes long.
#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged");
    for name in ["small.pth", "small.safetensors"] {
        let whole = std::fs::read(golden(name)).unwrap();
        for length in (0..whole.len()).step_by(61) {
            std::fs::write(&path, &whole[..length]).unwrap();
            let e = read(&path).unwrap_err();
            assert!(e.to_string().contains("damaged"), "{e}");
        }
        for at in (0..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x41;
            std::fs::write(&path, &bytes).unwrap();
            drop(read(&path));
        }
    }
}

/// An archive as torch.save writes it, with this pickle.
fn archive(pickle: &[u8], storage: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut zip = zip::ZipWriter::new(file.reopen().unwrap());
    for (name, bytes) in [("net/data.pkl", pickle), ("net/data/0", storage)] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    file
}

fn refused(pickle: &[u8]) -> (ErrorKind, String) {
    let e = read(archive(pickle, &[0; 8]).path()).unwrap_err();
    (e.kind(), e.to_string())
}

/// Two floats at `offset` with `stride`, under the name `w`.
fn pickled(offset: u8, stride: u8, module: &str, function: &str) -> Vec<u8> {
    let mut p = b"\x80\x02}X\x01\x00\x00\x00w".to_vec();
    p.extend(format!("c{module}\n{function}\n(").bytes());
    p.extend(b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ");
    p.extend([b'K', offset, b'K', 2, 0x85, b'K', stride, 0x85, 0x89]);
    p.extend(b"}tRs.");
    p
}

#[test]
fn nothing_of_a_file_is_executed_or_believed() {
    let good = pickled(0, 1, "torch._utils", "_rebuild_tensor_v2");
    let mut storage = 1.5f32.to_le_bytes().to_vec();
    storage.extend((-2f32).to_le_bytes());
    assert_eq!(read(archive(&good, &storage).path()).unwrap()["w"].to_f32s(), [1.5, -2.0]);
    // Another function than the one that builds tensors is a value like any other, and no tensor.
    let (kind, text) = refused(&pickled(0, 1, "os", "system"));
    assert!(kind == ErrorKind::Unsupported && text.contains("'w'"), "{text}");
    for (offset, stride) in [(1, 1), (0, 2), (255, 255)] {
        let (_, text) = refused(&pickled(offset, stride, "torch._utils", "_rebuild_tensor_v2"));
        assert!(text.contains("outside of its storage"), "{text}");
    }
    // A storage that says more than it has.
    let text = read(archive(&good, &[0; 4]).path()).unwrap_err().to_string();
    assert!(text.contains("4 bytes"), "{text}");
    // Lists of lists of lists, each of two of those before: 2^60 values from 300 bytes.
    let mut bomb = b"\x80\x02]K\x01aq\x00".to_vec();
    for i in 0..60u8 {
        bomb.extend([b'0', b']', b'(', b'h', i, b'h', i, b'e', b'q', i + 1]);
    }
    bomb.push(b'.');
    assert!(refused(&bomb).1.contains("grows beyond any network"));
    assert!(refused(&vec![b'N'; 5_000_000]).1.contains("grows beyond any network"));
    // Tuples in tuples: whoever walks or drops them would run out of stack.
    let deep = [vec![b'('; 200_000], vec![b't'; 200_000], vec![b'.']].concat();
    assert!(refused(&deep).1.contains("nested beyond any network"));
    for (pickle, what) in [
        (&b"\x80\x02c"[..], "truncated"),
        (b"0.", "empty stack"),
        (b"t.", "mark"),
        (b"h\x07.", "did not keep"),
        (b"K\x01.", "no dictionary"),
        (b"i.", "instruction 0x69"),
        (b"X\xff\xff\xff\xffab", "truncated"),
        (b"}K\x01K\x02s.", "no text"),
    ] {
        let (_, text) = refused(pickle);
        assert!(text.contains(what), "{what}: {text}");
    }
}
