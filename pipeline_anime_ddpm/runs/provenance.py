"""Provenance of a run for the model card: data, base network, machine, versions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..common.atomic import write_whole
from ..common.parsing import read_record
from ..training.config import TrainingConfig
from .base_card import RECORD_NAME, read_card

PACKAGES = ("anime-ddpm", "torch", "diffusers", "accelerate", "datasets")
DRAWN_FACES = "synthetic faces"


def write_provenance(
    folder: Path,
    config: TrainingConfig,
    num_images: int | None,
    accelerator: Accelerator,
    first_images: int,
    chosen: dict[str, Any] | None = None,
) -> None:
    """Keep it in the run's folder; a run that goes on elsewhere has several machines. Main process only.

    Args:
        num_images: in the data set, if it is known.
        first_images: images seen when this process starts.
        chosen: settings that follow the data, as they were chosen when the run began.
    """
    path, before = folder / RECORD_NAME, read_provenance(folder)
    machines = before.get("machines", [])
    machine = {
        "device": device_name(accelerator.device),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "versions": {"python": platform.python_version()} | _versions(),
    }
    if not machines or {key: machines[-1].get(key) for key in machine} != machine:
        machines.append({"from_images": first_images, "date": date.today().isoformat(), **machine})
    record = {
        "data": {**data_origin(config), "num_images": num_images},
        "went_on_from": _base(config, before.get("went_on_from")),
        "machines": machines,
    } | ({"chosen": chosen} if chosen else {})
    write_whole(path, json.dumps(record, indent=1) + "\n")


def read_provenance(folder: Path) -> dict[str, Any]:
    """What `write_provenance` has kept in a run's folder; empty if nothing, or what is there is damaged."""
    return read_record(folder / RECORD_NAME)


def data_origin(config: TrainingConfig) -> dict[str, Any]:
    """The origin of a run's images."""
    if config.uses_drawn_faces:
        return {"name": DRAWN_FACES, "local": True}
    held_out = {"validation_fraction": config.validation_fraction} if config.validation_fraction else {}
    return origin(config.name) | held_out


def _base(config: TrainingConfig, before: dict[str, Any] | None) -> dict[str, Any] | None:
    """The model that a run began with, and what its card said then; a resumed run may no longer find it."""
    name = config.pretrained_model_name_or_path
    found = origin(name)
    if found is None or (before or {}).get("name") == found["name"]:
        return before if found else None
    card = read_card(name, config.cache_dir)
    return found | ({"card": card} if card else {})


def origin(name: str | None) -> dict[str, Any] | None:
    """A data set or model as others may know it: `{"name", "local"}`; None for none."""
    return None if name is None else {"name": public_name(name), "local": is_local(name)}


def is_local(name: str) -> bool:
    """Whether `name` is a path of this machine, rather than the name of something on the Hub."""
    return os.path.isabs(name) or name.startswith((".", "~")) or os.path.exists(name)


def public_name(name: str) -> str:
    """`name` without where it lies: the last part of a path of this machine, a name on the Hub as it is."""
    return Path(name).resolve().name if is_local(name) else name


def device_name(device: torch.device) -> str:
    """In words, such as `NVIDIA H100 80GB HBM3` or `2 CPU cores`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
