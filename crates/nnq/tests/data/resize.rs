//! Resizing equals Pillow's, bit for bit (`tools/golden_resize.py`).
use super::util::{all_ok, golden, picture, sha};
use nnq::data::{Filter, Image, resize};

fn fields(line: &str) -> Vec<&str> {
    line.split('\t').collect()
}

#[test]
fn equals_pillow() {
    let text = std::fs::read_to_string(golden("resize.tsv")).unwrap();
    let (mut cases, mut failures) = (0, Vec::new());
    for line in text.lines().filter(|l| !l.starts_with("prep")) {
        let f = fields(line);
        let n = |i: usize| f[i].parse::<usize>().unwrap();
        let filter = match f[5] {
            "nearest" => Filter::Nearest,
            "bilinear" => Filter::Bilinear,
            "bicubic" => Filter::Bicubic,
            other => panic!("{other}"),
        };
        let out = resize(&picture(n(0), n(1), n(2)), n(3), n(4), filter).unwrap();
        assert_eq!((out.width, out.height, out.channels), (n(3), n(4), n(2)));
        if sha(&out.pixels) != f[6] {
            failures.push(line.to_owned());
        }
        cases += 1;
    }
    assert_eq!(cases, 108);
    all_ok(failures);
}

#[test]
fn a_constant_stays_constant() {
    let image = Image::new(37, 23, 3, vec![201; 37 * 23 * 3]).unwrap();
    for filter in [Filter::Nearest, Filter::Bilinear, Filter::Bicubic] {
        for (w, h) in [(1, 1), (5, 90), (200, 3), (36, 24)] {
            let out = resize(&image, w, h, filter).unwrap();
            assert!(out.pixels.iter().all(|&p| p == 201), "{filter:?} {w} {h}");
        }
    }
}

#[test]
fn absurd_sizes_are_refused() {
    let image = picture(4, 4, 3);
    for (w, h) in [(0, 4), (4, 0), (usize::MAX, 2), (1 << 20, 1 << 20)] {
        assert!(resize(&image, w, h, Filter::Bilinear).is_err(), "{w} {h}");
    }
}
