#!/usr/bin/env python3
"""Writes crates/nnq/tests/golden/stories.json: how the language model stories260K goes on when the likeliest token always follows.

usage: golden_stories.py MODELS TOKENIZER        (needs numpy and tokenizers 0.23; TOKENIZER is what text_models.py wrote)

Llama-2 (Touvron et al., arXiv:2307.09288) written from its description in binary64; the least distance between the two likeliest tokens is kept beside the text.
"""
import json
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

import text_models


def logits(m, ids):
    """Of the last token."""
    x, size, time = m.embedding[ids].astype(np.float64), m.dim // m.heads, len(ids)
    norm = lambda x, w: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w

    def turn(z):
        a, b, cos, sin = z[..., 0::2], z[..., 1::2], m.cos[:time, None], m.sin[:time, None]
        return np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(z.shape)

    for l in range(m.layers):
        y = norm(x, m.rms_att[l])
        q = turn((y @ m.wq[l].T).reshape(time, m.heads, size))
        k = turn((y @ m.wk[l].T).reshape(time, m.kv_heads, size)).repeat(m.heads // m.kv_heads, 1)
        v = (y @ m.wv[l].T).reshape(time, m.kv_heads, size).repeat(m.heads // m.kv_heads, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(size)
        scores = np.where(np.tril(np.ones((time, time), bool)), scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", shares, v).reshape(time, -1) @ m.wo[l].T
        y = norm(x, m.rms_ffn[l])
        gate = y @ m.w1[l].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ m.w3[l].T)) @ m.w2[l].T
    return norm(x[-1], m.rms) @ m.embedding.T


def main():
    m = text_models.Llama(Path(sys.argv[1]) / "stories260K/stories260K.bin")
    tokenizer = Tokenizer.from_file(sys.argv[2])
    cases = []
    for prompt, count in (("Once upon a time", 200), ("The dog", 60)):
        ids, margin = tokenizer.encode(prompt).ids, np.inf
        start = len(ids)
        while len(ids) < start + count:
            y = logits(m, ids)
            best = np.argsort(y)
            margin = min(margin, y[best[-1]] - y[best[-2]])
            ids.append(int(best[-1]))
        cases.append({"prompt": prompt, "tokens": ids[start:], "text": tokenizer.decode(ids), "margin": round(float(margin), 6)})
    path = Path(__file__).parent.parent / "crates/nnq/tests/golden/stories.json"
    path.write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")


main()
