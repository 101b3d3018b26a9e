#!/usr/bin/env python3
"""Draws the log of a run: recall of values by step and distance, and the gradient norm.

usage: plot.py log.csv picture.png
"""

import csv
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

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
    top.legend(loc="lower right", fontsize=8)
    top.grid(alpha=0.3)
    bottom.set_ylabel("gradient norm")
    bottom.set_xlabel("step")
    bottom.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(picture, dpi=90)


if __name__ == "__main__":
    main(*sys.argv[1:3])
