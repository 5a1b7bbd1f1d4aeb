"""Files of a checkpoint: tensors in safetensors, the rest in progress.json, and the SHA-256 of each file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

from ..common.errors import UserError, first_line
from ..common.parsing import parse_json
from ..schedulers import AnimeNoiseScheduler
from .state import TrainingState

ALWAYS = frozenset({"progress.json", "unet.safetensors", "optimizer.safetensors", "meter.safetensors"})
DIGESTS = "digests.json"  # SHA-256 of every other file; checkpoints of before there were any are taken without
PROGRESS = {
    "step": int, "data": dict, "feeds": list, "images_per_step": int, "model": dict, "optimizer": dict,
    "lr_scheduler": dict, "averages": dict, "numerics": dict,
}  # fmt: skip


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read, or is not as it was written; `found` is what is wrong, without advice."""

    def __init__(self, folder: Path, error: Exception):
        self.found = f"{folder} is damaged ({first_line(error)})"
        super().__init__(f"{self.found}; delete it to resume from the previous one.")


def write_files(folder: Path, state: TrainingState) -> None:
    """Write all files of a checkpoint, and their digests."""
    optimizer_tensors, optimizer_rest = _split_optimizer(state.optimizer.state_dict())
    save_file(_contiguous(state.unet.state_dict()), folder / "unet.safetensors")
    save_file(optimizer_tensors, folder / "optimizer.safetensors")
    save_file({"sums": state.meter.sums}, folder / "meter.safetensors")
    names = [name for name, _ in state.unet.named_parameters()]
    for key, average in state.averages.items():
        shadow = dict(zip(names, average.shadow, strict=True))
        save_file(_contiguous(shadow), folder / f"{key}.safetensors")
    progress = {
        "step": state.step,
        "data": state.data,
        "feeds": state.feeds,
        "images_per_step": state.images_per_step,
        "model": model_facts(state.unet, state.scheduler, averages=state.averages),
        "optimizer": optimizer_rest,
        "lr_scheduler": state.lr_scheduler.state_dict(),
        "scaler": state.scaler.state_dict() if state.scaler else None,
        "numerics": state.numerics.state_dict(),
        "averages": {key: average.step for key, average in state.averages.items()},
        "channels_last": _is_channels_last(state.unet),
        "has_digests": True,
    }
    (folder / "progress.json").write_text(json.dumps(progress, indent=1))
    digests = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def read_files(folder: Path, progress: dict[str, Any], state: TrainingState) -> None:
    """Put all that `write_files` has written back into `state`."""
    weights = load_file(folder / "unet.safetensors")
    optimizer_tensors = load_file(folder / "optimizer.safetensors")
    meter = load_file(folder / "meter.safetensors")
    shadows = {key: load_file(folder / f"{key}.safetensors") for key in state.averages}
    in_blocks = any(tensor.dtype == torch.uint8 for tensor in optimizer_tensors.values())
    if in_blocks and progress["channels_last"] != _is_channels_last(state.unet):
        raise UserError(
            f"{folder} has the state of adamw8bit, whose blocks follow the memory layout; resume with the same "
            "--channels_last, or choose another --output_dir."
        )
    _check_same_optimizer(folder, progress, state)
    state.unet.load_state_dict(weights)
    state.optimizer.load_state_dict(_join_optimizer(optimizer_tensors, progress["optimizer"]))
    _restore_memory_layout(state.optimizer)
    state.lr_scheduler.load_state_dict(progress["lr_scheduler"])
    state.meter.sums.copy_(meter["sums"])
    if state.scaler and progress["scaler"]:
        state.scaler.load_state_dict(progress["scaler"])
    names = [name for name, _ in state.unet.named_parameters()]
    for key, average in state.averages.items():
        for name, shadow in zip(names, average.shadow, strict=True):
            shadow.copy_(shadows[key][name])
        average.step = progress["averages"][key]
    state.step, state.feeds = progress["step"], progress["feeds"]
    state.kept_step = state.step
    state.numerics.load_state_dict(progress["numerics"])


def _check_same_optimizer(folder: Path, progress: dict[str, Any], state: TrainingState) -> None:
    """Raise a UserError if the checkpoint's optimiser divides the parameters into other groups."""
    there, here = (
        [len(group["params"]) for group in groups]
        for groups in (progress["optimizer"]["param_groups"], state.optimizer.param_groups)
    )
    if there != here:
        raise UserError(
            f"{folder} was written with another optimiser; give the same --optimizer, or choose another --output_dir."
        )


