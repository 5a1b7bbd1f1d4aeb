"""Power-function averages as they once were, saved during a run for `anime-ddpm ema`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..common.errors import UserError, first_line
from .averages import WeightAverage

SNAPSHOTS = "ema"  # their folder, inside a run's
SNAPSHOT_NAME = re.compile(r"(\d{9,})-[^/]+\.safetensors")


@dataclass(frozen=True)
class Snapshot:
    """A power-function average as it once was, on disk in float16; `step` counts its updates, `images` the run's."""

    path: Path
    step: int
    images: int
    sigma_rel: float


def save_snapshot(
    folder: Path, average: WeightAverage, parameter_names: Sequence[str], *, images: int, sigma_rel: float
) -> Path:
    """Write the average to `<folder>/ema/<images>-<sigma_rel>.safetensors`, whole or not at all.

    Args:
        folder: the run's.
        average: updated with `power_decay(sigma_rel)`.
        parameter_names: of the average's tensors, in their order.
        images: how many the run has trained on.
    """
    halves = (shadow.to(torch.float16).contiguous() for shadow in average.shadow)
    final = folder / SNAPSHOTS / f"{images:09d}-{sigma_rel:g}.safetensors"
    partial = final.with_name(f".{final.name}.partial")
    final.parent.mkdir(parents=True, exist_ok=True)
    facts = {"step": str(average.step), "images": str(images), "sigma_rel": repr(sigma_rel)}
    save_file(dict(zip(parameter_names, halves, strict=True)), partial, facts)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, final)
    return final


def list_snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots of the run in `folder`, oldest first, without those that no update had reached.

    Raises:
        UserError: if one is damaged.
    """
    found = map(_read_header, _snapshot_files(folder))
    return sorted((s for s in found if s.step > 0), key=lambda s: (s.images, s.sigma_rel))


def _snapshot_files(folder: Path) -> list[Path]:
    return [path for path in (folder / SNAPSHOTS).glob("*") if SNAPSHOT_NAME.fullmatch(path.name)]


def _read_header(path: Path) -> Snapshot:
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata()
        return Snapshot(path, int(facts["step"]), int(facts["images"]), float(facts["sigma_rel"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({first_line(error)}); delete it to continue without it.") from error


def drop_snapshots_after(folder: Path, images: int) -> None:
    """Delete the snapshots of more images than a run that starts or resumes at `images` has seen.

    It writes them again, or others, if its length or interval has changed; half-written ones go as well.
    """
    for path in _snapshot_files(folder):
        if int(path.name.partition("-")[0]) > images:
            path.unlink()
    for leftover in (folder / SNAPSHOTS).glob(".*.partial"):
        leftover.unlink()
