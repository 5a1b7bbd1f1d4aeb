#!/usr/bin/env python
"""The figures of docs/measured/noise.md, from model_card/results/noise.json and the folder that noise.py worked in.

python benchmarks/noise_figures.py --work runs/noise
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from common import RESULTS, ROOT
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

FIGURES = ROOT / "model_card" / "figures"
DASHED = ("G", "PR", "C.1")  # which lie on another run
GAP = 8  # pixels between two grids


def plot(result: dict, path: Path) -> None:
    """The noise that each run trains, its error there, and KID on the way."""
    curves = [row for row in result["rows"] if row["kind"] == "curve"]
    parts = 3 if curves else 2
    figure = Figure(figsize=(4.4 * parts, 4.2), layout="constrained")
    trained, error, *course = figure.subplots(1, parts)
    arms = [row for row in result["rows"] if row["kind"] == "arm"]
    colours = {row["run"]: f"C{index % 10}" for index, row in enumerate(arms)}
    plot_levels(trained, arms, colours)
    plot_errors(error, [row for row in result["rows"] if row["kind"] == "loss"], colours)
    for axes in course:
        plot_course(axes, curves, colours)
    figure.savefig(path, dpi=110)


def plot_course(axes: Axes, rows: list[dict], colours: dict[str, str]) -> None:
    """KID over images, of the runs whose way was measured."""
    for run in dict.fromkeys(row["run"] for row in rows):
        points = [row for row in rows if row["run"] == run]
        images, kid, error = ([row[key] for row in points] for key in ("at", "kid", "kid_std"))
        axes.errorbar(images, kid, error, color=colours[run], label=run, capsize=2)
    axes.set(xscale="log", yscale="log", xlabel="images", ylabel="KID", title="KID on the way")
    axes.legend(frameon=False)


def plot_levels(axes: Axes, arms: list[dict], colours: dict[str, str]) -> None:
    """The middle half and the middle nine tenths of the σ that each run trains."""
    for index, row in enumerate(arms):
        low, quarter, middle, upper, high = np.log10(row["sigma_quantiles"])
        axes.plot([low, high], [index, index], color=colours[row["run"]], lw=1)
        axes.plot([quarter, upper], [index, index], color=colours[row["run"]], lw=6, solid_capstyle="butt")
        axes.plot(middle, index, "k|", ms=10)
    axes.set_yticks(range(len(arms)), [row["run"] for row in arms])
    axes.invert_yaxis()
    axes.set(xlabel="log₁₀ σ", title="Noise levels trained: 5, 25, 50, 75, 95 %")


def plot_errors(axes: Axes, rows: list[dict], colours: dict[str, str]) -> None:
    """The error of ε by log SNR, over the least of all runs there."""
    if not rows:
        return
    least = np.min([row["error"] for row in rows], axis=0)
    for row in rows:
        style = "--" if row["run"] in DASHED else "-"
        axes.plot(row["logsnr"], np.array(row["error"]) / least, style, color=colours[row["run"]], label=row["run"])
    axes.set(xlabel="log SNR", ylabel="over the least", yscale="log", title="Error of ε on held-out faces")
    axes.set_yticks([1, 1.2, 1.5, 2, 5, 10, 50], ["1", "1.2", "1.5", "2", "5", "10", "50"])
    axes.minorticks_off()
    axes.legend(frameon=False, ncols=2)


def side_by_side(paths: list[Path], target: Path) -> None:
    """Grids of equal size beside each other."""
    grids = [Image.open(path).convert("RGB") for path in paths]
    width = sum(grid.width for grid in grids) + GAP * (len(grids) - 1)
    sheet = Image.new("RGB", (width, max(grid.height for grid in grids)), "white")
    left = 0
    for grid in grids:
        sheet.paste(grid, (left, 0))
        left += grid.width + GAP
    sheet.save(target, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("runs/noise"))
    parser.add_argument("--result", type=Path, default=RESULTS / "noise.json")
    parser.add_argument("--figures", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text())
    plot(result, arguments.figures / "noise.png")
    runs = ["A", result["summary"]["winner"]]
    side_by_side([arguments.work / run / "judge" / "grid.png" for run in runs], arguments.figures / "noise_samples.png")
    shutil.copy(arguments.work / "calibration" / "calibration.png", arguments.figures / "noise_calibration.png")
    print(f"Left in noise_samples.png: {runs[0]}, right: {runs[1]}.")


if __name__ == "__main__":
    main()
