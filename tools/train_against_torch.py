"""Trains the zoo's ResNet-20 in PyTorch as `nnq train --zoo resnet20` does, to compare both.

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.8.0 onnx==1.19.0 numpy
    mkdir /tmp/train && ln -s CIFAR/data_batch_1.bin CIFAR/data_batch_2.bin /tmp/train
    nnq zoo resnet20 --seed 0 -o resnet20.random.onnx
    /tmp/torch/bin/python tools/train_against_torch.py resnet20.random.onnx --data /tmp/train --eval CIFAR/test_batch.bin --epochs 30
    nnq train --zoo resnet20 --data /tmp/train --eval CIFAR/test_batch.bin --preprocess cifar10 --epochs 30 --augment crop,flip -o resnet20.onnx

Equal are: the network, the random weights that it begins with (read from the model file), the images (20,000 of CIFAR-10) and their preprocessing, the augmentation (shifts by up to
4 pixels with zeros, mirroring), batches of 128 of which incomplete ones are left out, SGD with momentum 0.9, weight decay 1e-4 of the weights of convolutions and
of the classifier alone, a learning rate of 0.1 that goes to 0 along half a cosine step by step, the running statistics' momentum of 0.1. Not equal are the draws
of orders and augmentations: accuracies compare as those of two seeds do. Prints a line for each epoch, and the accuracy on the test images at the end, which are looked at once.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

# nnq's preset cifar10.
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
CROP = 4
# Steps before time is taken.
WARM = 5


class Block(nn.Module):
    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or before != width:
            convolution = nn.Conv2d(before, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """The CIFAR form of He et al., with projections; names are those of the zoo."""

    def __init__(self, blocks, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        before = 16
        for stage, width in enumerate([16, 32, 64]):
            layers = []
            for i in range(blocks):
                layers.append(Block(before, width, 2 if stage > 0 and i == 0 else 1))
                before = width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(64, classes)

    def forward(self, x):
        y = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        return self.fc(y.mean((2, 3)))


def load(path):
    """Images and labels of a file, or of all files of a folder, in CIFAR-10's binary form."""
    path = Path(path)
    files = sorted(path.glob("*.bin")) if path.is_dir() else [path]
    if not files:
        raise SystemExit(f"{path}: no *.bin files of CIFAR-10 in its binary version")
    raw = np.concatenate([np.fromfile(f, np.uint8).reshape(-1, 3073) for f in files])
    images = torch.from_numpy(raw[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 255)
    return (images - MEAN) / DEVIATION, torch.from_numpy(raw[:, 0].astype(np.int64))


def begin(net, path):
    """Puts the model file's weights into the network: every one, by its name."""
    graph = onnx.load(path).graph
    stored = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    wanted = {k for k in net.state_dict() if not k.endswith("num_batches_tracked")}
    if wanted - stored.keys():
        raise SystemExit(f"{path} lacks {sorted(wanted - stored.keys())[:3]}: is it nnq zoo's?")
    net.load_state_dict({k: stored[k] for k in wanted}, strict=False)


def augmented(x):
    """Each image shifted and mirrored by draws of its own."""
    n, size = len(x), x.shape[-1]
    padded = functional.pad(x, [CROP] * 4)
    down, right = (torch.randint(0, 2 * CROP + 1, (n, 1, 1, 1)) for _ in range(2))
    rows = down + torch.arange(size).view(1, 1, size, 1)
    columns = torch.arange(size).view(1, 1, 1, size)
    mirrored = torch.rand(n, 1, 1, 1) < 0.5
    columns = right + torch.where(mirrored, size - 1 - columns, columns)
    return padded[torch.arange(n).view(n, 1, 1, 1), torch.arange(3).view(1, 3, 1, 1), rows, columns]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="nnq zoo resnet20's file: the weights to begin with")
    parser.add_argument("--data", required=True, help="training images: a file or a folder")
    parser.add_argument("--eval", required=True, help="test images")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch likes")
    parser.add_argument("--steps", type=int, default=0, help="stop after so many, and say how fast they were")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    net = ResNet(3)
    begin(net, args.model)
    images, labels = load(args.data)
    decaying = [m.weight for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    others = [p for p in net.parameters() if all(p is not d for d in decaying)]
    groups = [{"params": decaying, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9)
    per_epoch = len(images) // args.batch
    total, step = per_epoch * args.epochs, 0
    print(f"{len(images)} images, {sum(p.numel() for p in net.parameters())} parameters, {total} steps", flush=True)
    for epoch in range(args.epochs):
        net.train()
        order = torch.randperm(len(images))
        begun, losses, right = time.time(), 0.0, 0
        for i in range(per_epoch):
            for group in optimizer.param_groups:
                group["lr"] = args.lr * 0.5 * (1 + math.cos(math.pi * step / total))
            some = order[i * args.batch : (i + 1) * args.batch]
            logits = net(augmented(images[some]))
            loss = functional.cross_entropy(logits, labels[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.item()
            right += (logits.argmax(1) == labels[some]).sum().item()
            step += 1
            if step == WARM:
                warm = time.time()
            if step == args.steps:
                rate = args.batch * (step - WARM) / (time.time() - warm) if step > WARM else 0.0
                print(f"step {step}: loss {losses / (i + 1):.4f}, {rate:.0f} images/s behind the first {WARM} steps")
                return
        seconds = time.time() - begun
        seen = per_epoch * args.batch
        rate = f"{seen / seconds:.0f} images/s"
        print(f"epoch {epoch + 1}: loss {losses / per_epoch:.4f}, training {100 * right / seen:.2f} %, {rate}", flush=True)
    net.eval()
    images, labels = load(args.eval)
    with torch.no_grad():
        right = sum(
            (net(images[i : i + 500]).argmax(1) == labels[i : i + 500]).sum().item() for i in range(0, len(images), 500)
        )
    print(f"test {100 * right / len(images):.2f} % ({right} of {len(images)})")


if __name__ == "__main__":
    main()
