#!/usr/bin/env python3
"""Tango's score interval for paired proportions from its definition, for crates/nnq/src/data/metrics.rs.

The constrained maximum of the likelihood is searched numerically, the limits by bisection: nothing of the closed form.
"""
import math

Z = 1.959963984540054


def likeliest(gained, lost, n, d):
    """The probability q of `lost` that maximises the trinomial likelihood when that of `gained` is q + d."""
    low, high = max(0, -d) + 1e-15, (1 - d) / 2 - 1e-15

    def log_likelihood(q):
        terms = [(gained, q + d), (lost, q), (n - gained - lost, 1 - 2 * q - d)]
        return sum(k * math.log(p) for k, p in terms if k)

    for _ in range(300):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        if log_likelihood(a) < log_likelihood(b):
            low = a
        else:
            high = b
    return (low + high) / 2


def score(gained, lost, n, d):
    q = likeliest(gained, lost, n, d)
    return (gained - lost - n * d) / math.sqrt(n * (2 * q + d * (1 - d)))


def interval(gained, lost, n):
    estimate, limits = (gained - lost) / n, []
    for low, high, target in ((-1 + 1e-9, estimate, Z), (estimate, 1 - 1e-9, -Z)):
        for _ in range(80):
            middle = (low + high) / 2
            if score(gained, lost, n, middle) > target:
                low = middle
            else:
                high = middle
        limits.append((low + high) / 2)
    return estimate, *limits


for counts in ((6, 16, 161), (1, 7, 21), (80, 130, 10000)):
    print(counts, interval(*counts))
