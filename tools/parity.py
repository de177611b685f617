#!/usr/bin/env python3
"""Checks, over whole test sets, that the simulator and the integer engine give the same bits on every instruction set.

usage: parity.py --models DIR --cifar DIR --imagenette DIR --out DIR [--nnq FILE] [--only PART]... [--isas NAME,...]

For each network of the table below: `nnq quantize` (512 training images, default recipe, accuracy over the test set), then
`nnq eval` of the whole test set for each profile with the simulator and with the integer engine on each instruction set. (What
`nnq quantize` evaluated, the simulator and the fastest instruction set under profile dyadic, is not evaluated again.)
Writes OUT/NAME.int8.onnx, OUT/NAME.quantize.json and OUT/hashes.json: network -> profile -> engine -> `logits_sha256`. A later
run with the same OUT keeps the models; it computes the hashes anew, or with --keep only those that are missing.
--compare FILE is a hashes.json of another run, to which this run's must be equal. Exit code 1 when any two hashes of a network and a
profile differ. Needs nothing but Python; takes about an hour on two cores, most of it the scalar code and the simulator.

CIFAR is a folder with the binary batches, IMAGENETTE one with train/, val/ and classes.tsv.
"""
import argparse
import json
import os
import subprocess
import sys
import time

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
ISAS = ["avx512-vnni", "avx-vnni", "avx2", "scalar"]


def nnq(args, words, isa=None):
    env = {k: v for k, v in os.environ.items() if k != "NNQ_ISA"}
    if isa:
        env["NNQ_ISA"] = isa
    done = subprocess.run([args.nnq, *words, "--json"], env=env, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def reading(args, data_set, preprocess, thousand):
    words = ["--preprocess", preprocess]
    if thousand:
        words += ["--classes", os.path.join(args.imagenette, "classes.tsv")]
    if data_set == "cifar":
        return args.cifar, args.cifar, words
    return os.path.join(args.imagenette, "train"), os.path.join(args.imagenette, "val"), words


def save(path, what):
    with open(path + ".new", "w") as file:
        json.dump(what, file, indent=1)
    os.replace(path + ".new", path)


def quantize(args, network):
    name, model, *rest = network
    out = os.path.join(args.out, name + ".int8.onnx")
    report = os.path.join(args.out, name + ".quantize.json")
    if os.path.exists(out) and os.path.exists(report):
        if not args.keep:
            return {}
        with open(report) as file:
            return evaluated(json.load(file))
    train, test, words = reading(args, *rest)
    model = os.path.join(args.models, model)
    answer = nnq(args, ["quantize", model, "--data", train, "--eval", test, *words, "--samples", "512", "-o", out])
    save(report, answer)
    top1 = [f"{100 * answer[e]['top1']:.2f} %" for e in ["float", "sim", "int"]]
    print(f"{name}: top 1 float, sim, int {', '.join(top1)}; {answer['quantized_bytes']} of {answer['float_bytes']} bytes")
    return evaluated(answer)


def evaluated(report):
    return {report[e]["isa"] or e: report[e]["logits_sha256"] for e in ["sim", "int"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["--models", "--cifar", "--imagenette", "--out"]:
        parser.add_argument(name, required=True, metavar="DIR")
    parser.add_argument("--nnq", default="target/release/nnq", metavar="FILE")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this network")
    parser.add_argument("--isas", default=",".join(ISAS), metavar="NAME,...", help="the instruction sets")
    parser.add_argument("--keep", action="store_true", help="compute only the hashes that OUT/hashes.json lacks")
    parser.add_argument("--compare", metavar="FILE", help="hashes.json of another run")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    os.makedirs(args.out, exist_ok=True)
    networks = [n for n in NETWORKS if not args.only or n[0] in args.only]
    known = {network[0]: quantize(args, network) for network in networks}

    path = os.path.join(args.out, "hashes.json")
    hashes = {}
    if args.keep and os.path.exists(path):
        with open(path) as file:
            hashes = json.load(file)
    engines = [("int", isa) for isa in args.isas.split(",")]
    # The slow ones last.
    engines.insert(engines.index(("int", "scalar")) if ("int", "scalar") in engines else len(engines), ("sim", None))
    for engine, isa in engines:
        for name, _, *rest in networks:
            for profile in PROFILES:
                of = hashes.setdefault(name, {}).setdefault(profile, {})
                key = isa or engine
                if args.keep and key in of:
                    continue
                if profile == "dyadic" and key in known[name]:
                    of[key] = known[name][key]
                    save(path, hashes)
                    continue
                _, test, words = reading(args, *rest)
                model = os.path.join(args.out, name + ".int8.onnx")
                start = time.time()
                words = ["eval", model, "--data", test, *words, "--engine", engine, "--profile", profile]
                answer = nnq(args, words, isa)
                of[key] = answer["logits_sha256"]
                save(path, hashes)
                took = time.time() - start
                print(f"{name} {profile} {key}: {answer['samples']} samples, {of[key][:16]}, {took:.0f} s")

    faults = []
    for name, profiles in hashes.items():
        for profile, of in profiles.items():
            if len(set(of.values())) != 1:
                faults.append(f"{name} {profile}: {of}")
    if args.compare:
        with open(args.compare) as file:
            other = json.load(file)
        for name, profiles in hashes.items():
            for profile, of in profiles.items():
                before = set(other.get(name, {}).get(profile, {}).values())
                if before != set(of.values()):
                    faults.append(f"{name} {profile}: {args.compare} has {sorted(before)}, this run {sorted(set(of.values()))}")
    for fault in faults:
        print(f"DIFFERENT: {fault}")
    if not faults:
        count = sum(len(of) for profiles in hashes.values() for of in profiles.values())
        print(f"{count} evaluations: all hashes of a network and a profile are equal")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
