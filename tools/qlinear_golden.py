"""Writes crates/nnq/tests/golden/qlinear.json: ONNX Runtime's results of the quantization operators on random codes.

Needs numpy, onnx 1.17 and onnxruntime 1.31. The scales are chosen so that many results are near ties and some saturate.
"""
import json, sys
import numpy as np
import onnx, onnxruntime as ort
from onnx import TensorProto as T, helper

rng = np.random.default_rng(2024)
TYPES = {"u8": (np.uint8, T.UINT8), "i8": (np.int8, T.INT8)}


def codes(t, *shape):
    dt = TYPES[t][0]
    i = np.iinfo(dt)
    return np.asarray(rng.integers(i.min, i.max + 1, shape)).astype(dt)


def run(op, inputs, outputs, **attrs):
    names = [f"i{k}" for k in range(len(inputs))]
    graph = helper.make_graph(
        [helper.make_node(op, names, [f"o{k}" for k in range(len(outputs))], **attrs)],
        "g",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in zip(names, inputs)],
        [helper.make_tensor_value_info(f"o{k}", t, None) for k, t in enumerate(outputs)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(names, inputs)))


def plain(x):
    x = np.asarray(x)
    # Floats as their bits, so that the file says them exactly.
    data = x.view(np.uint32) if x.dtype == np.float32 else x
    return {"dtype": str(x.dtype), "shape": list(x.shape), "data": data.ravel().tolist()}


cases = []


def case(op, inputs, outputs, **attrs):
    inputs = [np.asarray(x) for x in inputs]
    results = run(op, inputs, outputs, **attrs)
    cases.append({"op": op, "attrs": attrs, "inputs": [plain(x) for x in inputs], "outputs": [plain(x) for x in results]})


f32 = np.float32
for xt, wt, yt in [("u8", "i8", "u8"), ("u8", "u8", "u8"), ("i8", "i8", "i8")]:
    for channel in (False, True):
        for group, pads, strides in [(1, [1, 1, 1, 1], [1, 1]), (2, [0, 1, 1, 0], [2, 1]), (4, [1, 1, 1, 1], [1, 1])]:
            x, w = codes(xt, 1, 4, 7, 6), codes(wt, 8, 4 // group, 3, 3)
            n = 8 if channel else 1
            sw = (rng.random(n, dtype=f32) * 0.02 + 0.005).astype(f32)
            sx, sy = f32(0.037), f32(0.037 * 4.0)
            zw = np.zeros(n, TYPES[wt][0]) if wt == "i8" else np.full(n, 118, np.uint8)
            shape = (lambda a: a if channel else a.reshape(()))
            args = [x, sx.reshape(()), codes(xt).reshape(()), w, shape(sw), shape(zw), sy.reshape(()), codes(yt).reshape(())]
            bias = rng.integers(-20000, 20000, 8).astype(np.int32)
            case("QLinearConv", args + [bias], [TYPES[yt][1]], group=group, pads=pads, strides=strides)
    for k in (5, 300):
        a, b = codes(xt, 2, 5, k), codes(wt, k, 11)
        zb = np.array(0 if wt == "i8" else 131, TYPES[wt][0])
        args = [a, np.array(0.02, f32), codes(xt).reshape(()), b, np.array(0.0131, f32), zb, np.array(0.5, f32), codes(yt).reshape(())]
        case("QLinearMatMul", args, [TYPES[yt][1]])
x, w = codes("u8", 1, 3, 6, 6), codes("u8", 4, 3, 3, 3)
case("ConvInteger", [x, w, np.array(130, np.uint8), np.array(120, np.uint8)], [T.INT32], pads=[1, 1, 1, 1])
case("MatMulInteger", [codes("u8", 5, 40), codes("i8", 40, 6), np.array(77, np.uint8), np.array(0, np.int8)], [T.INT32])
# Half-grid points with scales for which a division and a product by the reciprocal differ, and the extremes.
for yt in ("u8", "i8"):
    for s in (0.1, 0.3, 0.0078125, 1.7):
        steps = (np.arange(-300, 300) + 0.5).astype(f32) * f32(s)
        x = np.concatenate([steps, np.array([np.inf, -np.inf, 3e9, -3e9, 0.0, -0.0], f32)])
        case("QuantizeLinear", [x, np.array(s, f32), codes(yt).reshape(())], [TYPES[yt][1]])
case("QuantizeLinear", [rng.standard_normal((3, 4, 5)).astype(f32), np.array([0.1, 0.02, 0.3, 0.05], f32), codes("u8", 4)], [T.UINT8], axis=1)
case("DequantizeLinear", [codes("i8", 3, 4, 5), np.array([0.1, 0.02, 0.3, 0.05], f32), codes("i8", 4)], [T.FLOAT], axis=-2)
for scale in (1.0, 17.0):
    case("DynamicQuantizeLinear", [(rng.standard_normal(200) * scale + 0.3).astype(f32)], [T.UINT8, T.FLOAT, T.UINT8])
case("DynamicQuantizeLinear", [rng.random(50, dtype=f32) + 2], [T.UINT8, T.FLOAT, T.UINT8])
case("DynamicQuantizeLinear", [-rng.random(50, dtype=f32) - 2], [T.UINT8, T.FLOAT, T.UINT8])

with open(sys.argv[1] if len(sys.argv) > 1 else "crates/nnq/tests/golden/qlinear.json", "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
