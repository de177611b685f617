#!/usr/bin/env python3
"""Runs an ONNX model in ONNX Runtime and writes the value of every tensor.

usage: ort_values.py MODEL.onnx INPUT.npy OUT_DIR [--optimize] [--check]

Writes OUT_DIR/NNNN.npy and OUT_DIR/names.txt (one name a line; line N belongs to NNNN.npy). Without --optimize every graph
optimisation of ONNX Runtime is off, so that each node runs by the standard's own definition. With it, only the graph outputs
are written, since intermediate outputs would keep ONNX Runtime from fusing. --check runs ONNX's own checker first.
"""
import os
import sys

import numpy as np
import onnx
import onnxruntime as ort


def main():
    args = [a for a in sys.argv[1:] if not a.startswith("--")]
    optimize, check = "--optimize" in sys.argv, "--check" in sys.argv
    path, input_path, out = args
    if check:
        onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimize:
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
        np.save(os.path.join(out, f"{i:04}.npy"), v)


main()
