"""Writes crates/nnq/tests/golden/models.json: ONNX Runtime's outputs of real float networks on a fixed noise input.

usage: model_golden.py FOLDER_WITH_MODELS [OUT]. Needs numpy and onnxruntime 1.31. The noise is the xorshift sequence that
crates/nnq/tests/float/main.rs has too.
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
    inputs = session.get_inputs()
    if len(inputs) != 1 or "gru" in path:  # nnq has no recurrent operators yet
        continue
    shape = [d if isinstance(d, int) else 2 for d in inputs[0].shape]
    x = noise(int(np.prod(shape)), 11).reshape(shape)
    y = session.run(None, {inputs[0].name: x})[0]
    cases.append({"model": os.path.basename(path), "shape": shape, "output": list(y.shape), "first": [float(v) for v in y.ravel()[:32]]})
with open(sys.argv[2] if len(sys.argv) > 2 else "crates/nnq/tests/golden/models.json", "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
