"""Trains the network behind `nnq demo` and writes crates/nnq/assets/demo.onnx.

    cargo run --release -- demo --write-data /tmp/demo
    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch==2.8.0 onnx==1.17.0 numpy
    /tmp/venv/bin/python tools/train_demo.py /tmp/demo crates/nnq/assets/demo.onnx

The pictures come from crates/nnq/src/demo.rs: 32,000 of the train stream, 2,000 of the test stream, which is looked at once, at the
end. One thread, fixed seed, no augmentation (the generator has endless pictures, the split is what keeps it honest).
The network has what quantization has to cope with: batch normalisation that is not folded, residual additions, a
depthwise convolution with ReLU6 between two pointwise ones, a concatenation of branches with different ranges, a global
average pool. It is exported in opset 17 with a dynamic batch.

The run that made the committed file (torch 2.8.0) took 7 minutes on one busy core, ended at a training loss of 0.0117 and printed:
64890 parameters, test accuracy 96.25% (1925 of 2000).
"""
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

EPOCHS = 16
BATCH = 64
SEED = 1


def load(path, count):
    raw = np.fromfile(path, np.uint8).reshape(-1, 3073)[:count]
    pictures = raw[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 127.5 - 1
    return torch.from_numpy(pictures), torch.from_numpy(raw[:, 0].astype(np.int64))


def conv(cin, cout, kernel, stride=1, groups=1, act=None):
    layers = [nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)]
    return nn.Sequential(*layers, *([act()] if act else []))


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a = conv(width, width, 3, act=nn.ReLU)
        self.b = conv(width, width, 3)

    def forward(self, x):
        return torch.relu(x + self.b(self.a(x)))


class Fork(nn.Module):
    """Halves the resolution on two paths and joins them: a strided convolution, and a maximum pool with a pointwise convolution."""

    def __init__(self, cin, cout):
        super().__init__()
        self.a = conv(cin, cout // 2, 3, 2, act=nn.ReLU)
        self.pool = nn.MaxPool2d(2)
        self.b = conv(cin, cout - cout // 2, 1, act=nn.ReLU)

    def forward(self, x):
        return torch.cat([self.a(x), self.b(self.pool(x))], 1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            conv(3, 16, 3, act=nn.ReLU),
            # Inverted residual: expand, depthwise, project.
            conv(16, 48, 1, act=nn.ReLU6),
            conv(48, 48, 3, 2, groups=48, act=nn.ReLU6),
            conv(48, 24, 1),
            Residual(24),
            Fork(24, 48),
            Residual(48),
            conv(48, 64, 1, act=nn.ReLU),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )

    def forward(self, x):
        return self.body(x)


def main():
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    x, y = load(folder / "data_batch_1.bin", 32_000)
    tx, ty = load(folder / "test_batch.bin", 2_000)
    net = Net().to(memory_format=torch.channels_last)
    steps = EPOCHS * (len(x) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=2e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.2)
    start = time.time()
    for epoch in range(EPOCHS):
        net.train()
        order = torch.randperm(len(x))
        total = 0.0
        for i in range(len(x) // BATCH):
            pick = order[i * BATCH : (i + 1) * BATCH]
            loss = nn.functional.cross_entropy(net(x[pick].to(memory_format=torch.channels_last)), y[pick])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / (len(x) // BATCH):.4f}, {time.time() - start:.0f} s", flush=True)
    net.eval()
    with torch.no_grad():
        right = sum((net(tx[i : i + 250]).argmax(1) == ty[i : i + 250]).sum().item() for i in range(0, len(tx), 250))
    parameters = sum(p.numel() for p in net.parameters())
    print(f"{parameters} parameters, test accuracy {right / len(tx):.2%} ({right} of {len(tx)})")
    net = net.to(memory_format=torch.contiguous_format)
    # TrainingMode.PRESERVE on a network in eval mode keeps the exporter from folding batch normalisation.
    torch.onnx.export(
        net, torch.zeros(1, 3, 32, 32), str(out), dynamo=False, opset_version=17, do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE, input_names=["image"], output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
    )
    model = onnx.load(str(out))
    model.doc_string = f"nnq demo: {right / len(tx):.2%} of {len(tx)} generated test pictures"
    onnx.checker.check_model(model)
    onnx.save(model, str(out))
    print(out, out.stat().st_size, "bytes", sorted({n.op_type for n in model.graph.node}))


if __name__ == "__main__":
    main()
