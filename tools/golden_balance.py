#!/usr/bin/env python3
"""Golden numbers of balancing and analytic bias correction for crates/nnq/testdata/balance.json.

usage: golden_balance.py > crates/nnq/testdata/balance.json         (needs numpy)

Written from the papers' formulas, on a chain of three 1-position layers, expand (6 x 4), depthwise (6 channels, 9 taps), project (5 x 6):
- equalize: Nagel et al. (2019), section 4.1; for three layers the scales in closed form: all ranges become (r1 r2 r3)^(1/3)
- absorb: section 4.1.3, c = max(0, mean - 3 deviation)
- smooth: Xiao et al. (2023), equation 4, for alpha 0.5 and 0.75
- bias: section 4.2, the error of the mean, with the clipped normal distribution integrated numerically (no closed form)
- clipped: mean and variance of a clamped normal distribution by numerical integration
- hqq: Badri and Shaji (2023): codes and zero point of groups of weights, written as the paper has the two steps
"""
import json

import numpy as np

rng = np.random.default_rng(11)


def lists(**arrays):
    return {k: (np.asarray(v, np.float64).ravel().tolist()) for k, v in arrays.items()}


def clipped(mean, deviation, lo, hi, slope=0.0, points=2_000_001):
    """Mean and variance of clamp(x, lo, hi) (or of a bend at 0) by the midpoint rule over 12 deviations."""
    edge = np.linspace(-12, 12, points)
    x = (edge[1:] + edge[:-1]) / 2
    weight = np.exp(-0.5 * x * x)
    weight /= weight.sum()
    x = mean + deviation * x
    y = np.where(x > 0, x, slope * x) if slope else np.clip(x, lo, hi)
    m = (weight * y).sum()
    return m, (weight * (y - m) ** 2).sum()


# Three layers, channels of very different sizes.
w1 = (rng.standard_normal((6, 4)) * 10 ** rng.uniform(-1, 1, (6, 1))).astype(np.float32).astype(np.float64)
w2 = (rng.standard_normal((6, 9)) * 10 ** rng.uniform(-1, 1, (6, 1))).astype(np.float32).astype(np.float64)
w3 = (rng.standard_normal((5, 6)) * 10 ** rng.uniform(-1, 1, (1, 6))).astype(np.float32).astype(np.float64)
b1, b2, b3 = (rng.standard_normal(n).astype(np.float32).astype(np.float64) for n in (6, 6, 5))
r1, r2, r3 = abs(w1).max(axis=1), abs(w2).max(axis=1), abs(w3).max(axis=0)
each = (r1 * r2 * r3) ** (1 / 3)
s1, s2 = r1 / each, each / r3
equalized = lists(w1=w1 / s1[:, None], b1=b1 / s1, w2=w2 * (s1 / s2)[:, None], b2=b2 / s2, w3=w3 * s2, b3=b3)

# Absorption between the depthwise layer (whose output is normal) and the last.
mean, deviation = rng.uniform(-1, 4, 6), rng.uniform(0.2, 1.5, 6)
c = np.maximum(0, mean - 3 * deviation)
absorbed = lists(mean=mean, deviation=deviation, b2=b2 - c, b3=b3 + w3 @ c)

# Smoothing between the same layers, the largest magnitudes of the activation given.
largest = 10 ** rng.uniform(-1, 2, 6)
smooth = []
for alpha in (0.5, 0.75):
    s = largest**alpha / abs(w3).max(axis=0) ** (1 - alpha)
    smooth.append({"alpha": alpha, **lists(largest=largest, w2=w2 / s[:, None], b2=b2 / s, w3=w3 * s)})

# The last layer on a symmetric 3-bit grid; the correction of its bias.
step = np.float32(abs(w3).max() / 3)
rounded = np.rint(w3 / step) * step
expected = np.array([clipped(m, d, 0, np.inf)[0] for m, d in zip(mean, deviation)])
bias = lists(rounded=rounded, expected=expected, correction=-(rounded - w3) @ expected)

cases = []
for m, d, lo, hi, slope in [
    (0, 1, 0, None, 0), (1.5, 0.7, 0, None, 0), (-2, 0.5, 0, None, 0), (0.3, 2, 0, 6, 0), (5, 3, 0, 6, 0), (-1, 4, -1, 1, 0),
    (0.4, 1.3, None, None, 0.1), (-2, 1, None, None, 0.25), (9, 1, 0, None, 0),
]:  # fmt: skip
    got = clipped(m, d, -np.inf if lo is None else lo, np.inf if hi is None else hi, slope)
    cases.append({"m": m, "d": d, "lo": lo, "hi": hi, "slope": slope, "mean": got[0], "variance": got[1]})


def hqq(w, bits, p=0.7, beta=10.0, kappa=1.01, rounds=20):
    lo, hi, top = w.min(), w.max(), 2**bits - 1
    s = top / (hi - lo)
    z = -lo * s
    best, kept = np.inf, z
    for i in range(rounds + 1):
        q = np.clip(np.rint(w * s + z), 0, top)
        d = w - (q - z) / s
        error = abs(d).mean()
        if error >= best:
            break
        best, kept = error, z
        with np.errstate(divide="ignore"):
            e = np.sign(d) * np.maximum(abs(d) - abs(d) ** (p - 1) / beta, 0)
        z = (q - (w - e) * s).mean()
        beta *= kappa
    return 1 / s, kept


groups = []
for bits, n in [(2, 64), (3, 64), (4, 32), (4, 64), (4, 128)]:
    w = rng.standard_normal(n).astype(np.float32)
    scale, zero = hqq(w.astype(np.float64), bits)
    groups.append({"bits": bits, "scale": scale, "zero": zero, **lists(w=w)})

print(json.dumps({
    "before": lists(w1=w1, b1=b1, w2=w2, b2=b2, w3=w3, b3=b3), "equalized": equalized, "absorbed": absorbed, "smooth": smooth,
    "bias": bias, "clipped": cases, "hqq": groups,
}))  # fmt: skip
