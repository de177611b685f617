//! Eight-bit images and their decoding, as Pillow's `Image.open(path).convert("RGB")` gives them.
use crate::error::{Error, Result};
use image::{DynamicImage, ImageDecoder};
use std::io::Cursor;

/// The most pixels a file may declare (as many as Pillow takes without a warning): 268 MB decoded.
pub const MAX_PIXELS: usize = 89_478_485;
/// The largest image file that is read.
pub const MAX_FILE: u64 = 256 << 20;

/// An image: rows from the top, pixels from the left, channels together (HWC).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 (gray) or 3 (red, green, blue).
    pub channels: usize,
    /// `height * width * channels` values.
    pub pixels: Vec<u8>,
}

impl Image {
    /// An image from its pixels.
    ///
    /// # Errors
    /// When a side is 0, the channels are neither 1 nor 3, or the number of values does not fit.
    pub fn new(width: usize, height: usize, channels: usize, pixels: Vec<u8>) -> Result<Self> {
        if width == 0 || height == 0 {
            return Err(Error::malformed(format!("an image of {width} x {height} pixels holds nothing")));
        }
        if channels != 1 && channels != 3 {
            return Err(Error::unsupported(format!("an image of {channels} channels: 1 (gray) or 3 (RGB) are known")));
        }
        let expected = crate::ir::count(&[height, width, channels])?;
        if pixels.len() != expected {
            return Err(Error::malformed(format!(
                "{width} x {height} pixels of {channels} channels are {expected} values, found {}",
                pixels.len()
            )));
        }
        Ok(Self { width, height, channels, pixels })
    }

    /// Decodes a JPEG (gray, colour, CMYK, YCCK), PNG (any depth, palette, alpha) or BMP file. The content decides, not
    /// the file's name.
    ///
    /// Gray files give one channel, all others three. Alpha is dropped, not blended. Of 16-bit samples the high byte is
    /// kept (Pillow clips 16-bit gray to 255 instead). EXIF orientation and colour profiles are not applied. CMYK
    /// follows Pillow: inverted as Adobe stores it, then `R = (255 - C) * (255 - K) / 255`.
    ///
    /// JPEG carries no checksum: of damaged data what violates the code is found, the rest decodes to wrong pixels in every
    /// reader, and a scan that is cut off but properly ended decodes to gray.
    ///
    /// # Errors
    /// On anything else, on truncated or corrupt data, and on more than `max_pixels` pixels.
    pub fn decode(bytes: &[u8], max_pixels: usize) -> Result<Self> {
        match sniff(bytes) {
            Some("JPEG") => super::jpeg::decode(bytes, max_pixels),
            Some("PNG") => {
                let mut limits = image::Limits::default();
                // 16-bit RGBA and as much again for the decoder's rows.
                limits.max_alloc = Some((max_pixels as u64).saturating_mul(16));
                let decoder =
                    image::codecs::png::PngDecoder::with_limits(Cursor::new(bytes), limits).map_err(broken)?;
                dynamic(decoder, max_pixels)
            }
            Some("BMP") => {
                let decoder = image::codecs::bmp::BmpDecoder::new(Cursor::new(bytes)).map_err(broken)?;
                dynamic(decoder, max_pixels)
            }
            Some(other) => {
                Err(Error::unsupported(format!("{other} images are not read")).cure("convert them to PNG, JPEG or BMP"))
            }
            None if bytes.is_empty() => Err(Error::malformed("the file is empty")),
            None => Err(Error::malformed("the content is no JPEG, PNG or BMP image")),
        }
    }

    /// Three channels: gray is repeated.
    #[must_use]
    pub fn to_rgb(self) -> Self {
        if self.channels == 3 {
            return self;
        }
        let pixels = self.pixels.iter().flat_map(|&g| [g, g, g]).collect();
        Self { channels: 3, pixels, ..self }
    }

    /// One channel: ITU-R 601-2 luma as Pillow computes it, `(19595 R + 38470 G + 7471 B + 32768) >> 16`.
    #[must_use]
    pub fn to_gray(self) -> Self {
        if self.channels == 1 {
            return self;
        }
        let luma = |p: &[u8]| {
            let sum = 19595 * u32::from(p[0]) + 38470 * u32::from(p[1]) + 7471 * u32::from(p[2]) + 0x8000;
            (sum >> 16) as u8
        };
        let pixels = self.pixels.chunks_exact(3).map(luma).collect();
        Self { channels: 1, pixels, ..self }
    }

