#!/usr/bin/env python3
"""Runs ONNX models in ONNX Runtime and writes the values of their tensors.

usage: ort_values.py [--optimize] [--check] MODEL.onnx INPUT.npy OUT_DIR [+ ANOTHER JOB]...

Writes OUT_DIR/NNNN.npy and OUT_DIR/names.txt (one name a line; line N belongs to NNNN.npy). Without --optimize every graph
optimisation of ONNX Runtime is off, so that each node runs by the standard's own definition, and every value is written.
With it, only the graph outputs are written, since intermediate outputs would keep ONNX Runtime from fusing. --check runs
ONNX's own checker first. Several jobs, with a + between them, need one start of Python.
"""
import os
import sys

import numpy as np
import onnx
import onnxruntime as ort


def job(words):
    path, input_path, out = [w for w in words if not w.startswith("--")]
    model = onnx.load(path)
    if "--check" in words:
        newest, opset = onnx.defs.onnx_opset_version(), model.opset_import[0].version
        if opset <= newest:
            onnx.checker.check_model(path, full_check=True)
        else:
            print(f"NOT CHECKED: {path} has opset {opset}, this onnx knows {newest}", file=sys.stderr)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    if "--optimize" not in words:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        known = {o.name for o in model.graph.output}
        for node in model.graph.node:
            for name in node.output:
                if name and name not in known:
                    model.graph.output.append(onnx.ValueInfoProto(name=name))
                    known.add(name)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    values = session.run(names, {session.get_inputs()[0].name: np.load(input_path)})
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "names.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(names))
    for i, v in enumerate(values):
        np.save(os.path.join(out, f"{i:04}.npy"), np.ascontiguousarray(v))


def main():
    words = []
    for word in sys.argv[1:] + ["+"]:
        if word == "+":
            job(words)
            words = []
        else:
            words.append(word)


main()
