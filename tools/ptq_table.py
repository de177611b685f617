"""Measures the table of docs/results.md: networks x bits x recipes, integer engine, full test sets.

    python3 tools/ptq_table.py --nnq target/release/nnq --data ../shared/data --cifar DIR --work DIR [--only resnet20,w4a4] > table.md

Each row's file is run by the simulator and by the integer engine on the first PARITY test images, and the hashes of all
their outputs are compared: a row whose hashes differ fails. With --seeds the last column is measured with calibration images drawn by
other seeds too (networks that calibrate on all images have one draw only).

DIR of --cifar holds data_batch_1.bin and test_batch.bin in CIFAR-10's binary format. What was measured stays in WORK/table.json: a
run that was stopped goes on there.
"""
import argparse
import json
import pathlib
import subprocess
import time

PARITY = 64
# Training images of Imagenette in the data folder: all are calibrated on.
IMAGENETTE = 996
CIFAR = 1024
BITS = ["w8a8", "w6a6", "w4a8", "w4a4", "w3a3"]
# With more bits, draws differ by less than test sets tell.
FEW = ["w4a4", "w3a3"]
WIDE = 'version = 1\nfirst = "8bit"\nlast = "8bit"\nsum_operands = "8bit"\n'
LAYERS = ["--weight-range", "mse", "--rounding", "descent", "--compensate", "--correct-bias"]


def networks(data, cifar):
    """Name: model, training data, test data, preprocessing, further flags, samples."""
    models, nette = data / "models", data / "imagenette"
    classes = ["--classes", str(nette / "classes.tsv")]
    images = (nette / "train", nette / "val")
    cifar = (cifar / "data_batch_1.bin", cifar / "test_batch.bin")
    return {
        "resnet20": (models / "resnet20_cifar10_fp32.onnx", *cifar, "cifar10", [], CIFAR),
        "resnet56": (models / "resnet56_cifar10_fp32.onnx", *cifar, "cifar10", [], CIFAR),
        "mobilenetv2": (models / "mobilenetv2_tv_imagenette10_fp32.onnx", *images, "imagenet", [], IMAGENETTE),
        "mobilenetv1": (models / "mobilenetv1_0.75_224_imagenet_fp32.onnx", *images, "inception", classes, IMAGENETTE),
        "squeezenet": (models / "squeezenet1.1_imagenet_fp32.onnx", *images, "imagenet", classes, IMAGENETTE),
    }


def recipes(bits, wide, smooth):
    """Name: flags, whether samples are looked at again."""
    # One range for all channels of an activation costs weights, of which 4 bits have none to spare.
    few = bits.startswith(("w4", "w3"))
    ranges = ["--smooth=1", "--range", "output"] if smooth and not few else ["--range", "mse" if bits in FEW else "norm"]
    return {
        "minmax": (["--range", "minmax"], False),
        "percentile": (["--range", "percentile:99.99"], False),
        "histogram": (["--range", "norm"], False),
        "best": (["--recipe", str(wide), *ranges, *LAYERS], True),
    }


def main():
    p = argparse.ArgumentParser()
    for name in ["nnq", "data", "cifar", "work"]:
        p.add_argument(f"--{name}", type=pathlib.Path, required=True)
    p.add_argument("--seeds", type=int, default=1)
    p.add_argument("--only", default="", help="words that a row's name has to have, all of them")
    args = p.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    wide = args.work / "wide.toml"
    wide.write_text(WIDE)
    path = args.work / "table.json"
    done = json.loads(path.read_text()) if path.exists() else {}

    def nnq(*words):
        out = subprocess.run([str(args.nnq.resolve()), *map(str, words), "--json"], capture_output=True, text=True)
        if out.returncode:
            return {"error": out.stderr.strip()}
        return json.loads(out.stdout)

    def top1(report):
        return report.get("error") or report.get("top1_restricted") or report["top1"]

    nets = networks(args.data, args.cifar)
    for name, (model, train, test, preprocess, more, samples) in nets.items():
        wanted = [
            (f"{name} {bits} {recipe}", bits, flags, again)
            for bits in BITS
            for recipe, (flags, again) in recipes(bits, wide, samples == IMAGENETTE).items()
            if all(word in f"{name} {bits} {recipe}".split() for word in args.only.split(",") if word)
        ]
        evaluate = ["--data", test, "--preprocess", preprocess, *more]
        if wanted and f"{name} float" not in done:
            done[f"{name} float"] = top1(nnq("eval", model, *evaluate, "--engine", "float"))
        stats = args.work / f"{name}.qstats"
        for key, bits, flags, again in wanted:
            reading = ["--data", train, "--preprocess", preprocess]
            if not stats.exists():
                nnq("calibrate", model, *reading, "--samples", samples, "-o", stats)
            draws = args.seeds if again and samples == CIFAR and bits in FEW else 1
            for seed in range(draws):
                name_ = key if seed == 0 else f"{key} seed {seed}"
                if name_ in done:
                    continue
                out, clock = args.work / "out.onnx", time.time()
                source = [*reading, "--samples", samples, "--seed", seed] if again else ["--stats", stats]
                report = nnq("quantize", model, *source, "--bits", bits, *flags, "-o", out)
                seconds = time.time() - clock
                few = [nnq("eval", out, *evaluate, "--limit", PARITY, "--engine", e) for e in ["sim", "int"]]
                same = len({r.get("logits_sha256", e) for e, r in enumerate(few)}) == 1
                done[name_] = report.get("error") or (top1(nnq("eval", out, *evaluate, "--engine", "int")) if same else "sim and int differ")
                done[f"{name_} seconds"] = round(seconds, 1)
                path.write_text(json.dumps(done, indent=1))

    show = lambda x: "-" if x is None else x if isinstance(x, str) else f"{100 * x:.2f}"
    print("| network, float | bits | min-max | percentile 99.99 | histogram (norm) | best recipe | lost by it | other seeds |")
    print("|---|---|---|---|---|---|---|---|")
    for name in nets:
        float_ = done.get(f"{name} float")
        for bits in BITS:
            cells = [done.get(f"{name} {bits} {r}") for r in recipes(bits, wide, False)]
            if all(c is None for c in cells):
                continue
            lost = f"{100 * (float_ - cells[-1]):.2f}" if isinstance(cells[-1], float) else "-"
            others = [show(v) for s in range(1, 10) if (v := done.get(f"{name} {bits} best seed {s}")) is not None]
            cells = " | ".join(map(show, cells))
            print(f"| {name}, {show(float_)} | {bits.upper()} | {cells} | {lost} | {', '.join(others) or '-'} |")


if __name__ == "__main__":
    main()
