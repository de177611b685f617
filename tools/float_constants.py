"""Fits the polynomials of crates/nnq/src/exec/float/unary/math.rs. Needs numpy only.

Each fit is a least-squares fit on Chebyshev points whose weights are raised where the error is largest (Lawson's iteration), which
leads to the polynomial of least maximum relative error. Printed: the coefficients, lowest power first, rounded to f32, and that error.
"""
import math

import numpy as np


def fit(f, a, b, degree, rounds=80, n=3000):
    t = np.cos(np.pi * (np.arange(n) + 0.5) / n)
    x = (a + b) / 2 + (b - a) / 2 * t
    y = np.array([f(v) for v in x])
    basis, emphasis = np.polynomial.chebyshev.chebvander(t, degree), np.ones(n)
    for _ in range(rounds):
        w = np.sqrt(emphasis) / np.abs(y)
        c, *_ = np.linalg.lstsq(basis * w[:, None], y * w, rcond=None)
        error = np.abs(basis @ c - y) / np.abs(y)
        emphasis *= error + 1e-30
        emphasis /= emphasis.sum()
    power = np.polynomial.chebyshev.Chebyshev(c, [a, b]).convert(kind=np.polynomial.Polynomial)
    return [float(np.float32(v)) for v in power.coef], error.max()


# (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2, a little wider.
half = math.log(2) / 2 * 1.001
print("exp", fit(lambda r: sum(r**k / math.factorial(k + 2) for k in range(20)), -half, half, 5))

# erf(z) / z as a function of z^2 on [0, 1].
series = lambda s: 2 / math.sqrt(math.pi) * sum((-s) ** k / (math.factorial(k) * (2 * k + 1)) for k in range(30))
print("erf", fit(series, 0.0, 1.0, 7))

# erfc(z) e^(z^2) (z + 2) as a function of t = (z - 2) / (z + 2), z up to 10.4 (erfc underflows before).
z_of = lambda t: 2 * (1 + t) / (1 - t)
tail = lambda t: math.erfc(z_of(t)) * math.exp(z_of(t) ** 2) * (z_of(t) + 2)
print("erfc", fit(tail, -1.0, (10.4 - 2) / (10.4 + 2), 9))
