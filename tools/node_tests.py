#!/usr/bin/env python3
"""Writes ONNX's own node tests (model.onnx and test_data_set_0/{input,output}_N.pb for each) under a folder.

usage: node_tests.py FOLDER         (needs onnx)

Newer releases of the package have the programs that make the tests, and no longer the files.
"""
import sys
from pathlib import Path

import onnx.backend.test.case.node as cases
from onnx import TensorProto, numpy_helper


def message(value, info):
    if isinstance(value, TensorProto):
        return value
    for kind, make in (("map", numpy_helper.from_dict), ("sequence", numpy_helper.from_list), ("optional", numpy_helper.from_optional)):
        if info.type.HasField(f"{kind}_type"):
            return make(value, info.name)
    return numpy_helper.from_array(value, info.name)


def main():
    root = Path(sys.argv[1])
    for case in cases.collect_testcases(None):
        folder = root / case.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(case.model.SerializeToString())
        graph = case.model.graph
        for i, (inputs, outputs) in enumerate(case.data_sets):
            data = folder / f"test_data_set_{i}"
            data.mkdir(exist_ok=True)
            for prefix, values, infos in (("input", inputs, graph.input), ("output", outputs, graph.output)):
                for j, value in enumerate(values):
                    (data / f"{prefix}_{j}.pb").write_bytes(message(value, infos[j]).SerializeToString())


main()
