#!/usr/bin/env python
"""The charts and the system figure of the pages, from model_card/results/*.json alone.

python benchmarks/figures.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT
from figure_style import FOURTH, LABEL, OURS, PEER, SECOND, THIRD, load, mark_values, new_figure, place_of, save, styled
from figure_system import draw_system
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pipeline_anime_ddpm.common.errors import one_sentence_errors

FIGURES = ROOT / "model_card" / "figures"
LIGHT = 0.55  # opacity of the second bar of a pair
QUALITY_NAMES = {
    "baseline": "baseline",
    "optimised": "+ optimisations, bf16",
    "noise": "+ our noise",
    "patch": "   and patches in half of the steps",
    "fading": "   and patches that fade out",
    "full": "   and autoguidance, shorter EMA",
    "scratch": "our noise, from scratch",
}
NOISE_NAMES = {
    "A": "baseline: linear table, ε, MSE",
    "B": "cosine table, ε, MSE",
    "C": "cosine table, v, min-SNR-5",
    "C.1": "C with another seed",
    "D": "C, log-normal density",
    "E": "C, calibrated density",
    "F": "C, Laplace density",
    "G": "C, timesteps not stratified",
    "PA": "baseline: linear table, ε, MSE",
    "PC": "cosine density, min-SNR-5",
    "PR": "timesteps remapped, min-SNR-5",
}
TRAINING_NAMES = {
    "speed": "defaults",
    "memory": "gradient checkpointing",
    "blocks": "gradient checkpointing, blocks",
    "patch": "patches 16, 32, 64",
    "patch memory": "patches, gradient checkpointing",
}
MEASURES = {"time": OURS, "CPU time": SECOND, "memory": THIRD}
SAMPLERS = {  # name of the series: start of a row's name, colour, marker, where its labels stand (points)
    "DPM-Solver++": ("dpmsolver++", OURS, "o", (0, -14)),
    "DDIM": ("ddim", SECOND, "s", (0, 7)),
    "DDPM": ("ddpm", THIRD, "^", (13, 5)),
    "UniPC": ("UniPC", "#CC79A7", "D", (13, 8)),
    "distilled": ("distilled", FOURTH, "P", (12, 3)),
}
CROWDED = {  # labels that stand elsewhere
    ("DPM-Solver++", "25"): (5, -14),
    ("DDIM", "50"): (-3, 11),
    ("DDPM", "25"): (-13, 9),
    ("DDPM", "1000"): (-14, 7),
}


def draw_quality(results: Path, path: Path) -> None:
    """KID and FD of each arm, for equal images and for equal time."""
    result = load("quality", results)
    rows = {kind: {row["arm"]: row for row in result["rows"] if row["kind"] == kind} for kind in ("images", "time")}
    arms = list(rows["images"])
    figure = new_figure(4.4)
    kid, fd = figure.subplots(1, 2, sharey=True)
    floor = next(row["floor"] for row in rows["images"].values())
    for axes, key in ((kid, "kid"), (fd, "fd")):
        quality_bars(axes, key, arms, rows["images"], -0.2, 1)
        quality_bars(axes, key, arms, rows["time"], 0.2, LIGHT)
        axes.axvline(floor[key], color="black", lw=1, ls=":")
        axes.tick_params(axis="y", length=0)
        axes.set(title=f"{key.upper()} (lower is better)", xlim=(0, None))
    kid.set_yticks(range(len(arms)), [QUALITY_NAMES.get(arm, rows["images"][arm]["what"]) for arm in arms], ha="left")
    kid.tick_params(axis="y", pad=185)
    kid.invert_yaxis()
    kid.set_xlabel("± standard deviation")
    fd.set_xlabel("lowest and highest of two sampling seeds")
    handles = [
        Patch(color=OURS, label="equal images"),
        Patch(color=OURS, alpha=LIGHT, label="equal training time"),
        Line2D([], [], color="black", lw=1, ls=":", label="floor: training images"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


def quality_bars(axes: Axes, key: str, arms: list[str], rows: dict[str, dict], shift: float, alpha: float) -> None:
    """One metric of one comparison: KID with its standard deviation, FD from the lower to the higher of the seeds."""
    shown = [(place, rows[arm]) for place, arm in enumerate(arms) if arm in rows]
    places, values = [place + shift for place, _ in shown], [row[key] for _, row in shown]
    low, high = zip(*(spread_of(row, key) for _, row in shown), strict=True)
    colours = [PEER if row["arm"] == "baseline" else OURS for _, row in shown]
    axes.barh(
        places, values, 0.38, xerr=[low, high], color=colours, alpha=alpha,
        error_kw={"lw": 1, "capsize": 2},
    )  # fmt: skip
    ends = [value + up for value, up in zip(values, high, strict=True)]
    mark_values(axes, places, values, ends, "{:.2f}" if key == "kid" else "{:.1f}")


def spread_of(row: dict[str, Any], key: str) -> tuple[float, float]:
    if key == "kid":
        return row["kid_std"], row["kid_std"]
    return row["fd"] - min(row["fd_seeds"]), max(row["fd_seeds"]) - row["fd"]


def draw_noise_arms(results: Path, path: Path) -> None:
    """KID of each kind of noise, from scratch and from photographs."""
    arms = [row for row in load("noise", results)["rows"] if row["kind"] == "arm"]
    groups = [
        ("From scratch", [row for row in arms if not row["run"].startswith("P")]),
        ("From a network of photographs", [row for row in arms if row["run"].startswith("P")]),
    ]
    groups = [(title, rows) for title, rows in groups if rows]
    figure = new_figure(1.0 + 0.33 * len(arms))
    shapes = {"height_ratios": [len(rows) for _, rows in groups]}
    boards = figure.subplots(len(groups), 1, sharex=True, squeeze=False, gridspec_kw=shapes)[:, 0]
    for axes, (title, rows) in zip(boards, groups, strict=True):
        kids, errors = [row["kid"] for row in rows], [row["kid_std"] for row in rows]
        places = [float(place) for place in range(len(rows))]
        colours = [PEER if row["run"] == row["peer"] else OURS for row in rows]
        axes.barh(places, kids, 0.7, xerr=errors, color=colours, error_kw={"lw": 1, "capsize": 2})
        mark_values(axes, places, kids, [kid + error for kid, error in zip(kids, errors, strict=True)])
        axes.axvline(rows[0]["floor"]["kid"], color="black", lw=1, ls=":")
        axes.set_yticks(places, [f"{row['run']}: {NOISE_NAMES.get(row['run'], row['what'])}" for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.set_title(title, loc="left")
        axes.invert_yaxis()
    boards[-1].set(xlabel="KID (lower is better); dotted: the floor, training images", xlim=(0, None))
    save(figure, path)


def draw_sampling_time(results: Path, path: Path) -> None:
    """KID against seconds an image of all samplers that have both, guidance by windows apart, which is far off."""
    result = load("sampling", results)
    timed = [row for row in result["rows"] if "seconds" in row]
    judged = [row for row in timed if "kid" in row]
    figure = new_figure(4.8)
    axes = figure.subplots()
    for name, (start, colour, marker, offset) in SAMPLERS.items():
        rows = [row for row in judged if row["kind"] in ("steps", "distilled") and row["name"].startswith(start)]
        plot_sampler(axes, rows, (name, colour, marker), offset, [str(row["steps"]) for row in rows])
    guided = [row for row in judged if row["kind"] == "guidance" and ", guide " in row["name"]]
    series = (f"{guided[0]['steps']} steps with autoguidance" if guided else "", "black", "*")
    plot_sampler(axes, guided, series, (18, -3), [f"×{row['name'].split()[-1]}" for row in guided], line="")
    for row in (row for row in timed if row["kind"] == "peer"):
        mark_peer(axes, row["name"], row["seconds"]["batch"]["median"])
    axes.set(xscale="log", yscale="log", ylabel="KID (lower is better)")
    axes.margins(y=0.08)
    axes.set_title("Numbers: steps; with ×: guidance scale", loc="left")
    axes.set_xlabel(f"seconds an image, in batches, on {place_of(result['machine'])}")
    axes.set_xticks([0.01, 0.03, 0.1, 0.3, 1, 3], ["0.01", "0.03", "0.1", "0.3", "1", "3"])
    axes.set_yticks([0.8, 1, 1.25, 1.5, 2], ["0.8", "1", "1.25", "1.5", "2"])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


def mark_peer(axes: Axes, name: str, seconds: float) -> None:
    """A line at the time of the peer, whose KID was not measured."""
    words = "diffusers' " + name.replace(", ", ",\n")
    axes.axvline(seconds, color=PEER, ls="--")
    axes.annotate(
        f"{words}:\n{seconds:.2f} s an image", (seconds, 0.97), (-5, 0), ha="right", va="top", color="#555555",
        xycoords=("data", "axes fraction"), textcoords="offset points",
    )  # fmt: skip


def plot_sampler(
    axes: Axes, rows: list[dict], series: tuple[str, str, str], offset: tuple[int, int], labels: list[str],
    line: str = "-",
) -> None:  # fmt: skip
    """The points of one sampler, joined, each with its label; `series` is its name, colour and marker."""
    if not rows:
        return
    name, colour, marker = series
    seconds, kids = [row["seconds"]["batch"]["median"] for row in rows], [row["kid"] for row in rows]
    axes.plot(seconds, kids, marker=marker, ls=line, color=colour, label=name, lw=1.2, ms=6)
    for x, y, label in zip(seconds, kids, labels, strict=True):
        place = CROWDED.get((name, label), offset)
        axes.annotate(label, (x, y), place, textcoords="offset points", ha="center", color=colour, fontsize=LABEL)


def draw_speed(results: Path, path: Path) -> None:
    """Time, processor time and memory of data loading and training, relative to the peer."""
    loading, boards = load("data_loading", results), []
    epochs = {(row["contender"], row["workers"]): row for row in loading["rows"] if row["kind"] == "epoch"}
    workers = sorted({number for _, number in epochs})
    names = [f"{kind}, {number} workers" for kind in ("cached", "streaming") for number in workers]
    pairs = [(epochs[kind, number], epochs["peer", number]) for kind in ("cached", "streaming") for number in workers]
    bars = {
        "time": [ours["seconds"]["median"] / peer["seconds"]["median"] for ours, peer in pairs],
        "CPU time": [
            ours["cpu_seconds_per_1000"]["median"] / peer["cpu_seconds_per_1000"]["median"] for ours, peer in pairs
        ],
    }
    boards.append((f"Data loading, {place_of(loading['machine'])}", names, bars))
    boards += [training_board(load(name, results)) for name in ("training", "training_cuda")]
    figure = new_figure(7.6)
    shapes = {"height_ratios": [len(names) * len(bars) for _, names, bars in boards]}
    for axes, (title, names, bars) in zip(figure.subplots(3, 1, gridspec_kw=shapes), boards, strict=True):
        relative_bars(axes, names, bars)
        axes.set_title(title, loc="left")
    axes.set_xlabel("relative to train_unconditional.py (dashed line); lower is better")
    handles = [Patch(color=colour, label=measure) for measure, colour in MEASURES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


def training_board(result: dict[str, Any]) -> tuple[str, list[str], dict[str, list[float]]]:
    """Title, names and bars of a training benchmark, in float32."""
    rows = {row["contender"]: row for row in result["rows"] if "kind" not in row}
    peer = rows["peer"]
    memory = "cuda_allocated_bytes" if "cuda_allocated_bytes" in peer else "allocated_bytes"
    ours = [rows[name] for name in TRAINING_NAMES]
    bars = {
        "time": [row["epoch_seconds"]["median"] / peer["epoch_seconds"]["median"] for row in ours],
        "memory": [row[memory] / peer[memory] for row in ours],
    }
    network = result["what"].partition(" with ")[2].partition(" (")[0]
    return f"Training, {network}, {place_of(result['machine'])}", list(TRAINING_NAMES.values()), bars


def relative_bars(axes: Axes, names: list[str], bars: dict[str, list[float]]) -> None:
    """Bars beside the line of the peer, one colour a measure."""
    for shift, (measure, values) in zip((-0.2, 0.2), bars.items(), strict=True):
        places = [place + shift for place in range(len(names))]
        axes.barh(places, values, 0.38, color=MEASURES[measure])
        mark_values(axes, places, values, values, "{:.2f}×")
    axes.axvline(1, color=PEER, ls="--")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, max(1.15, 1.12 * max(map(max, bars.values()))))
    axes.invert_yaxis()


DRAWINGS: dict[str, Callable[[Path, Path], None]] = {
    "system": draw_system,
    "quality": draw_quality,
    "noise_arms": draw_noise_arms,
    "sampling_time": draw_sampling_time,
    "speed": draw_speed,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the measured results")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder that the figures are written to")
    parser.add_argument("--only", nargs="+", choices=DRAWINGS, default=list(DRAWINGS), help="some of the figures")
    arguments = parser.parse_args(argv)
    with one_sentence_errors(), styled():
        for name in arguments.only:
            DRAWINGS[name](arguments.results, arguments.figures / f"{name}.png")


if __name__ == "__main__":
    main()
