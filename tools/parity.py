#!/usr/bin/env python3
"""Checks, over whole test sets, that the simulator and the integer engine give the same bits on every instruction set.

usage: parity.py --models DIR --cifar DIR --imagenette DIR --out DIR [--nnq FILE] [--only NAME]... [--isas NAME,...]
                 [--engine-only] [--keep] [--compare FILE]

For each network of the table below: `nnq quantize` (512 training images, default recipe), then for each profile `nnq eval` of the
whole test set with the integer engine on each instruction set and with the simulator, and once with the float model. Writes
OUT/NAME.int8.onnx; OUT/hashes.json: network -> profile -> engine -> `logits_sha256`; OUT/results.json: the whole answers of
`nnq eval`. A later run with the same OUT keeps the models, and with --keep the evaluations too. --compare FILE is the hashes.json of
another run, to which this run's must be equal; with --engine-only the simulator and the float model are left out, which is what a
change of the engine alone needs. Exit code 1 when any two hashes of a network and a profile differ.

CIFAR is a folder with the binary batches, IMAGENETTE one with train/, val/ and classes.tsv. Needs nothing but Python; takes about an
hour on two idle cores, most of it the simulator and the scalar code.
"""
import argparse
import json
import os
import subprocess
import sys

# Name, model file, data set, preprocessing, whether the model knows all 1000 classes.
NETWORKS = [
    ("resnet20", "resnet20_cifar10_fp32.onnx", "cifar", "cifar10", False),
    ("resnet32", "resnet32_cifar10_fp32.onnx", "cifar", "cifar10", False),
    ("resnet44", "resnet44_cifar10_fp32.onnx", "cifar", "cifar10", False),
    ("resnet56", "resnet56_cifar10_fp32.onnx", "cifar", "cifar10", False),
    ("mobilenetv1", "mobilenetv1_0.75_224_imagenet_fp32.onnx", "imagenette", "inception", True),
    ("mobilenetv2", "mobilenetv2_tv_imagenette10_fp32.onnx", "imagenette", "imagenet", False),
    ("squeezenet", "squeezenet1.1_imagenet_fp32.onnx", "imagenette", "imagenet", True),
]
PROFILES = ["dyadic", "onnx"]
# Fastest first.
ISAS = ["amx-int8", "avx512-vnni", "avx-vnni", "avx2", "scalar"]


class Network:
    def __init__(self, args, name, model, data, preprocess, thousand):
        self.name = name
        self.float = os.path.join(args.models, model)
        self.int8 = os.path.join(args.out, name + ".int8.onnx")
        cifar = data == "cifar"
        self.train = args.cifar if cifar else os.path.join(args.imagenette, "train")
        self.test = args.cifar if cifar else os.path.join(args.imagenette, "val")
        self.reading = ["--preprocess", preprocess]
        if thousand:
            self.reading += ["--classes", os.path.join(args.imagenette, "classes.tsv")]


def nnq(args, words, isa=None):
    env = {k: v for k, v in os.environ.items() if k != "NNQ_ISA"}
    if isa:
        env["NNQ_ISA"] = isa
    done = subprocess.run([args.nnq, *words, "--json"], env=env, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def available(args):
    """The instruction sets of this machine: nnq lists them when it is asked for one that does not exist."""
    env = {**os.environ, "NNQ_ISA": "?"}
    done = subprocess.run([args.nnq, "demo"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    have = done.stderr.partition("available here:")[2].split()
    for isa in ISAS:
        if isa not in have:
            print(f"NOT TESTED: this machine does not have the instruction set {isa}")
    return [isa for isa in ISAS if isa in have]


def evaluate(args, network, profile, engine):
    """`engine` is float, sim or an instruction set; `profile` is None for float."""
    model = network.int8 if profile else network.float
    words = ["eval", model, "--data", network.test, *network.reading]
    words += ["--engine", engine if engine in ("float", "sim") else "int"]
    if profile:
        words += ["--profile", profile]
    return nnq(args, words, engine if engine in ISAS else None)


def load(path):
    if not os.path.exists(path):
        return {}
    with open(path) as file:
        return json.load(file)


def save(path, what):
    with open(path + ".new", "w") as file:
        json.dump(what, file, indent=1)
    os.replace(path + ".new", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["--models", "--cifar", "--imagenette", "--out"]:
        parser.add_argument(name, required=True, metavar="DIR")
    parser.add_argument("--nnq", default="target/release/nnq", metavar="FILE")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this network")
    parser.add_argument("--isas", metavar="NAME,...", help="the instruction sets [default: all that there are]")
    parser.add_argument("--engine-only", action="store_true", help="neither the simulator nor the float model")
    parser.add_argument("--keep", action="store_true", help="keep the evaluations of an earlier run")
    parser.add_argument("--compare", metavar="FILE", help="hashes.json of another run")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    os.makedirs(args.out, exist_ok=True)
    networks = [Network(args, *n) for n in NETWORKS if not args.only or n[0] in args.only]
    for n in networks:
        if not os.path.exists(n.int8):
            nnq(args, ["quantize", n.float, "--data", n.train, *n.reading, "--samples", "512", "-o", n.int8 + ".new"])
            os.replace(n.int8 + ".new", n.int8)
        print(f"{n.name}: {os.path.getsize(n.int8)} of {os.path.getsize(n.float)} bytes")

    paths = [os.path.join(args.out, name) for name in ["hashes.json", "results.json"]]
    hashes, results = [load(path) if args.keep else {} for path in paths]
    # The fast ones first.
    isas = args.isas.split(",") if args.isas else available(args)
    jobs = [(profile, isa) for isa in isas for profile in PROFILES]
    if not args.engine_only:
        jobs += [(profile, "sim") for profile in PROFILES] + [(None, "float")]
    for profile, engine in jobs:
        for n in networks:
            of = results.setdefault(n.name, {}).setdefault(profile or "float", {})
            if engine in of:
                continue
            answer = of[engine] = evaluate(args, n, profile, engine)
            if profile:
                hashes.setdefault(n.name, {}).setdefault(profile, {})[engine] = answer["logits_sha256"]
            save(paths[0], hashes)
            save(paths[1], results)
            text = f"{answer['samples']} samples, top 1 {100 * answer['top1']:.2f} %, {answer['logits_sha256'][:16]}"
            print(f"{n.name} {profile or ''} {engine}: {text}, {answer['seconds']:.0f} s")

    faults, count = [], 0
    other = load(args.compare) if args.compare else {}
    for name, profiles in hashes.items():
        for profile, of in profiles.items():
            count += len(of)
            if len(set(of.values())) != 1:
                faults.append(f"{name} {profile}: {of}")
            before = set(other.get(name, {}).get(profile, {}).values())
            if args.compare and before != set(of.values()):
                faults.append(f"{name} {profile}: {sorted(of.values())}, in {args.compare} {sorted(before)}")
    for fault in faults:
        print(f"DIFFERENT: {fault}")
    if not faults:
        print(f"{count} evaluations: all hashes of a network and a profile are equal")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
