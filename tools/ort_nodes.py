#!/usr/bin/env python3
"""Single nodes with random attributes and inputs, and what ONNX Runtime makes of them, as folders like those of ONNX's node tests.

usage: ort_nodes.py FOLDER         (needs numpy, onnx and onnxruntime)

What the official tests have little of: recurrent layers (functions, clip, lengths, peepholes, directions), equations of Einsum, the
operators of com.microsoft that nnq reads.
"""
import itertools
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(5)
ROOT = Path(sys.argv[1])
MICROSOFT = "com.microsoft"


def floats(*shape):
    return rng.uniform(-1, 1, shape).astype(np.float32)


def case(name, op, inputs, outputs=1, constant=(), domain="", version=17, **attributes):
    """`inputs`: arrays or None; those whose index is in `constant` become initializers."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    outputs = [f"y{i}" for i in range(outputs)] if isinstance(outputs, int) else outputs
    node = helper.make_node(op, names, outputs, "it", domain=domain, **{k: v for k, v in attributes.items() if v is not None})
    given = [(i, n, x) for i, (n, x) in enumerate(zip(names, inputs)) if x is not None]
    info = lambda n, x: helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
    graph = helper.make_graph(
        [node], name, [info(n, x) for i, n, x in given if i not in constant],
        [helper.make_empty_tensor_value_info(o) for o in outputs if o],
        [numpy_helper.from_array(x, n) for i, n, x in given if i in constant],
    )  # fmt: skip
    imports = [helper.make_opsetid("", version)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    free = [(n, x) for i, n, x in given if i not in constant]
    results = session.run(None, dict(free))
    folder = ROOT / name / "test_data_set_0"
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, ROOT / name / "model.onnx")
    for prefix, values in (("input", [x for _, x in free]), ("output", results)):
        for i, value in enumerate(values):
            (folder / f"{prefix}_{i}.pb").write_bytes(numpy_helper.from_array(np.asarray(value)).SerializeToString())


def recurrent():
    functions = {
        "RNN": [["Tanh"], ["Relu"], ["Affine"], ["ScaledTanh"], ["LeakyRelu"], ["Softsign"], ["Elu"]],
        "GRU": [["Sigmoid", "Tanh"], ["HardSigmoid", "Softsign"], ["Sigmoid", "ThresholdedRelu"]],
        "LSTM": [["Sigmoid", "Tanh", "Tanh"], ["HardSigmoid", "Softplus", "Relu"], ["Sigmoid", "Elu", "ScaledTanh"]],
    }
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}
    alphas = {"Affine": 0.7, "ScaledTanh": 1.3, "LeakyRelu": 0.2, "HardSigmoid": 0.25, "Elu": 0.8, "ThresholdedRelu": 0.3}
    betas = {"Affine": 0.1, "ScaledTanh": 0.6, "HardSigmoid": 0.4}
    n = 0
    for kind, directions, choice in itertools.product(gates, ("forward", "reverse", "bidirectional"), range(7)):
        if choice >= len(functions[kind]):
            continue
        for trial in range(2):
            n += 1
            d, g = 2 if directions == "bidirectional" else 1, gates[kind]
            time, batch, size, hidden = (int(rng.integers(1, 6)), int(rng.integers(1, 4)), int(rng.integers(1, 20)), int(rng.integers(1, 40)))
            names = functions[kind][choice] * d
            maybe = lambda x: x if rng.integers(2) else None
            inputs = [
                floats(time, batch, size), floats(d, g * hidden, size), floats(d, g * hidden, hidden), maybe(floats(d, 2 * g * hidden)),
                maybe(rng.integers(1, time + 1, batch).astype(np.int32)), maybe(floats(d, batch, hidden)),
            ]  # fmt: skip
            extra = {}
            if kind == "LSTM":
                inputs += [maybe(floats(d, batch, hidden)), maybe(floats(d, 3 * hidden))]
                extra["input_forget"] = int(rng.integers(2))
            if kind == "GRU":
                extra["linear_before_reset"] = trial
            # ONNX Runtime clips where there is a bias.
            if inputs[3] is not None and trial:
                extra["clip"] = 0.5
            case(
                f"{kind.lower()}_{n:03}", kind, inputs, 3 if kind == "LSTM" else 2, constant=(1, 2, 3) if trial else (), version=14,
                hidden_size=hidden, direction=directions, activations=names,
                activation_alpha=[alphas[f] for f in names if f in alphas] or None, activation_beta=[betas[f] for f in names if f in betas] or None,
                **extra,
            )  # fmt: skip


def einsum():
    sizes = dict(zip("abcdefij", (2, 3, 4, 5, 1, 6, 7, 2)))
    for i, equation in enumerate((
        "ab,bc->ac", "abc,cd->abd", "abcd,abed->abce", "abc,adc->abd", "ab,cb,db->acd", "ab->ba", "abc->c", "ab,ab->", "aa->a", "aab,b->a",
        "ab,cd->abcd", "abc,abc->ab", "...a,ab->...b", "a...,a...->...", "abij,ij->ab", "ab,bc,cd->ad", "ab,b", "abc,d->abcd",
    )):  # fmt: skip
        shape = lambda term: tuple(itertools.chain((3, 2) if "..." in term else (), (sizes[c] for c in term.replace("...", ""))))
        place = lambda term: tuple(sizes[c] for c in term.split("...")[0]) + (3, 2) + tuple(sizes[c] for c in term.split("...")[1])
        terms = equation.split("->")[0].split(",")
        case(f"einsum_{i:02}", "Einsum", [floats(*(place(t) if "..." in t else shape(t))) for t in terms], equation=equation)


def microsoft():
    x, skip, gamma, beta, bias = floats(2, 3, 8), floats(2, 3, 8), floats(8), floats(8), floats(8)
    run = lambda name, op, inputs, outputs=1, **a: case(f"microsoft_{name}", op, inputs, outputs, domain=MICROSOFT, **a)
    run("gelu", "Gelu", [x])
    run("bias_gelu", "BiasGelu", [x, bias])
    run("fast_gelu", "FastGelu", [x])
    run("fast_gelu_bias", "FastGelu", [x, bias])
    run("quick_gelu", "QuickGelu", [x])
    run("quick_gelu_alpha", "QuickGelu", [x], alpha=1.2)
    run("matmul", "FusedMatMul", [x, floats(8, 5)], alpha=0.5)
    run("matmul_turned", "FusedMatMul", [floats(2, 8, 3), floats(2, 5, 8)], transA=1, transB=1)
    run("skip", "SkipLayerNormalization", [x, skip, gamma, beta], epsilon=1e-5)
    run("skip_bias_sum", "SkipLayerNormalization", [x, skip, gamma, beta, bias], ["y", "", "", "sum"], epsilon=1e-5)
    run("skip_simple", "SkipSimplifiedLayerNormalization", [x, skip, gamma], epsilon=1e-5)
    run("skip_simple_bias_sum", "SkipSimplifiedLayerNormalization", [x, skip, gamma, bias], ["y", "", "", "sum"], epsilon=1e-5)
    case("microsoft_simple", "SimplifiedLayerNormalization", [x, gamma], axis=-1, epsilon=1e-4)
    run("attention", "MultiHeadAttention", [x, skip, floats(2, 3, 8)], num_heads=2)
    run("attention_bias", "MultiHeadAttention", [x, skip, floats(2, 3, 8), floats(24)], constant=(3,), num_heads=4, scale=0.3)
    run("attention_added", "MultiHeadAttention", [x, floats(2, 5, 8), floats(2, 5, 8), None, None, floats(2, 2, 3, 5)], num_heads=2)


def quantized():
    run = lambda name, op, inputs, **a: case(f"quantized_{name}", op, inputs, domain=MICROSOFT, **a)
    codes = lambda *shape, dtype=np.uint8: rng.integers(0, 256, shape).astype(np.uint8).view(dtype)
    # Steps that are powers of two: what lies between two codes is a tie for everybody.
    step = lambda power: np.float32(2.0**power)
    zero = lambda z, dtype=np.uint8: np.array(z, dtype)
    for kind in (np.uint8, np.int8):
        name, z = np.dtype(kind).name, 3 if kind is np.int8 else 120
        x, y = codes(2, 4, 5, 5, dtype=kind), codes(2, 4, 5, 5, dtype=kind)
        # These operators add the zero point before they round, QuantizeLinear behind: the same where it is even.
        even = zero(8 if kind is np.int8 else 126, kind)
        ends = [step(-5), zero(z, kind)], [step(-6), zero(z - 2, kind)], [step(-4), even]
        run(f"add_{name}", "QLinearAdd", [x, *ends[0], y, *ends[1], *ends[2]], constant=(1, 2, 4, 5, 6, 7))
        run(f"mul_{name}", "QLinearMul", [x, *ends[0], y, *ends[1], *ends[2]], constant=(1, 2, 4, 5, 6, 7))
        run(f"concat_{name}", "QLinearConcat", [*ends[2], x, *ends[0], y, *ends[1]], constant=(0, 1, 3, 4, 6, 7), axis=1)
        run(f"sigmoid_{name}", "QLinearSigmoid", [x, *ends[0], step(-8), zero(-128 if kind is np.int8 else 0, kind)], constant=(1, 2, 3, 4))
        run(f"leaky_{name}", "QLinearLeakyRelu", [x, *ends[0], *ends[2]], constant=(1, 2, 3, 4), alpha=0.25)
        run(f"mean_{name}", "QLinearGlobalAveragePool", [codes(2, 3, 4, 4, dtype=kind), *ends[0], *ends[2]], constant=(1, 2, 3, 4))
        run(f"pool_{name}", "QLinearAveragePool", [x, *ends[0], *ends[2]], constant=(1, 2, 3, 4), kernel_shape=[2, 2], strides=[2, 2])
    run("softmax", "QLinearSoftmax", [codes(3, 9), step(-5), zero(7), step(-8), zero(0)], constant=(1, 2, 3, 4), axis=-1, opset=13)
    for turned in (0, 1):
        a, b = codes(5, 7), codes(*((6, 7) if turned else (7, 6)), dtype=np.int8)
        scale, zeros = np.full(6, step(-7)) * np.array([1, 2, 4, 1, 2, 4], np.float32), np.zeros(6, np.int8)
        inputs = [a, step(-6), zero(100), b, scale, zeros, rng.integers(-900, 900, 6).astype(np.int32)]
        run(f"gemm_real_{turned}", "QGemm", inputs, constant=(1, 2, 3, 4, 5, 6), transB=turned)
        run(f"gemm_{turned}", "QGemm", [*inputs, step(-1), zero(128)], constant=(1, 2, 3, 4, 5, 6, 7, 8), transB=turned)
    weights = [codes(7, 6, dtype=np.int8), np.full(6, step(-7)), np.zeros(6, np.int8), floats(6)]
    run("dynamic_matmul", "DynamicQuantizeMatMul", [floats(3, 7), *weights], constant=(1, 2, 3, 4))
    run("dynamic_matmul_plain", "DynamicQuantizeMatMul", [floats(2, 3, 7), *weights[:2]], constant=(1, 2))
    inputs = [codes(3, 7), weights[0], step(-6), weights[1], zero(100), weights[2], weights[3]]
    run("integer_matmul", "MatMulIntegerToFloat", inputs, constant=(1, 2, 3, 4, 5, 6))
    inputs = [codes(2, 3, 8), codes(8, 24, dtype=np.int8), floats(24), step(-6), step(-8)]
    ends = [zero(128), zero(0, np.int8)]
    mask = np.array([[1, 1, 0], [1, 1, 1]], np.int32)
    run("attention", "QAttention", [*inputs, None, *ends], constant=(1, 2, 3, 4, 6, 7), num_heads=2)
    run("attention_mask", "QAttention", [*inputs, mask, *ends], constant=(1, 2, 3, 4, 6, 7), num_heads=4)
    run("attention_causal", "QAttention", [*inputs, None, *ends], constant=(1, 2, 3, 4, 6, 7), num_heads=2, unidirectional=1)
    for bits, k, n, block in ((4, 64, 9, 16), (4, 70, 5, 32), (8, 48, 4, 32), (2, 64, 6, 16)):
        blocks = -(-k // block)
        w, scale = codes(n, blocks, block * bits // 8), rng.uniform(0.01, 0.1, n * blocks).astype(np.float32)
        zeros = codes(n * -(-blocks * bits // 8))
        # Zero points behind the last block of a column count for nothing.
        for name, inputs in (("", [w, scale]), ("_zeros", [w, scale, zeros]), ("_bias", [w, scale, zeros, None, floats(n)])):
            run(f"bits{bits}_{k}{name}", "MatMulNBits", [floats(2, 3, k), *inputs], constant=range(1, 6), K=k, N=n, bits=bits, block_size=block)


recurrent()
einsum()
microsoft()
quantized()
