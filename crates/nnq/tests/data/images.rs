//! Decoding, against Pillow (`tools/golden_images.py`), and broken files.
use super::util::{all_ok, golden};
use nnq::data::{Image, MAX_PIXELS};

fn reference(name: &str) -> Image {
    let bytes = std::fs::read(golden(&format!("{name}.rgb"))).unwrap();
    let side = |i: usize| usize::from(u16::from_le_bytes([bytes[i], bytes[i + 1]]));
    Image::new(side(0), side(2), 3, bytes[4..].to_vec()).unwrap()
}

/// The largest difference to Pillow's pixels.
fn difference(name: &str) -> u8 {
    let image = Image::decode(&std::fs::read(golden(name)).unwrap(), MAX_PIXELS).unwrap().to_rgb();
    let wanted = reference(name);
    assert_eq!((image.width, image.height), (wanted.width, wanted.height), "{name}");
    image.pixels.iter().zip(&wanted.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn lossless_files_equal_pillow() {
    let names = [
        "rgb.png",
        "gray.png",
        "one.png",
        "palette.png",
        "palette_alpha.png",
        "rgba.png",
        "la.png",
        "gray_transparent.png",
        "rgb16.png",
        "gray16.png",
        "rgb.bmp",
        "rgba.bmp",
        "gray.bmp",
        "one.bmp",
        "palette.bmp",
    ];
    all_ok(names.iter().filter(|n| difference(n) != 0).map(|n| format!("{n}: {}", difference(n))).collect());
}

/// Decoders of JPEG may differ (inverse DCT, upsampling of chroma, colour conversion each round); libjpeg-turbo is
/// Pillow's. The figures are measured.
#[test]
fn jpeg_files_are_close_to_pillow() {
    let limits = [
        ("gray.jpg", 1),
        ("s444.jpg", 2),
        ("s422.jpg", 2),
        ("s420.jpg", 4),
        ("progressive.jpg", 4),
        ("restart.jpg", 2),
        ("rgb.jpg", 1),
        ("exif.jpg", 2),
        ("cmyk.jpg", 1),
        ("ycck.jpg", 2),
    ];
    let failures = limits
        .iter()
        .filter_map(|&(name, most)| {
            let d = difference(name);
            println!("{name}: largest difference to Pillow {d}");
            (d > most).then(|| format!("{name}: {d} > {most}"))
        })
        .collect();
    all_ok(failures);
}

#[test]
fn gray_files_have_one_channel() {
    let channels = |n: &str| Image::decode(&std::fs::read(golden(n)).unwrap(), MAX_PIXELS).unwrap().channels;
    assert_eq!(["gray.jpg", "gray.png", "la.png", "rgb.png", "cmyk.jpg"].map(channels), [1, 1, 1, 3, 3]);
}

/// Every proper prefix of every golden file is an error, never a panic and never an image that is partly gray.
#[test]
fn truncated_files_are_refused() {
    let mut failures = Vec::new();
    for entry in std::fs::read_dir(golden("")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".rgb") || name.ends_with(".tsv") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for end in 0..bytes.len() {
            // A PNG's pixels are whole before its last chunk: its absence changes nothing. BMP files are padded.
            let spare = if name.ends_with("png") {
                16
            } else if name.ends_with("bmp") {
                3
            } else {
                0
            };
            if end + spare < bytes.len() && Image::decode(&bytes[..end], MAX_PIXELS).is_ok() {
                failures.push(format!("{name}: {end} of {} bytes", bytes.len()));
                break;
            }
        }
    }
    all_ok(failures);
}

/// Motion photos and the like carry other data behind the image.
#[test]
fn data_after_the_image_is_ignored() {
    let good = std::fs::read(golden("s420.jpg")).unwrap();
    let image = Image::decode(&good, MAX_PIXELS).unwrap();
    let long = [&good[..], b"ftypmp42 \xFF\xDA\x00\x08 and so on"].concat();
    assert_eq!(Image::decode(&long, MAX_PIXELS).unwrap(), image);
}

/// Single bytes changed anywhere must never panic; most changes in compressed data must be noticed.
#[test]
fn corrupt_files_do_not_panic() {
    for name in
        ["s420.jpg", "progressive.jpg", "restart.jpg", "ycck.jpg", "rgb.png", "palette.png", "palette.bmp", "rgb16.png"]
    {
        let good = std::fs::read(golden(name)).unwrap();
        let mut noticed = 0;
        for i in 0..good.len() {
            for flip in [0xFF, 0x01, 0x80] {
                let mut bad = good.clone();
                bad[i] ^= flip;
                noticed += usize::from(Image::decode(&bad, 1 << 20).is_err());
            }
        }
        println!("{name}: {noticed} of {} changed bytes noticed", 3 * good.len());
        if name.ends_with("png") {
            assert!(noticed > 2 * good.len(), "{name}: {noticed}");
        }
    }
}

#[test]
fn bombs_are_refused_before_decoding() {
    // 65500 x 65500 pixels declared by the header of a small file.
    let mut jpeg = std::fs::read(golden("gray.jpg")).unwrap();
    let frame = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xFF, 0xDC, 0xFF, 0xDC]);
    let e = Image::decode(&jpeg, MAX_PIXELS).unwrap_err().to_string();
    assert!(e.contains("65500 x 65500"), "{e}");
    let mut bmp = std::fs::read(golden("rgb.bmp")).unwrap();
    bmp[18..26].copy_from_slice(&[0xFF, 0xFF, 0, 0, 0xFF, 0xFF, 0, 0]);
    let e = Image::decode(&bmp, MAX_PIXELS).unwrap_err().to_string();
    assert!(e.contains("65535 x 65535"), "{e}");
    let png = std::fs::read(golden("rgb.png")).unwrap();
    let e = Image::decode(&png, 21 * 14 - 1).unwrap_err().to_string();
    assert!(e.contains("limit of 293 pixels"), "{e}");
}

#[test]
fn other_formats_are_named() {
    for (bytes, says) in [
        (&b"GIF89a......"[..], "GIF"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"),
        (b"II*\0....", "TIFF"),
        (b"<html>", "no JPEG, PNG or BMP"),
        (b"", "empty"),
    ] {
        let e = Image::decode(bytes, MAX_PIXELS).unwrap_err().to_string();
        assert!(e.contains(says), "{e}");
    }
}
