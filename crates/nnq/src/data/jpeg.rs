//! JPEG files: strict decoding, and the colour conversions of four-channel files as libjpeg and Pillow do them.
use super::image::{Image, check_size};
use crate::error::{Error, Result};
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::{JpegDecoder, errors::DecodeErrors};

pub(super) fn decode(bytes: &[u8], max_pixels: usize) -> Result<Image> {
    check_complete(bytes)?;
    match run(bytes, max_pixels, true) {
        // The decoder's strict mode is wanted for what it says about corrupt data. It also refuses harmless filling
        // between header segments, which cameras write and every other reader skips.
        Err(e) if e.cause().contains("Extra bytes between headers") => run(bytes, max_pixels, false),
        result => result,
    }
}

fn run(bytes: &[u8], max_pixels: usize, strict: bool) -> Result<Image> {
    let options = DecoderOptions::default()
        .set_strict_mode(strict)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(broken)?;
    let info = decoder.info().ok_or_else(|| Error::malformed("the JPEG has no frame header"))?;
    let (width, height) = (usize::from(info.width), usize::from(info.height));
    check_size(width, height, max_pixels)?;
    // Four channels are taken raw: the decoder's own conversion to RGB differs from libjpeg's.
    let (channels, out) = match (info.components, decoder.input_colorspace()) {
        (1, _) => (1, ColorSpace::Luma),
        (3, _) => (3, ColorSpace::RGB),
        (4, Some(ColorSpace::YCCK)) => (4, ColorSpace::YCCK),
        (4, _) => (4, ColorSpace::CMYK),
        (n, _) => return Err(Error::unsupported(format!("a JPEG of {n} components"))),
    };
    decoder.set_options(decoder.options().jpeg_set_out_colorspace(out));
    let raw = decoder.decode().map_err(broken)?;
    if raw.len() != width * height * channels {
        return Err(Error::malformed("the JPEG's scan does not fit its header"));
    }
    let pixels = match out {
        ColorSpace::YCCK => raw.chunks_exact(4).flat_map(|p| adobe(ycc([p[0], p[1], p[2]]), p[3])).collect(),
        ColorSpace::CMYK => {
            raw.chunks_exact(4).flat_map(|p| adobe([p[0], p[1], p[2]].map(|c| 255 - c), p[3])).collect()
        }
        _ => raw,
    };
    Image::new(width, height, if channels == 1 { 1 } else { 3 }, pixels)
}

/// YCC to the complement of CMY, with libjpeg's 16-bit fixed-point constants (1.402, 0.71414, 0.34414, 1.772).
fn ycc([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    const HALF: i32 = 1 << 15;
    [y + ((91881 * cr + HALF) >> 16), y + ((-22554 * cb - 46802 * cr + HALF) >> 16), y + ((116130 * cb + HALF) >> 16)]
        .map(|v| v.clamp(0, 255) as u8)
}

/// Pillow's CMYK to RGB from the inks (0 = none) and the stored, that is inverted, black.
fn adobe(ink: [u8; 3], inverted_black: u8) -> [u8; 3] {
    let light = u32::from(inverted_black);
    ink.map(|c| {
        let product = u32::from(c) * light + 128;
        (light - ((product + (product >> 8)) >> 8)) as u8
    })
}

/// A truncated file has no end-of-image marker; decoders fill what is missing with gray. Walks the segments, since data
/// of any kind may follow the image.
fn check_complete(bytes: &[u8]) -> Result<()> {
    let truncated = || Error::malformed("the JPEG is truncated: it has no end-of-image marker");
    let (mut at, mut scans) = (2, 0);
    loop {
        // Bytes between segments are skipped, as libjpeg does; after a scan's header these are the coded data.
        at += bytes.get(at..).and_then(|b| b.iter().position(|&b| b == 0xFF)).ok_or_else(truncated)?;
        let &marker = bytes.get(at + 1).ok_or_else(truncated)?;
        at += match marker {
            // A filling byte: the marker may begin at the next one.
            0xFF => 1,
            0xD9 if scans > 0 => return Ok(()),
            0xD9 => return Err(Error::malformed("the JPEG ends before its first scan")),
            // A coded byte FF, or a marker without a segment.
            0 | 1 | 0xD0..=0xD8 => 2,
            _ => {
                scans += u32::from(marker == 0xDA);
                let length = bytes.get(at + 2..at + 4).ok_or_else(truncated)?;
                2 + usize::from(u16::from_be_bytes([length[0], length[1]]))
            }
        };
    }
}

fn broken(e: DecodeErrors) -> Error {
    match e {
        DecodeErrors::Unsupported(e) => Error::unsupported(format!("JPEG: {e:?}")),
        e => Error::malformed(format!("the JPEG is corrupt: {e:?}")),
    }
}
