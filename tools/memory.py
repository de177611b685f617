#!/usr/bin/env python3
"""What memory quantized models take, as a Markdown table.

usage: memory.py NNQ FOLDER MODEL.int8.onnx ...

Each model is measured as its ONNX file and as a compiled plan (written into FOLDER), with batches of 1 and 32, by `nnq bench`: a process
that loads the model and runs it once before anything else.
"""
import json
import pathlib
import subprocess
import sys

BATCHES = (1, 32)
MEGABYTE = 1e6


def nnq(*args):
    return subprocess.run(args, check=True, capture_output=True, text=True).stdout


def main(command, folder, *models):
    print("| network | file | batch | file, MB | arena | live activations | peak resident | allowed | |")
    print("|---|---|---|---|---|---|---|---|---|")
    for model in models:
        name = pathlib.Path(model).name.removesuffix(".onnx")
        plan = str(pathlib.Path(folder, name + ".plan"))
        nnq(command, "compile", model, "--batch", ",".join(map(str, BATCHES)), "-o", plan)
        for form, file in (("ONNX", model), ("plan", plan)):
            for batch in BATCHES:
                memory = json.loads(nnq(command, "bench", file, "--batch", str(batch), "--json"))["memory"]
                sizes = [memory[key] for key in ("file", "arena", "live", "peak", "allowance")]
                verdict = "ok" if memory["peak"] <= memory["allowance"] else "**too much**"
                row = [name, form, str(batch), *(f"{size / MEGABYTE:.1f}" for size in sizes), verdict]
                print("| " + " | ".join(row) + " |")


main(*sys.argv[1:])
