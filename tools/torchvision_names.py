"""What torchvision calls the weights of its networks, and the answers of one of each kind: the references for the zoo.

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.15.0 torchvision==0.29.2 safetensors numpy
    /tmp/torch/bin/python tools/torchvision_names.py crates/nnq/tests/golden/torchvision

Writes `names.json`: for every network of the zoo that torchvision has, the SHA-256 of the lines `name [sizes]` of its `state_dict`, sorted, without counters and auxiliary
classifiers; and `small.pth`, `small.safetensors`, `small.json`: a `state_dict` with a transposed view, a shared storage, halves, a parameter and an OrderedDict's
metadata, and its numbers.

    /tmp/torch/bin/python tools/torchvision_names.py --compare NNQ

builds each network with random weights and statistics, hands them to `NNQ zoo NAME --weights` as safetensors and as .pth, runs both files on one picture with `NNQ run`
and prints the largest difference from torchvision's logits, relative to the largest logit.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision.models as models
from safetensors.torch import save_file
from torch import nn

NAMES = {
    "resnet18": models.resnet18,
    "resnet34": models.resnet34,
    "resnet50": models.resnet50,
    "resnext50": models.resnext50_32x4d,
    "mobilenetv2": models.mobilenet_v2,
    "mobilenetv3-large": models.mobilenet_v3_large,
    "mobilenetv3-small": models.mobilenet_v3_small,
    "squeezenet1.1": models.squeezenet1_1,
    "shufflenetv2": models.shufflenet_v2_x1_0,
    "googlenet": lambda: models.googlenet(aux_logits=False, init_weights=False, transform_input=False),
    "inceptionv3": lambda: models.inception_v3(init_weights=False, transform_input=False),
}


def lines(state):
    idle = ("AuxLogits.", "aux1.", "aux2.")
    kept = (k for k in state if not k.endswith("num_batches_tracked") and not k.startswith(idle))
    return sorted(f"{k} {list(state[k].shape)}" for k in kept)


def small(folder):
    torch.manual_seed(0)
    base = torch.randn(4, 3)
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    state = net.state_dict()
    state["transposed"] = base.t()
    state["part"] = base[1:3, 1]
    state["half"] = torch.tensor([1.5, -0.25, 65504.0], dtype=torch.float16)
    state["brain"] = torch.tensor([1.5, -0.25], dtype=torch.bfloat16)
    state["double"] = torch.tensor([0.1], dtype=torch.float64)
    state["parameter"] = nn.Parameter(torch.tensor([[3.0]]))
    torch.save(state, folder / "small.pth")
    torch.save({"epoch": 3, "state_dict": state}, folder / "checkpoint.pth")
    save_file({k: v.detach().contiguous() for k, v in state.items()}, folder / "small.safetensors")
    numbers = {k: {"shape": list(v.shape), "numbers": v.detach().double().flatten().tolist()} for k, v in state.items()}
    (folder / "small.json").write_text(json.dumps(numbers, indent=1) + "\n")


def randomize(net):
    """Statistics that are not those of a fresh network."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
    return net.eval()


def compare(nnq):
    for name, build in NAMES.items():
        torch.manual_seed(1)
        net = randomize(build())
        size = 299 if name == "inceptionv3" else 224
        x = torch.randn(1, 3, size, size)
        with torch.no_grad():
            wanted = net(x).numpy()
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            np.save(folder / "x.npy", x.numpy())
            save_file(net.state_dict(), folder / "w.safetensors")
            torch.save(net.state_dict(), folder / "w.pth")
            worst = []
            for kind in ("safetensors", "pth"):
                model, out = folder / f"{kind}.onnx", folder / f"{kind}.npy"
                subprocess.run([nnq, "zoo", name, "--weights", folder / f"w.{kind}", "-o", model], check=True, stdout=subprocess.DEVNULL)
                run = [nnq, "run", model, "--input", folder / "x.npy", "-o", out]
                subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
                worst.append(np.abs(np.load(out) - wanted).max() / np.abs(wanted).max())
            print(f"{name:18} {worst[0]:.1e} {worst[1]:.1e}", flush=True)


def main():
    if sys.argv[1] == "--compare":
        return compare(sys.argv[2])
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    sums = {k: hashlib.sha256("\n".join(lines(f().state_dict())).encode()).hexdigest() for k, f in NAMES.items()}
    (folder / "names.json").write_text(json.dumps(sums, indent=1) + "\n")
    small(folder)


if __name__ == "__main__":
    main()
