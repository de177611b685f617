//! Data that is broken, missing, or of another shape than the model wants.
use super::{
    files::{self, bmp, cifar, floats, model, npy, put, sound},
    onnx::{self, F32, net_of, value},
    table::{Row, fails, works},
};
use std::path::Path;

const QUANTIZE: &str = "quantize m.onnx --data data -o q.onnx";
const CROPPED: &str = "quantize m.onnx --data data --preprocess crop.toml -o q.onnx";
const HEADER: &str = "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3, 32, 32), }";

/// `m.onnx` for pictures of any size, and sixteen pictures in `data`.
fn folder(f: &Path) {
    put(f, "m.onnx", net_of(value("x", F32, "N 3 8 8")));
    for i in 0..16 {
        put(f, &format!("data/p{i:02}.bmp"), bmp(8, 8, i));
    }
}

/// `m.onnx` and `data/a.npy`.
fn array(f: &Path, bytes: Vec<u8>) {
    model(f);
    put(f, "a.npy", bytes);
}

#[rustfmt::skip]
pub fn rows() -> Vec<Row> {
    const NPY: &str = "quantize m.onnx --data a.npy -o q.onnx";
    const EVAL: &str = "eval m.onnx --data data";
    vec![
        // Where the data should be.
        fails("missing data", model, QUANTIZE, 1, &["data", "No such file"]),
        fails("empty folder", |f| { model(f); std::fs::create_dir(f.join("data")).unwrap(); }, QUANTIZE, 2, &["data", "no data that is known", "JPEG"]),
        fails("folder of texts", |f| { model(f); put(f, "data/a.txt", "a"); put(f, "data/b.md", "b"); }, QUANTIZE, 2, &["data", "no data that is known", "JPEG"]),
        fails("folder of an empty class", |f| { folder(f); std::fs::rename(f.join("data"), f.join("cats")).unwrap(); std::fs::create_dir_all(f.join("data/dogs")).unwrap(); std::fs::rename(f.join("cats"), f.join("data/cats")).unwrap(); }, QUANTIZE, 2, &["data/dogs", "no images"]),
        fails("folder of GIFs", |f| { model(f); put(f, "data/a.gif", "GIF89a"); }, QUANTIZE, 1, &["data/a.gif", "gif", "PNG, JPEG or BMP"]),
        fails("device for data", model, "quantize m.onnx --data /dev/zero -o q.onnx", 1, &["/dev/zero"]),
        fails("a model for data", model, "quantize m.onnx --data m.onnx -o q.onnx", 1, &["m.onnx", "no data that is known"]),
        // Pictures.
        works("one picture", |f| { model(f); put(f, "p.bmp", bmp(32, 32, 1)); }, "quantize m.onnx --data p.bmp -o q.onnx", &["q.onnx"]),
        Row { says: &["8 calibration samples"], ..works("fewer samples than asked", sound, "quantize m.onnx --data data --samples 100000 -o q.onnx", &["q.onnx"]) },
        works("gray JPEG", |f| { folder(f); put(f, "data/z.jpg", files::GRAY_JPEG); }, QUANTIZE, &["q.onnx"]),
        works("JPEG of four inks", |f| { folder(f); put(f, "data/z.jpg", files::CMYK_JPEG); }, QUANTIZE, &["q.onnx"]),
        fails("truncated JPEG", |f| { folder(f); put(f, "data/p05.jpg", &files::GRAY_JPEG[..300]); }, QUANTIZE, 1, &["data/p05.jpg", "truncated"]),
        fails("JPEG of a header only", |f| { folder(f); put(f, "data/p05.jpg", &files::GRAY_JPEG[..4]); }, QUANTIZE, 1, &["data/p05.jpg", "truncated"]),
        fails("corrupt picture among others", |f| { folder(f); put(f, "data/p07.bmp", &bmp(8, 8, 7)[..99]); }, QUANTIZE, 1, &["data/p07.bmp", "truncated or corrupt"]),
        fails("empty picture", |f| { folder(f); put(f, "data/p07.bmp", ""); }, QUANTIZE, 1, &["data/p07.bmp", "empty"]),
        fails("text called picture", |f| { folder(f); put(f, "data/p07.bmp", "no picture"); }, QUANTIZE, 1, &["data/p07.bmp", "no JPEG, PNG or BMP"]),
        fails("picture of terapixels", |f| { folder(f); let mut p = bmp(8, 8, 7); p[18..22].copy_from_slice(&2_000_000u32.to_le_bytes()); p[22..26].copy_from_slice(&2_000_000u32.to_le_bytes()); put(f, "data/p07.bmp", p); }, QUANTIZE, 1, &["data/p07.bmp", "2000000"]),
        fails("pictures of the wrong size", |f| { model(f); put(f, "data/a.bmp", bmp(24, 20, 1)); }, "quantize m.onnx --data data --preprocess cifar10 -o q.onnx", 1, &["m.onnx", "input 'x'", "[N, 3, 32, 32]", "[N, 3, 20, 24]", "crop = [32, 32]"]),
        fails("pictures of several sizes", |f| { folder(f); put(f, "m.onnx", net_of(value("x", F32, "N 3 H W"))); put(f, "data/p07.bmp", bmp(12, 8, 7)); }, QUANTIZE, 1, &["data/p07.bmp", "[3, 8, 12]", "[3, 8, 8]", "resize and crop"]),
        fails("pictures smaller than the crop", |f| { folder(f); put(f, "crop.toml", "crop = [32, 32]\n"); }, CROPPED, 1, &["data/p", "32 x 32", "8 x 8", "resize"]),
        fails("wrong number of channels", |f| { put(f, "m.onnx", net_of(value("x", F32, "N 3 32 32"))); put(f, "data/a.bmp", bmp(32, 32, 1)); }, "quantize m.onnx --data data --preprocess mnist -o q.onnx", 1, &["m.onnx", "input 'x'", "[N, 3, 32, 32]", "[N, 1, 32, 32]", "color = \"rgb\""]),
        fails("wrong order of dimensions", |f| { put(f, "m.onnx", net_of(value("x", F32, "N 32 32 3"))); put(f, "data/a.bmp", bmp(32, 32, 1)); }, QUANTIZE, 1, &["m.onnx"]),
        // Arrays.
        works("array", |f| array(f, floats("(4, 3, 32, 32)", &[0.5; 12288])), NPY, &["q.onnx"]),
        fails("array of the wrong shape", |f| array(f, floats("(4, 3, 16, 16)", &[0.5; 3072])), NPY, 1, &["m.onnx", "input 'x'", "[N, 3, 32, 32]", "[N, 3, 16, 16]"]),
        fails("array with NaN", |f| { let mut v = vec![0.5; 12288]; v[5000] = f32::NAN; array(f, floats("(4, 3, 32, 32)", &v)); }, NPY, 1, &["m.onnx", "'x'", "NaN"]),
        fails("array that is cut off", |f| array(f, npy(HEADER, &[0; 999])), NPY, 1, &["a.npy", "49152 bytes", "999"]),
        fails("array of petabytes", |f| array(f, npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1125899906842624, 3, 32, 32), }", &[0; 64])), NPY, 1, &["a.npy", "1125899906842624"]),
        fails("array beyond 64 bits", |f| array(f, npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 3), }", &[0; 64])), NPY, 1, &["a.npy", "dimension"]),
        fails("array of objects", |f| array(f, npy("{'descr': '|O', 'fortran_order': False, 'shape': (4,), }", &[0; 64])), NPY, 1, &["a.npy", "\"|O\""]),
        fails("array whose header never ends", |f| array(f, npy("{'descr': '<f4', 'shape': ((((((((((", &[0; 64])), NPY, 1, &["a.npy", "header"]),
        fails("array whose header is binary", |f| array(f, [b"\x93NUMPY\x01\x00\xff\xff".to_vec(), vec![0xfe; 70_000]].concat()), NPY, 1, &["a.npy", "no text"]),
        fails("array of nothing", |f| array(f, floats("(0, 3, 32, 32)", &[])), NPY, 2, &["a.npy", "no samples"]),
        fails("array to run of the wrong shape", |f| array(f, floats("(1, 3, 16, 32)", &[0.5; 1536])), "run m.onnx --input a.npy -o y.npy", 1, &["m.onnx", "'x'", "[N, 3, 32, 32]", "[1, 3, 16, 32]"]),
        fails("array to run of the wrong type", |f| array(f, npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1, 3, 1, 1), }", &[0; 24])), "run m.onnx --input a.npy -o y.npy", 1, &["m.onnx", "'x'", "f32", "i64"]),
        works("array to run", |f| array(f, floats("(3, 32, 32)", &[0.5; 3072])), "run m.onnx --input a.npy -o y.npy", &["y.npy"]),
        Row { says: &["[0, 10]"], ..works("array of no samples to run", |f| array(f, floats("(0, 3, 32, 32)", &[])), "run m.onnx --input a.npy -o y.npy", &["y.npy"]) },
        fails("broken archive", |f| { model(f); put(f, "a.npz", "PK\x03\x04 and nothing more"); }, "quantize m.onnx --data a.npz -o q.onnx", 1, &["a.npz"]),
        // Other sets.
        fails("CIFAR file of the wrong length", |f| { model(f); put(f, "data/data_batch_1.bin", &cifar(3)[..9000]); }, QUANTIZE, 1, &["data/data_batch_1.bin", "9000 bytes", "3073"]),
        fails("CIFAR file with an impossible label", |f| { model(f); let mut c = cifar(3); c[3073] = 77; put(f, "data/data_batch_1.bin", c); }, QUANTIZE, 1, &["data/data_batch_1.bin", "record 1", "77"]),
        fails("CIFAR folder without training part", |f| { model(f); put(f, "data/test_batch.bin", cifar(3)); }, QUANTIZE, 2, &["data", "data_batch_*.bin"]),
        fails("IDX file that lies", |f| { model(f); put(f, "a.idx3-ubyte", [&[0, 0, 8, 3][..], &[255; 12], &[0; 100]].concat()); }, "quantize m.onnx --data a.idx3-ubyte -o q.onnx", 1, &["a.idx3-ubyte"]),
        fails("list of missing files", |f| { model(f); put(f, "l.txt", "a.bmp\t1\n"); }, "quantize m.onnx --data l.txt -o q.onnx", 2, &["l.txt, line 1", "a.bmp", "no such file"]),
        // Labels.
        fails("no labels", folder, EVAL, 2, &["m.onnx", "no labels", "sub-folder per class"]),
        fails("no labels after calibration", |f| { model(f); files::pictures(f); put(f, "e/a.bmp", bmp(32, 32, 1)); }, "quantize m.onnx --data data --eval e -o q.onnx", 2, &["m.onnx", "no labels"]),
        fails("more classes than outputs", |f| { model(f); (0..12).for_each(|i| put(f, &format!("data/c{i:02}/a.bmp"), bmp(32, 32, i))); }, EVAL, 1, &["m.onnx", "12 classes", "10 outputs"]),
        fails("fewer classes than outputs", |f| { model(f); (0..2).for_each(|i| put(f, &format!("data/c{i:02}/a.bmp"), bmp(32, 32, i))); }, EVAL, 2, &["m.onnx", "2 classes", "10 outputs", "--classes"]),
        fails("malformed table of classes", |f| { sound(f); put(f, "c.tsv", "cat\t1\ndog\ttwo\n"); }, "eval m.onnx --data data --classes c.tsv", 1, &["c.tsv", "line 2", "dog", "name TAB index"]),
        fails("table of classes without a class", |f| { model(f); (0..2).for_each(|i| put(f, &format!("data/c{i:02}/a.bmp"), bmp(32, 32, i))); put(f, "c.tsv", "c00\t3\n"); }, "eval m.onnx --data data --classes c.tsv", 2, &["m.onnx", "\"c01\"", "--classes"]),
        fails("table of classes beyond the outputs", |f| { model(f); (0..2).for_each(|i| put(f, &format!("data/c{i:02}/a.bmp"), bmp(32, 32, i))); put(f, "c.tsv", "c00\t3\nc01\t10\n"); }, "eval m.onnx --data data --classes c.tsv", 2, &["m.onnx", "\"c01\"", "output 10"]),
        fails("model without batch", |f| { put(f, "m.onnx", onnx::Model { nodes: vec![onnx::node("Relu", &["x"], "y")], inputs: vec![value("x", F32, "")], outputs: vec![value("y", F32, "?")], ..onnx::net() }.build()); files::pictures(f); }, QUANTIZE, 1, &["m.onnx", "input 'x'"]),
    ]
}
