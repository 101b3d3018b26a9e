#!/usr/bin/env python3
"""Draws the log of a run: recall of values by step and distance, and the gradient norm. Or the recall
benchmark: right answers by distance, with the controls, from what `evaluate --answers` wrote.

usage: plot.py log.csv picture.png
       plot.py answers.json recall-bench.jsonl.gz MODES picture.png     MODES as given to evaluate
"""

import csv
import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from rxt_train import bench  # noqa: E402

BUCKETS = ("1", "2-3", "4-8", "9-16", "17+")


def main(log, picture):
    with open(log, encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, height_ratios=(2, 1))
    for name in BUCKETS:
        points = [(int(r["step"]), 100 * float(r[f"value {name}"])) for r in rows if r[f"value {name}"]]
        if points:
            top.plot(*zip(*points), label=f"{name} turns back", linewidth=1)
    bottom.semilogy([int(r["step"]) for r in rows], [float(r["norm"]) for r in rows], linewidth=1)
    for i, row in enumerate(rows[1:], 1):
        if row["stage"] != rows[i - 1]["stage"]:
            for axes in (top, bottom):
                axes.axvline(int(row["step"]), color="gray", linewidth=0.5)
    top.set_ylabel("values with p > 1/2 a token, %")
    top.legend(loc="best", fontsize=8)
    top.grid(alpha=0.3)
    bottom.set_ylabel("gradient norm")
    bottom.set_xlabel("step")
    bottom.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(picture, dpi=90)


def recall(answers, items, modes, picture):
    with open(answers, encoding="utf-8") as f:
        said = json.load(f)
    items, modes = bench.read(items), modes.split(",")
    figure, axes = plt.subplots(figsize=(8, 4.5))

    def line(sets, mode, label, **style):
        t = bench.tally(items, [said[x["id"]][modes.index(mode)] for x in items])
        counts = [[sum(t[s, k][i] for s in sets) for i in (0, 1)] for k in bench.GAPS]
        axes.plot(range(len(bench.GAPS)), [100 * a / b for a, b in counts], label=label, **style)
        return [bench.wilson(*x) for x in counts]

    for name in "ABCDEFG":
        limits = line(name, "given", name, marker="o", markersize=3)
        if name == "B":
            low, high = zip(*limits)
            axes.fill_between(range(len(low)), [100 * x for x in low], [100 * x for x in high], alpha=0.15)
    for mode in modes:
        if mode not in ("given", "free"):
            line("ABCDEG", mode, f"control {mode}", linestyle=":")
    axes.set_xticks(range(len(bench.GAPS)), bench.GAPS)
    axes.set_xlabel("turns since the fact was told")
    axes.set_ylabel("right, %")
    axes.set_ylim(-2, 102)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncol=2, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(picture, dpi=90)


if __name__ == "__main__":
    if len(sys.argv) == 5:
        recall(*sys.argv[1:5])
    elif len(sys.argv) == 3:
        main(*sys.argv[1:3])
    else:
        sys.exit(__doc__)
