"""Checkpoints that are whole or not there: written beside, synced to disk, then renamed; tensors in safetensors."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from .errors import UserError
from .tracking import LossMeter

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass
class TrainingState:
    """Everything that decides how training goes on; noise and data order need no state, they follow from `step`.

    Attributes:
        data: facts about the data set, which must be the same when the run resumes.
        step: optimiser steps done.
    """

    unet: UNet2DModel
    ema: EMAModel | None
    optimizer: torch.optim.Optimizer
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler | None
    meter: LossMeter
    data: dict[str, Any] = field(default_factory=dict)
    step: int = 0


def save_checkpoint(output_dir: Path, state: TrainingState, keep: int | None = None) -> Path:
    """Write `checkpoint-<step>`, then delete all but the newest `keep`. To be called on one rank alone."""
    final = output_dir / f"checkpoint-{state.step}"
    partial = output_dir / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    optimizer_tensors, optimizer_rest = _split_optimizer(state.optimizer.state_dict())
    save_file(_contiguous(state.unet.state_dict()), partial / "unet.safetensors")
    save_file(optimizer_tensors, partial / "optimizer.safetensors")
    save_file({"sums": state.meter.sums}, partial / "meter.safetensors")
    if state.ema is not None:
        names = [name for name, _ in state.unet.named_parameters()]
        shadow = dict(zip(names, state.ema.shadow_params, strict=True))
        save_file(_contiguous(shadow), partial / "ema.safetensors")
    progress = {
        "step": state.step,
        "data": state.data,
        "architecture": architecture(state.unet),
        "optimizer": optimizer_rest,
        "lr_scheduler": state.lr_scheduler.state_dict(),
        "scaler": state.scaler.state_dict() if state.scaler else None,
        "ema_step": state.ema.optimization_step if state.ema else None,
    }
    (partial / "progress.json").write_text(json.dumps(progress, indent=1))
    _publish(partial, final)
    for old in list_checkpoints(output_dir)[: -keep or None] if keep else []:
        shutil.rmtree(old)
    return final


def load_checkpoint(folder: Path, state: TrainingState) -> None:
    """Put the run back, bit for bit, to where `folder` was written.

    Raises:
        UserError: if the checkpoint is unreadable, or belongs to another architecture, data set or EMA setting.
    """
    try:
        progress = json.loads((folder / "progress.json").read_text())
        weights = load_file(folder / "unet.safetensors")
        optimizer_tensors = load_file(folder / "optimizer.safetensors")
        meter = load_file(folder / "meter.safetensors")
        shadow = load_file(folder / "ema.safetensors") if progress["ema_step"] is not None else None
    except Exception as error:
        raise UserError(
            f"{folder} is not a complete checkpoint ({error}); delete it to resume from the one before."
        ) from error
    _check_same(folder, progress, state)
    state.unet.load_state_dict(weights)
    state.optimizer.load_state_dict(_join_optimizer(optimizer_tensors, progress["optimizer"]))
    state.lr_scheduler.load_state_dict(progress["lr_scheduler"])
    state.meter.sums.copy_(meter["sums"])
    if state.scaler and progress["scaler"]:
        state.scaler.load_state_dict(progress["scaler"])
    if state.ema:
        for (name, _), parameter in zip(state.unet.named_parameters(), state.ema.shadow_params, strict=True):
            parameter.copy_(shadow[name])
        state.ema.optimization_step = progress["ema_step"]
    state.step = progress["step"]


def architecture(unet: UNet2DModel) -> dict[str, Any]:
    """The part of a UNet's config that decides the shapes of its weights, as JSON gives it back."""
    ignored = {"sample_size"}
    config = {k: v for k, v in unet.config.items() if not k.startswith("_") and k not in ignored}
    return json.loads(json.dumps(config))


def _check_same(folder: Path, progress: dict[str, Any], state: TrainingState) -> None:
    mine, theirs = architecture(state.unet), progress["architecture"]
    changed = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
    if changed:
        raise UserError(
            f"{folder} was written for another UNet ({changed[0]} is {theirs.get(changed[0])} there and "
            f"{mine.get(changed[0])} here); train the same model or choose another --output_dir."
        )
    if progress["data"] != state.data:
        raise UserError(
            f"{folder} was written for other data ({progress['data']} there, {state.data} here); restore it or choose "
            "another --output_dir."
        )
    if (progress["ema_step"] is None) != (state.ema is None):
        raise UserError(f"{folder} was written with the other setting of --use_ema; give the same.")


def list_checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = [(int(m[1]), p) for p in output_dir.glob("checkpoint-*") if (m := CHECKPOINT_NAME.fullmatch(p.name))]
    return [p for _, p in sorted(found)]


def find_checkpoint(output_dir: Path, asked: str | None) -> Path | None:
    """The checkpoint to resume from: the one asked for, else the newest, else None.

    Raises:
        UserError: if the one asked for by name is not there.
    """
    if asked is None or asked == "latest":
        return next(reversed(list_checkpoints(output_dir)), None)
    for candidate in (Path(asked), output_dir / Path(asked).name):
        if (candidate / "progress.json").is_file():
            return candidate
    there = ", ".join(p.name for p in list_checkpoints(output_dir)) or "none"
    raise UserError(f"--resume_from_checkpoint {asked} is not a checkpoint; in {output_dir} there are: {there}.")


def _split_optimizer(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimiser's state as tensors for safetensors and the rest for JSON."""
    tensors, rest = {}, {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value.contiguous()
            else:
                rest[f"{index}.{name}"] = value
    return tensors, {"entries": rest, "param_groups": state["param_groups"]}


def _join_optimizer(tensors: dict[str, torch.Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in (tensors | rest["entries"]).items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": rest["param_groups"]}


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _publish(partial: Path, final: Path) -> None:
    """Make sure that every byte is on disk, then give the folder its name in one step."""
    for path in [*partial.iterdir(), partial]:
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
