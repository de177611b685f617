#!/usr/bin/env python3
"""Golden numbers for crates/nnq/tests/data/resize.rs. Needs numpy and Pillow; written with Pillow 13.0.0.

Usage: golden_resize.py > crates/nnq/tests/data/golden/resize.tsv
Each line: input width, height, channels, output width, height, filter, SHA-256 of the output's pixels (HWC). Lines that
begin with `prep` hold a preset applied to an image file of that size: SHA-256 of the little-endian float32 CHW result.
"""
import hashlib

import numpy as np
from PIL import Image

FILTERS = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
SIZES = [
    # input -> output (width, height): up, down, odd aspects, one direction only, extremes
    ((7, 5), (3, 2)), ((3, 2), (7, 5)), ((64, 48), (32, 24)), ((500, 375), (341, 256)), ((375, 500), (256, 341)),
    ((33, 17), (33, 40)), ((33, 17), (90, 17)), ((1, 1), (5, 4)), ((100, 1), (9, 3)), ((1, 100), (3, 9)),
    ((640, 13), (1, 1)), ((127, 129), (224, 224)), ((301, 211), (299, 299)), ((32, 32), (224, 224)),
    ((999, 10), (333, 256)), ((256, 256), (256, 256)), ((2, 2), (97, 89)), ((1000, 7), (143, 1)),
]


def picture(width, height, channels):
    """Pseudorandom pixels (a linear congruential generator modulo 2^32, high byte), the same as in the test."""
    n = width * height * channels
    out = np.empty(n, np.uint8)
    state = (width * 73856093 ^ height * 19349663 ^ channels * 83492791) & 0xFFFFFFFF
    for i in range(n):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        # Every third run of 32 values is black or white, so that the overshoot of the bicubic kernel is clipped.
        out[i] = (255 if (i // 96) % 2 else 0) if (i // 32) % 3 == 2 else state >> 24
    return out.reshape((height, width) if channels == 1 else (height, width, channels))


def sha(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


for (w, h), (nw, nh) in SIZES:
    for c in (1, 3):
        image = Image.fromarray(picture(w, h, c))
        for name, value in FILTERS.items():
            print(w, h, c, nw, nh, name, sha(np.asarray(image.resize((nw, nh), value))), sep="\t")

MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)


def classical(image, resize):
    """torchvision's Resize(256), CenterCrop(224): the longer side is truncated, half pixels are rounded to even."""
    if resize:
        w, h = image.size
        w, h = (256, int(256 * h / w)) if w <= h else (int(256 * w / h), 256)
        image = image.resize((w, h), Image.BILINEAR)
    w, h = image.size
    left, top = int(round((w - 224) / 2.0)), int(round((h - 224) / 2.0))
    return image.crop((left, top, left + 224, top + 224))


def tensor(image):
    return np.asarray(image, np.float32).transpose(2, 0, 1)


for w, h in [(500, 375), (301, 411), (224, 224), (225, 300)]:
    image = classical(Image.fromarray(picture(w, h, 3)), (w, h) != (224, 224))
    x = tensor(image)
    print("prep", w, h, "imagenet", sha((x / np.float32(255) - MEAN) / STD), sep="\t")
    print("prep", w, h, "inception", sha(x / np.float32(127.5) - np.float32(1)), sep="\t")
image = Image.fromarray(picture(32, 32, 3))
print("prep", 32, 32, "cifar10", sha((tensor(image) / np.float32(255) - MEAN) / STD), sep="\t")
print("prep", 32, 32, "raw", sha(tensor(image)), sep="\t")
gray = np.asarray(image.convert("L"), np.float32)[None]
print("prep", 32, 32, "mnist", sha(gray / np.float32(255)), sep="\t")
