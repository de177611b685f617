#!/usr/bin/env python3
"""textgenrnn, a character LSTM: windows of text, and nats per character. text_models.py writes the network.

usage: textgenrnn.py windows VOCAB.json TEXT LINES OUT_DIR            NNNN.npy, [1000, 40] indices each, and next.npy
       textgenrnn.py score OUT_DIR                                    of OUT_DIR/NNNN.out.npy, probabilities
       textgenrnn.py onnxruntime MODEL.onnx OUT_DIR                   writes those; needs onnxruntime

Every character of a line, and the mark at its end, is predicted from the up to 40 before it, zeros in front. Needs numpy.
"""
import glob
import json
import os
import sys

import numpy as np

WINDOW = 40


def windows(vocabulary, text, lines, out):
    with open(vocabulary, encoding="utf-8") as f:
        index = json.load(f)
    mark, xs, ys = index["<s>"], [], []
    with open(text, encoding="utf-8") as f:
        for line in f.read().splitlines()[: int(lines)]:
            codes = [mark] + [index[c] for c in line if c in index] + [mark]
            for i in range(1, len(codes)):
                past = codes[max(0, i - WINDOW) : i]
                xs.append([0] * (WINDOW - len(past)) + past)
                ys.append(codes[i])
    os.makedirs(out, exist_ok=True)
    np.save(f"{out}/next.npy", np.array(ys, np.int64))
    for i in range(0, len(xs), 1000):
        np.save(f"{out}/{i // 1000:04}.npy", np.array(xs[i : i + 1000], np.int64))


def score(out):
    y = np.concatenate([np.load(p) for p in sorted(glob.glob(f"{out}/[0-9][0-9][0-9][0-9].out.npy"))])
    want = np.load(f"{out}/next.npy")
    assert len(y) == len(want), (len(y), len(want))
    print(f"{-np.log(y[np.arange(len(y)), want].astype(np.float64)).mean():.5f} nats per character, {len(y)} characters")


def onnxruntime(model, out):
    import onnxruntime as ort

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    for path in sorted(glob.glob(f"{out}/[0-9][0-9][0-9][0-9].npy")):
        np.save(path.replace(".npy", ".out.npy"), session.run(None, {"ids": np.load(path)})[0])


COMMANDS = {"windows": windows, "score": score, "onnxruntime": onnxruntime}
if len(sys.argv) < 3 or sys.argv[1] not in COMMANDS:
    sys.exit(__doc__)
COMMANDS[sys.argv[1]](*sys.argv[2:])