def model_facts(unet: UNet2DModel, scheduler: AnimeNoiseScheduler, *, averages: Iterable[str]) -> dict[str, Any]:
    """Properties that must be equal in a checkpoint and a run, as JSON; `averages` are the names of the EMAs."""
    architecture = {k: v for k, v in unet.config.items() if not k.startswith("_") and k != "sample_size"}
    noise = {
        "prediction_type": scheduler.config.prediction_type,
        "noise table": hashlib.sha256(scheduler.betas.numpy().tobytes()).hexdigest()[:12],
    }
    return json.loads(json.dumps(architecture | noise | {"averages": sorted(averages)}))


def read_progress(folder: Path) -> dict[str, Any]:
    """The content of progress.json, in the form of today; raises a `DamagedCheckpoint`."""
    try:
        progress = parse_json((folder / "progress.json").read_text())
        if "ema_step" in progress:  # written when there was at most one average
            used = progress["model"].pop("use_ema")
            progress["model"]["averages"] = ["ema"] if used else []
            progress["averages"] = {"ema": progress["ema_step"]} if used else {}
        progress.setdefault("numerics", {})  # which checkpoints of before have not
        parts = {name: type(progress[name]) for name in PROGRESS}
        whole = parts == PROGRESS and isinstance(progress["model"]["averages"], list)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(folder, error) from error
    if not whole:
        raise DamagedCheckpoint(folder, ValueError("progress.json has unexpected content"))
    return progress


def check_whole(folder: Path) -> None:
    """Raise a DamagedCheckpoint unless every file is, bit for bit, as it was written."""
    try:
        if (folder / DIGESTS).exists() or read_progress(folder).get("has_digests"):
            digests = parse_json((folder / DIGESTS).read_text())
            if not digests.keys() >= ALWAYS or any(Path(name).name != name for name in digests):
                raise ValueError(f"{DIGESTS} has unexpected content")
            for name, digest in digests.items():
                if _digest(folder / name) != digest:
                    raise ValueError(f"{name} has changed since it was written")
    except (OSError, ValueError, AttributeError) as error:
        raise DamagedCheckpoint(folder, error) from error
    read_progress(folder)


def _split_optimizer(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimiser's state as tensors for safetensors and the rest for JSON.

    safetensors refuses tensors that share memory, as the tables of 8-bit optimisers do: all parameters have the same.
    Each of those is stored once, and the rest says who else has it.
    """
    tensors, rest, same = {}, {}, {}
    owners: dict[tuple, str] = {}
    memory = set()
    for index, entries in state["state"].items():
        for name, value in _flat(entries):
            key = f"{index}.{name}"
            if not isinstance(value, torch.Tensor):
                rest[key] = value
                continue
            place = (value.device, value.untyped_storage().data_ptr())
            view = (*place, value.dtype, value.storage_offset(), value.shape, value.stride())
            if view in owners:
                same[key] = owners[view]
            else:
                # another part of memory that is being stored already needs a copy
                tensors[key] = value.detach().clone() if place in memory else value.detach()
                tensors[key] = tensors[key].contiguous()
                owners[view] = key
            memory.add(place)
    return tensors, {"entries": rest, "same": same, "param_groups": state["param_groups"]}


def _flat(entries: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The entries of one parameter; bitsandbytes wraps some of its own into a dictionary, and reads them without."""
    for name, value in entries.items():
        yield from value.items() if isinstance(value, dict) else [(name, value)]


def _join_optimizer(tensors: dict[str, torch.Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    shared = {key: tensors[owner] for key, owner in rest.get("same", {}).items()}
    for key, value in (tensors | shared | rest["entries"]).items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": rest["param_groups"]}


def _is_channels_last(unet: UNet2DModel) -> bool:
    return not unet.conv_in.weight.is_contiguous()


def _restore_memory_layout(optimizer: torch.optim.Optimizer) -> None:
    """Give the state of each parameter its order in memory, which a channels-last one has lost by being saved.

    Fused kernels walk through memory, and would otherwise pair each weight with the state of another.
    """
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
