#!/usr/bin/env python3
"""Quantizes a float model with ONNX Runtime's own quantizer, in every way that nnq's tests read back.

usage: ort_quantize.py MODEL.onnx CALIBRATION.npy OUT_DIR

Batch normalisation is folded by ONNX Runtime first, as its documentation advises. Writes
OUT_DIR/{u8,s8}-{tensor,channel}.onnx: QDQ form, type of the activations, granularity of the weights (always signed).
"""
import os
import sys

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static


class Reader(CalibrationDataReader):
    def __init__(self, name, samples):
        self.feeds = iter([{name: samples[i : i + 1]} for i in range(len(samples))])

    def get_next(self):
        return next(self.feeds, None)


def main():
    path, calibration, out = sys.argv[1:]
    os.makedirs(out, exist_ok=True)
    folded = os.path.join(out, "folded.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = folded
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name, samples = session.get_inputs()[0].name, np.load(calibration)
    for short, activation in ("u8", QuantType.QUInt8), ("s8", QuantType.QInt8):
        for granularity in "tensor", "channel":
            quantize_static(
                folded,
                os.path.join(out, f"{short}-{granularity}.onnx"),
                Reader(name, samples),
                quant_format=QuantFormat.QDQ,
                per_channel=granularity == "channel",
                activation_type=activation,
                weight_type=QuantType.QInt8,
            )


main()
