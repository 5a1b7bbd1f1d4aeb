"""Checkpoints that are whole or not there: written beside, synced to disk, then renamed; tensors in safetensors.

What a disk spoils later is found by digests, and the checkpoint before is taken instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..schedulers import AnimeNoiseScheduler

from ..common.atomic import publish_folder, remove, remove_folder
from .ema import WeightAverage
from ..common.errors import UserError, first_line
from .numerics import Numerics
from ..common.parsing import parse_json
from .tracking import LossMeter

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
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
        super().__init__(f"{self.found}; delete it to resume from the one before.")


@dataclass
class TrainingState:
    """Everything that decides how training goes on; noise needs no state, it follows from `step`.

    Attributes:
        averages: of the UNet's parameters, by a name that is also their file's: `ema` is the one that is drawn with.
        data: facts about the data set; like images_per_step they must be the same when the run resumes.
        images_per_step: images of one optimiser step, over all ranks and accumulation.
        step: optimiser steps done.
        feeds: where the data of each rank stand, by rank; None for a rank whose images follow from the step.
        kept_step: of the newest checkpoint that this process has written or gone on from; None without one.
        numerics: how often a gradient was not finite, and what the run has done about it.
    """

    unet: UNet2DModel
    scheduler: AnimeNoiseScheduler
    averages: dict[str, WeightAverage]
    optimizer: torch.optim.Optimizer
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler | None
    meter: LossMeter
    data: dict[str, Any]
    images_per_step: int
    step: int = 0
    feeds: list[dict[str, Any] | None] = field(default_factory=list)
    kept_step: int | None = None
    numerics: Numerics = field(default_factory=Numerics)

    @property
    def ema(self) -> WeightAverage | None:
        """The average that is drawn with and saved, if there is one."""
        return self.averages.get("ema")

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The EMA in place of the weights, for drawing and saving, which are not worth a compilation of their own."""
        self.unet.eval()
        try:
            with (
                torch.compiler.set_stance("force_eager"),
                self.ema.swapped_in(self.unet.parameters()) if self.ema else contextlib.nullcontext(),
            ):
                yield
        finally:
            self.unet.train()

    def feed_of(self, rank: int, world: int) -> dict[str, Any] | None:
        """Where the data of `rank` stand.

        Raises:
            UserError: if they were read by another number of processes, and depend on it.
        """
        if len(self.feeds) != world and any(self.feeds):
            raise UserError(
                f"The run was streaming with {len(self.feeds)} processes and has {world} now; to go on with the very "
                "next image, use as many."
            )
        return self.feeds[rank] if any(self.feeds) else None


def save_checkpoint(output_dir: Path, state: TrainingState, keep: int | None = None) -> Path:
    """Write `checkpoint-<step>`, then delete all but the newest `keep`. To be called on one rank alone,
    after `state.feeds` was gathered from all.

    Raises:
        UserError: if it cannot be written; those before are as they were, and nothing is left of this one.
    """
    final = checkpoint_folder(output_dir, state.step)
    partial = output_dir / f".{final.name}.partial"
    try:
        remove(partial)
        partial.mkdir(parents=True)
        _write(partial, state)
        publish_folder(partial, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"{final} cannot be written ({first_line(error)}); make room, or put right what is wrong there, and run "
            "the same command again to go on from the checkpoint before."
        ) from error
    prune_checkpoints(output_dir, keep, final)
    return final


def prune_checkpoints(output_dir: Path, keep: int | None, current: Path) -> None:
    """Delete all but the newest `keep`, of which `current` is one whatever its step."""
    others = [c for c in list_checkpoints(output_dir) if c.name != current.name]
    for old in others[: max(0, len(others) - keep + 1)] if keep else []:
        remove_folder(old)


def _write(folder: Path, state: TrainingState) -> None:
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


