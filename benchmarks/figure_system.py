"""The figure of the system: how pictures become a model, and what is done with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figure_style import FOURTH, INCHES, OURS, PEER, SECOND, THIRD, save
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Path2D

HEIGHT = 3.5
LINE = 0.185  # inches between two lines of text
SMALL: dict[str, Any] = {"fontsize": 9, "color": "#222222"}


@dataclass(frozen=True)
class Box:
    """A box of the figure; places and sizes in inches, from the lower left corner."""

    title: str
    lines: tuple[str, ...]
    left: float
    bottom: float
    width: float
    height: float
    colour: str

    @property
    def middle(self) -> tuple[float, float]:
        return self.left + self.width / 2, self.bottom + self.height / 2

    def side(self, x: float, y: float) -> tuple[float, float]:
        """A point of the border: x and y from -1 (left, bottom) to 1."""
        return self.middle[0] + x * self.width / 2, self.middle[1] + y * self.height / 2


BOXES = {
    "pictures": Box("Pictures", ("folder, parquet,", "tar, Hub, or", "synthetic faces"), 0.15, 2.0, 1.25, 1.2, PEER),
    "weights": Box("Pre-trained", ("any DDPM of", "diffusers", "(optional)"), 0.15, 0.3, 1.25, 1.1, PEER),
    "data": Box("Data", ("decoded cache,", "or streaming"), 1.78, 2.0, 1.2, 1.2, SECOND),
    "training": Box("Training", ("noise, patches,", "labels, EMA,", "distillation"), 3.36, 2.0, 1.25, 1.2, OURS),
    "checkpoints": Box("Checkpoints", ("atomic,", "checksummed,", "exact resume"), 3.36, 0.3, 1.25, 1.1, OURS),
    "pipeline": Box("Pipeline", ("denoiser and", "scheduler:", "sample and edit"), 4.99, 2.0, 1.25, 1.2, THIRD),
    "evaluate": Box("Evaluate", ("KID, FD, copies",), 6.62, 2.3, 1.23, 0.9, FOURTH),
    "publish": Box("Publish", ("Hub, model card,", "Space"), 6.62, 1.25, 1.23, 0.8, FOURTH),
    "demo": Box("Demo", ("in the browser",), 6.62, 0.3, 1.23, 0.7, FOURTH),
}


def draw_system(results: Path, path: Path) -> None:
    """Draw the system; `results` is not needed, and there because every figure has it."""
    figure = Figure(figsize=(INCHES, HEIGHT), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, INCHES), ylim=(0, HEIGHT))
    axes.axis("off")
    for box in BOXES.values():
        draw_box(axes, box)
    draw_arrows(axes)
    save(figure, path)


def draw_box(axes: Axes, box: Box) -> None:
    """A tinted box with a bold title and its lines below."""
    tint = [1 - 0.16 * (1 - value) for value in to_rgb(box.colour)]
    shape = "round,pad=0,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((box.left, box.bottom), box.width, box.height, shape, fc=tint, ec=box.colour, lw=1.5))
    x, y = box.middle
    top = y + LINE * len(box.lines) / 2
    axes.text(x, top, box.title, ha="center", va="center", fontsize=10.5, weight="bold", color="black")
    for number, line in enumerate(box.lines, 1):
        axes.text(x, top - 0.01 - LINE * number, line, ha="center", va="center", **SMALL)


def draw_arrows(axes: Axes) -> None:
    """What leads to what."""
    for before, after in (("pictures", "data"), ("data", "training"), ("training", "pipeline")):
        arrow(axes, BOXES[before].side(1, 0), BOXES[after].side(-1, 0))
    training, checkpoints, weights = (BOXES[name] for name in ("training", "checkpoints", "weights"))
    arrow(axes, training.side(-0.3, -1), checkpoints.side(-0.3, 1))
    arrow(axes, checkpoints.side(0.3, 1), training.side(0.3, -1))
    middle = (training.side(0, -1)[1] + checkpoints.side(0, 1)[1]) / 2
    axes.text(training.side(-0.42, 0)[0], middle, "save", ha="right", va="center", **SMALL)
    axes.text(training.side(0.42, 0)[0], middle, "resume", ha="left", va="center", **SMALL)
    (left, low), (right, high) = weights.side(1, 0), training.side(-1, -0.6)
    corner = right - 0.2
    arrow(axes, (left, low), (corner, low), (corner, high), (right, high))
    axes.text((left + corner) / 2, low + 0.1, "fine-tune", ha="center", va="bottom", **SMALL)
    left, top = BOXES["pipeline"].side(1, 0)[0], BOXES["evaluate"].middle[1]
    trunk = left + 0.17
    for name in ("evaluate", "publish", "demo"):
        right, height = BOXES[name].side(-1, 0)
        arrow(axes, (left, top), (trunk, top), (trunk, height), (right, height))
    arrow(axes, BOXES["evaluate"].side(0, -1), BOXES["publish"].side(0, 1))


def arrow(axes: Axes, *points: tuple[float, float]) -> None:
    """An arrow along straight lines from the first point to the last."""
    codes = [Path2D.MOVETO] + [Path2D.LINETO] * (len(points) - 1)
    way = Path2D(points, codes)
    axes.add_patch(FancyArrowPatch(path=way, arrowstyle="-|>", mutation_scale=12, lw=1.4, color="#333333"))
