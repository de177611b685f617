#!/usr/bin/env python3
"""Another inference engine, for `nnq bench --peers`. The command carries this script inside it.

usage: peers.py serve    ENGINE MODEL SHAPES THREADS PRECISION
       peers.py quantize ENGINE FLOAT.onnx CALIBRATION.npy|SHAPES OUT

ENGINE is onnxruntime or openvino; PRECISION is float (real numbers stay binary32) or any (the engine's own choice). SHAPES is a
list of the shapes of all inputs, such as [[1, 128], [1, 128]]: real inputs are made up, integers are 0.

serve loads the model, runs it once and answers {"version": ..., "load_ms": ...}, one JSON object a line on standard output.
Then each line of standard input holds a number of runs, and the answer is {"seconds": [...]}, one number a run.
quantize makes an int8 model by the engine's own tool with that tool's defaults for CPUs and answers {"version": ...}; ONNX
Runtime's networks of integers (text) by its dynamic quantization, as its documentation advises.
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


def made_up(kinds, shapes):
    """An input of each kind (the name of an element type)."""
    import numpy as np

    if len(kinds) != len(shapes):
        raise ValueError(f"{len(kinds)} inputs, and {len(shapes)} shapes of them")
    integers = {"int32": np.int32, "int64": np.int64, "i32": np.int32, "i64": np.int64}
    return [np.zeros(s, integers[k]) if k in integers else numbers(s) for k, s in zip(kinds, shapes)]


def load_onnxruntime(path, shapes, threads, precision):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    start = time.perf_counter()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    seconds = time.perf_counter() - start
    ports = session.get_inputs()
    inputs = made_up([p.type[len("tensor(") : -1] for p in ports], shapes)
    feed = {p.name: x for p, x in zip(ports, inputs)}
    return ort.__version__, seconds, lambda: session.run(None, feed)


def load_openvino(path, shapes, threads, precision):
    import openvino as ov

    core = ov.Core()
    start = time.perf_counter()
    model = core.read_model(path)
    inputs = made_up([p.get_element_type().get_type_name() for p in model.inputs], shapes)
    model.reshape({p.any_name: s for p, s in zip(model.inputs, shapes)})
    config = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
    if precision == "float":
        config["INFERENCE_PRECISION_HINT"] = "f32"
    request = core.compile_model(model, "CPU", config).create_infer_request()
    seconds = time.perf_counter() - start
    # Without the name of the build.
    return ov.__version__.split("-")[0], seconds, lambda: request.infer(dict(enumerate(inputs)), share_inputs=True)


def serve(engine, path, shapes, threads, precision):
    version, seconds, run = LOADERS[engine](path, json.loads(shapes), int(threads), precision)
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
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if "int" in samples.kinds[0]:
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(path, out, per_channel=True)
        return f"quantize_dynamic of ONNX Runtime {ort.__version__}"

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.feeds = iter([dict(zip(samples.names, one)) for one in samples.all])

        def get_next(self):
            return next(self.feeds, None)

    ready = out + ".float.onnx"
    # Folds batch normalisation and infers shapes, as its documentation advises. Symbols would need one more package.
    quant_pre_process(path, ready, skip_symbolic_shape=True)
    quantize_static(
        ready,
        out,
        Reader(),
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
    data = nncf.Dataset([dict(zip(samples.names, one)) for one in samples.all])
    model_type = nncf.ModelType.TRANSFORMER if "int" in samples.kinds[0] else None
    ov.save_model(nncf.quantize(model, data, subset_size=len(samples.all), model_type=model_type), out, compress_to_fp16=False)
    return f"NNCF {nncf.__version__}"


class Samples:
    """What a tool calibrates on: all inputs of each sample."""

    def __init__(self, path, source):
        import numpy as np
        import onnx

        graph = onnx.load(path, load_external_data=False).graph
        constants = {t.name for t in graph.initializer}
        inputs = [v for v in graph.input if v.name not in constants]
        self.names = [v.name for v in inputs]
        self.kinds = [onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type).name for v in inputs]
        if source.startswith("["):
            self.all = [made_up(self.kinds, json.loads(source))]
        else:
            data = np.load(source)
            self.all = [[data[i : i + 1]] for i in range(len(data))]


def quantize(engine, path, calibration, out):
    answer(version=QUANTIZERS[engine](path, Samples(path, calibration), out))


LOADERS = {"onnxruntime": load_onnxruntime, "openvino": load_openvino}
QUANTIZERS = {"onnxruntime": quantize_onnxruntime, "openvino": quantize_openvino}


def main():
    try:
        {"serve": serve, "quantize": quantize}[sys.argv[1]](*sys.argv[2:])
    except Exception as e:  # Whatever it is, the table names it.
        answer(error=f"{type(e).__name__}: {e}")


main()