def load_checkpoint(folder: Path, state: TrainingState) -> None:
    """Put the run back, bit for bit, to where `folder` was written; `check_checkpoint` has accepted it.

    Raises:
        UserError: if the checkpoint is unreadable, or was written for other data or another batch.
    """
    progress = _read_progress(folder)
    _check_same_run(folder, progress, state)
    try:
        _put_back(folder, progress, state)
    except (UserError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # of safetensors, the file system, or whoever is given back what it does not know
        raise DamagedCheckpoint(folder, error) from error


def _check_same_run(folder: Path, progress: dict[str, Any], state: TrainingState) -> None:
    """Raise a UserError if the checkpoint was written for other data, or for another batch."""
    for name, here in state.data.items():
        there = progress["data"].get(name)
        if there != here:
            raise UserError(
                f"{folder} was written for other data ({name}: {there} there, {here} now); bring the data back, or "
                "choose another --output_dir."
            )
    if progress["images_per_step"] != state.images_per_step:
        raise UserError(
            f"{folder} was written for {progress['images_per_step']} images a step and this run takes "
            f"{state.images_per_step}; --train_batch_size x --gradient_accumulation_steps x processes must stay."
        )


def _put_back(folder: Path, progress: dict[str, Any], state: TrainingState) -> None:
    weights = load_file(folder / "unet.safetensors")
    optimizer_tensors = load_file(folder / "optimizer.safetensors")
    meter = load_file(folder / "meter.safetensors")
    shadows = {key: load_file(folder / f"{key}.safetensors") for key in state.averages}
    in_blocks = any(tensor.dtype == torch.uint8 for tensor in optimizer_tensors.values())
    if in_blocks and progress["channels_last"] != _is_channels_last(state.unet):
        raise UserError(
            f"{folder} has the state of adamw8bit, whose blocks follow the order in memory; train on with the same "
            "--channels_last, or choose another --output_dir."
        )
    _check_same_optimizer(folder, progress, state)
    state.unet.load_state_dict(weights)
    state.optimizer.load_state_dict(_join_optimizer(optimizer_tensors, progress["optimizer"]))
    _lay_out(state.optimizer)
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
    """What a checkpoint and a run must have in common, as JSON gives it back; `averages` are the names of theirs."""
    architecture = {k: v for k, v in unet.config.items() if not k.startswith("_") and k != "sample_size"}
    noise = {
        "prediction_type": scheduler.config.prediction_type,
        "noise table": hashlib.sha256(scheduler.betas.numpy().tobytes()).hexdigest()[:12],
    }
    return json.loads(json.dumps(architecture | noise | {"averages": sorted(averages)}))


def check_checkpoint(
    folder: Path, unet: UNet2DModel, scheduler: AnimeNoiseScheduler, *, averages: Iterable[str]
) -> None:
    """Raise a UserError if `folder` is damaged or of another model or other averages, before any image is read."""
    here, there = model_facts(unet, scheduler, averages=averages), _read_progress(folder)["model"]
    kept, wanted = (", ".join(facts.pop("averages")) or "none" for facts in (there, here))
    changed = sorted(k for k in here.keys() | there.keys() if here.get(k) != there.get(k))
    if changed:
        raise UserError(
            f"{folder} was written for another model ({changed[0]} is {there.get(changed[0])} there and "
            f"{here.get(changed[0])} here); train the same one, or choose another --output_dir."
        )
    if kept != wanted:
        raise UserError(
            f"{folder} was written with other averages of the weights ({kept} there, {wanted} now); give the same "
            "--use_ema and --ema_sigma_rels, or choose another --output_dir."
        )


def _read_progress(folder: Path) -> dict[str, Any]:
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
        raise DamagedCheckpoint(folder, ValueError("progress.json does not hold what it should"))
    return progress


def check_whole(folder: Path) -> None:
    """Raise a DamagedCheckpoint unless every file is, bit for bit, as it was written."""
    try:
        if (folder / DIGESTS).exists() or _read_progress(folder).get("has_digests"):
            digests = parse_json((folder / DIGESTS).read_text())
            if not digests.keys() >= ALWAYS or any(Path(name).name != name for name in digests):
                raise ValueError(f"{DIGESTS} does not hold what it should")
            for name, digest in digests.items():
                if _digest(folder / name) != digest:
                    raise ValueError(f"{name} has changed since it was written")
    except (OSError, ValueError, AttributeError) as error:
        raise DamagedCheckpoint(folder, error) from error
    _read_progress(folder)


def checkpoint_folder(output_dir: Path, step: int) -> Path:
    return output_dir / f"checkpoint-{step}"


def list_checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = [(int(m[1]), p) for p in output_dir.glob("checkpoint-*") if (m := CHECKPOINT_NAME.fullmatch(p.name))]
    return [p for _, p in sorted(found)]


def last_good_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint that is whole and after a step that had a finite gradient, if there is one."""
    for checkpoint in _whole_ones(list_checkpoints(output_dir)):
        if not _read_progress(checkpoint)["numerics"].get("in_a_row"):
            return checkpoint
    return None


def drop_checkpoints_after(output_dir: Path, step: int) -> None:
    """Delete the checkpoints that a run which goes on from `step` will write again."""
    for checkpoint in list_checkpoints(output_dir):
        if int(CHECKPOINT_NAME.fullmatch(checkpoint.name)[1]) > step:
            remove_folder(checkpoint)


def find_checkpoint(output_dir: Path, asked: str | None, asked_before: bool = False) -> Path | None:
    """The checkpoint to resume from: the one asked for, else the newest that is whole, else None.

    Args:
        asked: `latest`, the name of a checkpoint in `output_dir`, or the path of any.
        asked_before: whether the run there has gone on from `asked` already. If it has got to a later checkpoint by
            now, it goes on from the newest.

    Raises:
        UserError: if the one asked for by name is not there or damaged, or if all are damaged.
    """
    checkpoints = list_checkpoints(output_dir)
    if asked is None or asked == "latest" or (asked_before and _is_further(checkpoints, Path(asked))):
        newest = next(_whole_ones(checkpoints), None)
        if checkpoints and newest is None:
            raise UserError(f"All checkpoints in {output_dir} are damaged; give --overwrite_output_dir to start over.")
        return newest
    path = Path(asked)
    for candidate in (output_dir / path, path):  # which are the same for an absolute path
        if (candidate / "progress.json").is_file():
            check_whole(candidate)
            return candidate
    there = ", ".join(p.name for p in checkpoints) or "none"
    raise UserError(f"--resume_from_checkpoint {asked} is not a checkpoint; in {output_dir} there are: {there}.")


def _is_further(checkpoints: list[Path], asked: Path) -> bool:
    named = CHECKPOINT_NAME.fullmatch(asked.name)
    step = int(named[1]) if named else _read_progress(asked)["step"]
    return bool(checkpoints) and int(CHECKPOINT_NAME.fullmatch(checkpoints[-1].name)[1]) > step


def _whole_ones(checkpoints: list[Path]) -> Iterator[Path]:
    """From the newest on, passing over those that are damaged and saying so."""
    for checkpoint in reversed(checkpoints):
        try:
            check_whole(checkpoint)
        except DamagedCheckpoint as error:
            logging.warning("%s; going on from the one before.", error.found)
        else:
            yield checkpoint


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


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Give the state of each parameter its order in memory, which a channels-last one has lost by being saved.

    Fused kernels walk through memory, and would otherwise pair each weight with the state of another.
    """
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