    /// The rectangle of `height` x `width` pixels whose upper left corner is at row `top`, column `left`.
    ///
    /// # Errors
    /// When it reaches beyond the image.
    pub fn crop(&self, top: usize, left: usize, height: usize, width: usize) -> Result<Self> {
        let inside = |at: usize, n: usize, all: usize| at.checked_add(n).is_some_and(|end| end <= all);
        if !inside(top, height, self.height) || !inside(left, width, self.width) {
            return Err(Error::shape(format!(
                "a crop of {height} x {width} (rows x columns) does not fit an image of {} x {}",
                self.height, self.width
            ))
            .cure("resize to at least the crop's size first"));
        }
        let (c, row) = (self.channels, self.width * self.channels);
        let pixels = (top..top + height)
            .flat_map(|y| &self.pixels[y * row + left * c..y * row + (left + width) * c])
            .copied()
            .collect();
        Self::new(width, height, c, pixels)
    }
}

/// The image format by the first bytes; names those that are recognised but not read, too.
pub(crate) fn sniff(bytes: &[u8]) -> Option<&'static str> {
    let is = |magic: &[u8]| bytes.starts_with(magic);
    Some(match () {
        () if is(&[0xFF, 0xD8, 0xFF]) => "JPEG",
        () if is(b"\x89PNG\r\n\x1a\n") => "PNG",
        () if is(b"BM") => "BMP",
        () if is(b"GIF8") => "GIF",
        () if is(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") => "WebP",
        () if is(b"II*\0") || is(b"MM\0*") => "TIFF",
        () if bytes.get(4..8) == Some(b"ftyp") => "HEIF/AVIF",
        () if is(b"\0\0\0\x0cJXL ") || is(&[0xFF, 0x0A]) => "JPEG XL",
        () => return None,
    })
}

/// Refuses images without pixels and decompression bombs, before anything is decoded.
pub(crate) fn check_size(width: usize, height: usize, max_pixels: usize) -> Result<()> {
    if width == 0 || height == 0 {
        return Err(Error::malformed(format!("an image of {width} x {height} pixels holds nothing")));
    }
    if width.checked_mul(height).is_none_or(|n| n > max_pixels) {
        return Err(Error::value(format!(
            "an image of {width} x {height} pixels is over the limit of {max_pixels} pixels"
        )));
    }
    Ok(())
}

fn dynamic(decoder: impl ImageDecoder, max_pixels: usize) -> Result<Image> {
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check_size(width, height, max_pixels)?;
    let high = |v: Vec<u16>| -> Vec<u8> { v.into_iter().map(|x| (x >> 8) as u8).collect() };
    // `keep` of every `of` samples: drops alpha.
    let drop = |v: Vec<u8>, of: usize, keep: usize| v.chunks_exact(of).flat_map(|p| &p[..keep]).copied().collect();
    let (channels, pixels) = match DynamicImage::from_decoder(decoder).map_err(broken)? {
        DynamicImage::ImageLuma8(i) => (1, i.into_raw()),
        DynamicImage::ImageLumaA8(i) => (1, drop(i.into_raw(), 2, 1)),
        DynamicImage::ImageRgb8(i) => (3, i.into_raw()),
        DynamicImage::ImageRgba8(i) => (3, drop(i.into_raw(), 4, 3)),
        DynamicImage::ImageLuma16(i) => (1, high(i.into_raw())),
        DynamicImage::ImageLumaA16(i) => (1, drop(high(i.into_raw()), 2, 1)),
        DynamicImage::ImageRgb16(i) => (3, high(i.into_raw())),
        DynamicImage::ImageRgba16(i) => (3, drop(high(i.into_raw()), 4, 3)),
        other => return Err(Error::unsupported(format!("pixels of type {:?}", other.color()))),
    };
    Image::new(width, height, channels, pixels)
}

fn broken(e: image::ImageError) -> Error {
    match e {
        image::ImageError::Unsupported(e) => Error::unsupported(e.to_string()),
        image::ImageError::Limits(e) => Error::value(e.to_string()),
        e => Error::malformed(format!("the image is truncated or corrupt: {e}")),
    }
}
