#!/usr/bin/env python3
"""Another inference engine, for `nnq bench --peers`. The command carries this script inside it.

usage: peers.py serve    ENGINE MODEL BATCH THREADS PRECISION
       peers.py quantize ENGINE FLOAT.onnx CALIBRATION.npy OUT

ENGINE is onnxruntime or openvino; PRECISION is float (real numbers stay binary32) or any (the engine's own choice).

serve loads the model, runs it once and answers {"version": ..., "load_ms": ...}, one JSON object a line on standard output.
Then each line of standard input holds a number of runs, and the answer is {"seconds": [...]}, one number a run.
quantize makes an int8 model by the engine's own tool with that tool's defaults for CPUs and answers {"version": ...}.
Where something fails, the answer is {"error": ...}.
"""
import json
import os
import sys
import time

# Libraries print; answers have the stream for themselves.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def answer(**fields):
    ANSWERS.write(json.dumps(fields) + "\n")
    ANSWERS.flush()


def numbers(shape):
    import numpy as np

    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def load_onnxruntime(path, batch, threads, precision):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    start = time.perf_counter()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    seconds = time.perf_counter() - start
    if len(session.get_inputs()) != 1:
        raise ValueError("only models of one input are compared")
    port = session.get_inputs()[0]
    first = port.shape[0]
    if isinstance(first, int) and first != batch:
        raise ValueError(f"the model fixes the batch at {first}")
    feed = {port.name: numbers([batch] + port.shape[1:])}
    return ort.__version__, seconds, lambda: session.run(None, feed)


def load_openvino(path, batch, threads, precision):
    import openvino as ov

    core = ov.Core()
    start = time.perf_counter()
    model = core.read_model(path)
    if len(model.inputs) != 1:
        raise ValueError("only models of one input are compared")
    sizes = list(model.inputs[0].partial_shape)
    if sizes[0].is_static and sizes[0].get_length() != batch:
        raise ValueError(f"the model fixes the batch at {sizes[0].get_length()}")
    shape = [batch] + [d.get_length() for d in sizes[1:]]
    model.reshape({model.inputs[0].any_name: shape})
    config = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
    if precision == "float":
        config["INFERENCE_PRECISION_HINT"] = "f32"
    request = core.compile_model(model, "CPU", config).create_infer_request()
    seconds = time.perf_counter() - start
    data = numbers(shape)
    # Without the name of the build.
    return ov.__version__.split("-")[0], seconds, lambda: request.infer({0: data}, share_inputs=True)


def serve(engine, path, batch, threads, precision):
    version, seconds, run = LOADERS[engine](path, int(batch), int(threads), precision)
    run()
    answer(version=version, load_ms=1e3 * seconds)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        answer(seconds=times)


def quantize_onnxruntime(path, samples, out):
    import onnx
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, name):
            self.feeds = iter([{name: samples[i : i + 1]} for i in range(len(samples))])

        def get_next(self):
            return next(self.feeds, None)

    ready = out + ".float.onnx"
    # Folds batch normalisation and infers shapes, as its documentation advises. Symbols would need one more package.
    quant_pre_process(path, ready, skip_symbolic_shape=True)
    name = onnx.load(path, load_external_data=False).graph.input[0].name
    quantize_static(
        ready,
        out,
        Reader(name),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return f"quantize_static of ONNX Runtime {ort.__version__}"


def quantize_openvino(path, samples, out):
    import nncf
    import openvino as ov

    model = ov.Core().read_model(path)
    data = nncf.Dataset([samples[i : i + 1] for i in range(len(samples))])
    ov.save_model(nncf.quantize(model, data, subset_size=len(samples)), out, compress_to_fp16=False)
    return f"NNCF {nncf.__version__}"


def quantize(engine, path, calibration, out):
    import numpy as np

    answer(version=QUANTIZERS[engine](path, np.load(calibration), out))


LOADERS = {"onnxruntime": load_onnxruntime, "openvino": load_openvino}
QUANTIZERS = {"onnxruntime": quantize_onnxruntime, "openvino": quantize_openvino}


def main():
    try:
        {"serve": serve, "quantize": quantize}[sys.argv[1]](*sys.argv[2:])
    except Exception as e:  # Whatever it is, the table names it.
        answer(error=f"{type(e).__name__}: {e}")


main()
