#!/usr/bin/env python3
"""Small image files and what Pillow's convert("RGB") makes of them, for crates/nnq/tests/data/images.rs.

Usage: golden_images.py crates/nnq/tests/data/golden. Needs numpy and Pillow; written with Pillow 13.0.0 (libjpeg-turbo).
NAME.rgb holds width and height as little-endian u16, then the pixels.
"""
import pathlib
import struct
import sys
import zlib

import numpy as np
from PIL import Image

out = pathlib.Path(sys.argv[1])
W, H = 21, 14
y, x = np.mgrid[0:H, 0:W]
rgb = np.stack([x * 12, y * 18, 255 - (x * 6 + y * 9)], -1).clip(0, 255).astype(np.uint8)
rgb[4:9, 6:12] = [220, 30, 60]
alpha = ((x + y) * 7).clip(0, 255).astype(np.uint8)
color = Image.fromarray(rgb)
gray = color.convert("L")


def reference(name, pixels=None):
    if pixels is None:
        pixels = np.asarray(Image.open(out / name).convert("RGB"))
    h, w = pixels.shape[:2]
    (out / (name + ".rgb")).write_bytes(struct.pack("<HH", w, h) + pixels.tobytes())


def save(name, image, **options):
    image.save(out / name, **options)
    reference(name)


save("gray.jpg", gray, quality=90)
save("s444.jpg", color, quality=90, subsampling="4:4:4")
save("s422.jpg", color, quality=90, subsampling="4:2:2")
save("s420.jpg", color, quality=90, subsampling="4:2:0")
save("progressive.jpg", color, quality=90, subsampling="4:2:0", progressive=True)
save("restart.jpg", color, quality=90, subsampling="4:4:4", restart_marker_rows=1)
save("rgb.jpg", color, quality=90, keep_rgb=True)
exif = Image.Exif()
exif[0x0112] = 6  # rotate by 90 degrees: not applied
save("exif.jpg", color, quality=90, subsampling="4:4:4", exif=exif)
cmyk = np.dstack([255 - rgb, (y * 9).astype(np.uint8)])
save("cmyk.jpg", Image.fromarray(cmyk, mode="CMYK"), quality=95)
# The same file declared as YCCK: Adobe's transform byte says 2 instead of 0.
data = bytearray((out / "cmyk.jpg").read_bytes())
at = data.index(b"Adobe")
assert data[at + 11] == 0
data[at + 11] = 2
(out / "ycck.jpg").write_bytes(data)
reference("ycck.jpg")

save("rgb.png", color)
save("gray.png", gray)
save("one.png", gray.convert("1"))
save("palette.png", color.quantize(13))
save("palette_alpha.png", color.quantize(5), transparency=2)
save("rgba.png", Image.fromarray(np.dstack([rgb, alpha])))
save("la.png", Image.merge("LA", [gray, Image.fromarray(alpha)]))
save("gray_transparent.png", gray, transparency=50)
save("rgb.bmp", color)
save("rgba.bmp", Image.fromarray(np.dstack([rgb, alpha])))
save("gray.bmp", gray)
save("one.bmp", gray.convert("1"))
save("palette.bmp", color.quantize(13))


def png16(name, samples, color_type):
    """A 16-bit PNG, which Pillow cannot write for colour."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    h, w = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    body = [(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, color_type, 0, 0, 0)), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    (out / name).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in body))


wide = rgb.astype(np.uint16) * 256 + 200
png16("rgb16.png", wide, 2)
reference("rgb16.png")
# Pillow clips 16-bit gray to 255; nnq keeps the high byte.
png16("gray16.png", wide[..., 0], 0)
reference("gray16.png", np.dstack([rgb[..., 0]] * 3))
