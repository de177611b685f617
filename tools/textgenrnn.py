#!/usr/bin/env python3
"""textgenrnn, a character LSTM: its Keras weights as an ONNX model, windows of text, and nats per character.

usage: textgenrnn.py convert WEIGHTS.hdf5 OUT.onnx                    needs h5py and onnx
       textgenrnn.py windows VOCAB.json TEXT LINES OUT_DIR            NNNN.npy, [1000, 40] indices each, and next.npy
       textgenrnn.py score OUT_DIR                                    of OUT_DIR/NNNN.out.npy, logarithms of probabilities
       textgenrnn.py onnxruntime MODEL.onnx OUT_DIR                   writes those; needs onnxruntime

The network (github.com/minimaxir/textgenrnn, model.py): an embedding, two LSTM, and the weighted average over times of all three beside each other. The LSTM
are CuDNN's: the file holds gates in the order i f c o, matrices of inputs laid out the other way round, and two biases. Every character of a line, and the
mark at its end, is predicted from the up to 40 before it, zeros in front. Needs numpy.
"""
import glob
import json
import os
import sys

import numpy as np

WINDOW, HIDDEN = 40, 128


def convert(source, out):
    import h5py
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    f = h5py.File(source)
    read = lambda name: np.asarray(f[name], np.float32)

    def gates(m, turn):
        i, f, c, o = [turn(k) for k in np.split(m, 4, axis=-1)]
        return np.concatenate([i, o, f, c], axis=0)[None]

    constants, nodes = {"embedding": read("embedding/embedding/embeddings:0")}, []
    node = lambda op, inputs, output, **a: nodes.append(helper.make_node(op, inputs, [output], name=output, **a))
    node("Gather", ["embedding", "x"], "embedded")
    node("Transpose", ["embedded"], "rnn_0", perm=[1, 0, 2])
    constants["one"] = np.array([1], np.int64)
    for n in (1, 2):
        at = f"rnn_{n}/rnn_{n}/"
        # What each gate's [inputs, hidden] holds is [hidden, inputs].
        constants[f"w{n}"] = gates(read(at + "kernel:0"), lambda k: k.reshape(k.shape[::-1]))
        constants[f"r{n}"] = gates(read(at + "recurrent_kernel:0"), lambda k: k)
        both = [gates(b, lambda k: k)[0] for b in np.split(read(at + "bias:0"), 2)]
        constants[f"b{n}"] = np.concatenate(both)[None]
        node("LSTM", [f"rnn_{n - 1}", f"w{n}", f"r{n}", f"b{n}"], f"lstm_{n}", hidden_size=HIDDEN)
        node("Squeeze", [f"lstm_{n}", "one"], f"rnn_{n}")
    node("Concat", ["rnn_0", "rnn_1", "rnn_2"], "all", axis=2)
    constants["attention"] = read("attention/attention/attention_W:0")
    node("MatMul", ["all", "attention"], "logits")
    node("Softmax", ["logits"], "weights", axis=0)
    node("Mul", ["all", "weights"], "weighted")
    constants["zero"] = np.array([0], np.int64)
    node("ReduceSum", ["weighted", "zero"], "average", keepdims=0)
    constants["kernel"], constants["bias"] = read("output/output/kernel:0"), read("output/output/bias:0")
    node("Gemm", ["average", "kernel", "bias"], "scores")
    node("LogSoftmax", ["scores"], "y", axis=1)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "textgenrnn",
        [info("x", TensorProto.INT64, ["N", WINDOW])],
        [info("y", TensorProto.FLOAT, ["N", len(constants["bias"])])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), out)


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
    y = np.concatenate([np.load(p) for p in sorted(glob.glob(f"{out}/????.out.npy"))])
    want = np.load(f"{out}/next.npy")
    assert len(y) == len(want), (len(y), len(want))
    print(f"{-y[np.arange(len(y)), want].astype(np.float64).mean():.5f} nats per character, {len(y)} characters")


def onnxruntime(model, out):
    import onnxruntime as ort

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    for path in sorted(glob.glob(f"{out}/????.npy")):
        if not path.endswith("next.npy"):
            np.save(path.replace(".npy", ".out.npy"), session.run(None, {"x": np.load(path)})[0])


COMMANDS = {"convert": convert, "windows": windows, "score": score, "onnxruntime": onnxruntime}
if len(sys.argv) < 3 or sys.argv[1] not in COMMANDS:
    sys.exit(__doc__)
COMMANDS[sys.argv[1]](*sys.argv[2:])
