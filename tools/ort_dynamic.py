"""Small networks quantized dynamically by ONNX Runtime, with an input and what ONNX Runtime answers: crates/nnq/testdata/dynamic.

Needs onnx and onnxruntime. `python3 tools/ort_dynamic.py crates/nnq/testdata/dynamic` writes NAME.WEIGHTS.SCALES.onnx, .x.npy and .y.npy, with
weights of u8 or s8 and a scale for each tensor (pt) or channel (pc). The last decimals of the answers may differ between machines.
"""
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

rng = np.random.default_rng(0)


def network(name, nodes, weights, inputs, outputs):
    constants = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in weights.items()]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, name, [info("x", TensorProto.FLOAT, ["N", *inputs])], [info("y", TensorProto.FLOAT, ["N", *outputs])], constants
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def mlp():
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w1"], ["m1"], name="mm1"),
        node("Add", ["m1", "b1"], ["a1"], name="add1"),
        node("Relu", ["a1"], ["r1"], name="relu1"),
        node("Gemm", ["r1", "w2", "b2"], ["y"], name="gemm", transB=1),
    ]
    return network("mlp", nodes, {"w1": (20, 32), "b1": (32,), "w2": (10, 32), "b2": (10,)}, [20], [10])


def conv():
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("Conv", ["r1", "w2"], ["c2"], name="conv2", strides=[2, 2]),
        node("Conv", ["r1", "w3", "b3"], ["c3"], name="conv3", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Add", ["c2", "c3"], ["s"], name="sum"),
        node("GlobalAveragePool", ["s"], ["p"], name="pool"),
        node("Flatten", ["p"], ["f"], name="flatten"),
        node("Gemm", ["f", "w4", "b4"], ["y"], name="fc", transB=1),
    ]
    weights = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (6, 8, 1, 1), "w3": (6, 8, 3, 3), "b3": (6,), "w4": (5, 6), "b4": (5,)}
    return network("conv", nodes, weights, [3, 9, 9], [5])


def lstm(name, direction):
    """x is [time, 1, 9], y the states of all times: of several samples ONNX Runtime takes the range of those that share a thread."""
    directions, hidden = (2 if direction == "bidirectional" else 1), 6
    node = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], name="lstm", hidden_size=hidden, direction=direction)
    weights = {"w": (directions, 4 * hidden, 9), "r": (directions, 4 * hidden, hidden), "b": (directions, 8 * hidden)}
    return network(name, [node], weights, [1, 9], [directions, 1, hidden])


def unsigned(path):
    """The same weights as unsigned bytes with zero points: `quantize_dynamic` writes signed ones for LSTM whatever it is told."""
    model = onnx.load(path)
    for i, tensor in enumerate(model.graph.initializer):
        codes = numpy_helper.to_array(tensor)
        if codes.dtype == np.int8:
            codes = (codes.astype(np.int32) + 128).astype(np.uint8)
            model.graph.initializer[i].CopyFrom(numpy_helper.from_array(codes, tensor.name))
    onnx.save(model, path)


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    for name, model, shape in [("mlp", mlp(), [2, 20]), ("conv", conv(), [2, 3, 9, 9])]:
        write(out, name, model, shape)
    for name, direction in [("lstm", "forward"), ("bilstm", "bidirectional")]:
        write(out, name, lstm(name, direction), [7, 1, 9])


def write(out, name, model, shape):
    x = rng.normal(size=shape).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "float.onnx"
        onnx.save(model, plain)
        for kind, weights in [("u8", QuantType.QUInt8), ("s8", QuantType.QInt8)]:
            for scales in ["pt", "pc"]:
                stem = f"{name}.{kind}.{scales}"
                path = out / f"{stem}.onnx"
                quantize_dynamic(plain, path, per_channel=scales == "pc", weight_type=weights)
                if kind == "u8" and "lstm" in name:
                    unsigned(path)
                session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
                np.save(out / f"{stem}.x.npy", x)
                np.save(out / f"{stem}.y.npy", session.run(None, {"x": x})[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
