"""Says whether ONNX Runtime multiplies unsigned by signed bytes exactly on this machine ("exact" or "saturates").

Without VNNI its x86 kernels add two products in 16 bits, saturated (onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "reduce_range").

    python tools/ort_exact.py
"""
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

rng = np.random.default_rng(0)
a = rng.integers(0, 256, (4, 64), dtype=np.uint8)
b = rng.integers(-127, 128, (64, 8)).astype(np.int8)
value = helper.make_tensor_value_info
graph = helper.make_graph(
    [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
    "product",
    [value("a", TensorProto.UINT8, a.shape), value("b", TensorProto.INT8, b.shape)],
    [value("y", TensorProto.INT32, [4, 8])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
y = session.run(None, {"a": a, "b": b})[0]
print("exact" if np.array_equal(y, a.astype(np.int32) @ b.astype(np.int32)) else "saturates")
