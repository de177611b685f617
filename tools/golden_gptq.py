#!/usr/bin/env python3
"""Golden codes of GPTQ (Frantar et al., 2023, algorithm 1) for crates/nnq/testdata/gptq.json.

usage: golden_gptq.py > crates/nnq/testdata/gptq.json         (needs numpy)

Written from the paper's formulas: the upper Cholesky factor of the inverse of the damped moments, one column at a time, the error of a
column spread over all columns that are left. With and without the order of falling diagonal.
"""
import json

import numpy as np

LO, HI = -8, 7


def gptq(w, h, scale, largest_first):
    order = np.argsort(-np.diag(h), kind="stable") if largest_first else np.arange(len(h))
    w, h = w[:, order].copy(), h[np.ix_(order, order)]
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    codes = np.zeros(w.shape, int)
    for i in range(len(h)):
        codes[:, i] = np.clip(np.rint(w[:, i] / scale), LO, HI)
        error = (w[:, i] - codes[:, i] * scale) / upper[i, i]
        w[:, i:] -= np.outer(error, upper[i, i:])
    back = np.zeros_like(codes)
    back[:, order] = codes
    return back


def case(rng, rows, depth, samples):
    x = rng.standard_normal((samples, depth)) * rng.uniform(0.2, 3, depth)
    x[:, 1:] += 0.7 * x[:, :-1]
    h = (x.T @ x / samples).astype(np.float32).astype(np.float64)
    h += 0.01 * np.mean(np.diag(h)) * np.eye(depth)
    h = h.astype(np.float32)
    w = rng.standard_normal((rows, depth)).astype(np.float32)
    scale = (np.abs(w).max(axis=1) / 7).astype(np.float32)
    out = {"rows": rows, "depth": depth, "h": h.ravel().tolist(), "w": w.ravel().tolist(), "scale": scale.tolist()}
    for name, first in (("in_order", False), ("largest_first", True)):
        codes = gptq(w.astype(np.float64), h.astype(np.float64), scale.astype(np.float64), first)
        out[name] = codes.ravel().tolist()
    return out


rng = np.random.default_rng(7)
print(json.dumps([case(rng, 3, 6, 40), case(rng, 4, 17, 64), case(rng, 2, 33, 300)]))
