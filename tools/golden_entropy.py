#!/usr/bin/env python3
"""Golden numbers for the entropy range method (crates/nnq/testdata/entropy.json).

A slow, literal numpy version of the KL threshold search as TensorRT's calibration describes it: for each number of kept
bins, build both distributions bin by bin, normalise them and compute their divergence. Needs numpy. Run once:

    python3 tools/golden_entropy.py > crates/nnq/testdata/entropy.json
"""
import json

import numpy as np

BINS, LEAST = 2048, 128


def lcg(seed):
    while True:
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        yield seed >> 33


def histograms():
    """Integer histograms by integer formulas, so that the test can make the same ones."""
    noise = lcg(1)
    yield "power", [1000000 // (1 + i * i // 50) + next(noise) % 3 for i in range(BINS)]
    noise = lcg(2)
    yield "spike_and_tail", [
        (5000000 if i == 0 else 20000 - 40 * i if i < 500 else next(noise) % 50 // 48) for i in range(BINS)
    ]
    noise = lcg(3)
    yield "two_bumps", [
        max(0, 9000 - (i - 300) ** 2 // 10) + max(0, 300 - (i - 1500) ** 2 // 30) + next(noise) % 2
        for i in range(BINS)
    ]
    yield "flat", [7] * BINS


def divergences(histogram, levels):
    h = np.array(histogram, dtype=np.float64)
    h[0] = h[1]
    for kept in range(LEAST, BINS + 1):
        p = h[:kept].copy()
        p[-1] += h[kept:].sum()
        edges = np.linspace(0, kept, num=levels + 1)
        group = np.digitize(np.arange(kept), edges) - 1
        used = h[:kept] > 0
        mass = np.bincount(group, weights=h[:kept], minlength=levels)
        number = np.bincount(group, weights=used.astype(np.float64), minlength=levels)
        q = np.where(used, mass[group] / np.maximum(number[group], 1), 0.0)
        if q.sum() == 0 or np.any((p > 0) & (q == 0)):
            yield kept, np.inf
            continue
        p, q = p / p.sum(), q / q.sum()
        yield kept, float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))


def threshold(histogram, levels):
    all_ = list(divergences(histogram, levels))
    least = min(d for _, d in all_)
    # The last of those that are equal but for rounding.
    best = max(k for k, d in all_ if d <= least + 1e-13)
    ordered = sorted(d for k, d in all_ if k != best)
    return best, least, ordered[0] - least


def samples():
    """Heavy tails by square roots, which are correctly rounded: both sides compute the same binary32 numbers."""
    noise = lcg(7)
    out = []
    for _ in range(200000):
        u, sign = (next(noise) % 65536 + 1) / 65536, next(noise) % 2
        out.append(np.float32(np.sqrt(np.sqrt(1 / u)) - 1) * np.float32(1 - 2 * sign))
    return np.array(out, dtype=np.float32)


def main():
    cases = []
    for name, h in histograms():
        for levels in (8, 128, 256):
            kept, least, gap = threshold(h, levels)
            cases.append({"name": name, "levels": levels, "kept": kept, "divergence": least, "gap_to_next": gap})
    x = np.abs(samples())
    count, edges = np.histogram(x, bins=BINS, range=(0, float(x.max())))
    whole = []
    for levels in (8, 128):
        kept, least, _ = threshold(count.tolist(), levels)
        whole.append({"levels": levels, "threshold": float(edges[kept]), "amax": float(x.max()), "divergence": least})
    print(json.dumps({"histograms": cases, "samples": whole}, indent=1))


main()
