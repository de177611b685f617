"""Writes what ONNX Runtime makes of real float networks on a fixed noise input: 32 numbers from all over the output of each.

usage: model_golden.py FOLDER OUT.json

crates/nnq/tests/golden/models.json is of the data folder's `models`, crates/nnq/tests/golden/text.json of the folder that
text_models.py writes. Needs numpy and onnxruntime 1.31. The noise is the xorshift sequence that crates/nnq/tests/float/mod.rs has too;
tokens are the noise, scaled to 0..465. Symbolic sizes are 2, then 20.
"""
import glob, json, os, sys
import numpy as np
import onnxruntime as ort

MASK = (1 << 64) - 1


def noise(n, seed):
    s = (seed * 0x9E3779B97F4A7C15 & MASK) | 1
    out = np.empty(n, np.float32)
    for i in range(n):
        s ^= s << 13 & MASK
        s ^= s >> 7
        s ^= s << 17 & MASK
        out[i] = np.float32(s >> 40) / np.float32(1 << 23) - np.float32(1)
    return out


cases = []
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.onnx"))):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (x,) = session.get_inputs()
    free = iter([2, 20])
    shape = [d if isinstance(d, int) else next(free) for d in x.shape]
    data = noise(int(np.prod(shape)), 11).reshape(shape)
    if x.type == "tensor(int64)":
        data = np.floor((data.astype(np.float64) + 1) / 2 * 465).astype(np.int64)
    y = session.run(None, {x.name: data})[0]
    picked = [float(y.ravel()[i * y.size // 32]) for i in range(32)]
    cases.append({
        "model": os.path.basename(path), "shape": shape, "output": list(y.shape), "largest": float(abs(y).max()), "picked": picked,
    })  # fmt: skip
with open(sys.argv[2], "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
