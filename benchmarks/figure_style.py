"""What all figures share: size, colours, and how a result is read and a picture written."""

from __future__ import annotations

import io
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from common import RESULTS
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from pipeline_anime_ddpm.common.errors import UserError

INCHES = 8.0  # 800 px on GitHub at 100 dots an inch, so that a font of 9 points is readable there
DOTS = 200  # twice that, for sharp screens
LABEL = 9  # points, the smallest font
MARGIN = 0.12  # inches of white around everything, for dark mode
# Okabe and Ito's colours, which readers with any kind of colour vision can tell apart.
PEER, OURS, SECOND, THIRD, FOURTH = "#8C8C8C", "#0072B2", "#56B4E9", "#D55E00", "#009E73"
STYLE = {"font.size": 9.5, "axes.titlesize": 10.5, "axes.spines.top": False, "axes.spines.right": False}


def load(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """The benchmark's result.

    Raises:
        UserError: it was not measured, or is no JSON.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        raise UserError(f"{path} is missing; restore it from git, or name the folder that holds it by --results.")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); restore it from git.") from error


def new_figure(height: float) -> Figure:
    """A white figure of the common width, `height` inches high."""
    layout = ConstrainedLayoutEngine(w_pad=MARGIN, h_pad=MARGIN)
    return Figure(figsize=(INCHES, height), layout=layout, facecolor="white")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG of 128 colours, a third as large as one of all colours."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DOTS)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, "PNG", optimize=True)


def styled() -> AbstractContextManager[None]:
    """The fonts and lines of all figures."""
    return rc_context(STYLE)


def place_of(machine: str) -> str:
    """The part of a result's machine that did the work: its GPU, or the cores of its processor."""
    processor, cores, *_, gpu = machine.split(", ")
    return f"{cores} of {processor}" if gpu == "no GPU used" else gpu


def mark_values(axes: Axes, places: list[float], values: list[float], ends: list[float], form: str = "{:.2f}") -> None:
    """Write each value of horizontal bars beside the end of its bar."""
    for place, value, end in zip(places, values, ends, strict=True):
        axes.annotate(
            form.format(value), (end, place), (4, 0), textcoords="offset points", va="center", fontsize=LABEL,
            bbox={"fc": "white", "ec": "none", "pad": 0.5},
        )  # fmt: skip
