#!/usr/bin/env python3
"""Draws where a network loses signal, from the JSON that `nnq demo --json` or `nnq quantize --json` prints.

usage: plot_layers.py REPORT.json OUT.svg        (needs matplotlib)

One bar a step, in the order of the network: the signal-to-quantization-noise ratio behind it, in dB. Dark bars are the five
steps with the lowest ratio, the ones that the command's table names.
"""
import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main():
    report_path, out = sys.argv[1:]
    with open(report_path, encoding="utf-8") as f:
        report = json.load(f)
    outcome = report.get("outcome", report)
    layers = [l for l in outcome["layers"] if l["sqnr_db"] is not None]
    worst = {id(l) for l in sorted(layers, key=lambda l: l["sqnr_db"])[:5]}
    plt.rcParams["svg.hashsalt"] = "nnq"
    fig, ax = plt.subplots(figsize=(8, 0.24 * len(layers) + 0.9))
    names = [l["node"] or l["value"] for l in layers]
    colours = ["#1f4e79" if id(l) in worst else "#9dc3e6" for l in layers]
    ax.barh(range(len(layers)), [l["sqnr_db"] for l in layers], color=colours)
    ax.set_yticks(range(len(layers)), names, fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("signal to quantization noise, dB")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    fig.tight_layout()
    fig.savefig(out, metadata={"Date": None})


main()
