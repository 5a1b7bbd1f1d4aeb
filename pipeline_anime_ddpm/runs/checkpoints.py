"""Checkpoints that are whole or not there: written beside, synced to disk, then renamed.

accelerate's `save_state` and torch.distributed's checkpoints are neither atomic nor checksummed, and the former needs
pickle; so these are our own. What a disk spoils later is found by digests, and the checkpoint before is taken instead.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from safetensors import SafetensorError

from ..common.atomic import publish_folder, remove, remove_folder
from ..common.errors import UserError, first_line
from ..schedulers import AnimeNoiseScheduler
from .checkpoint_files import DamagedCheckpoint, check_whole, model_facts, read_files, read_progress, write_files
from .state import TrainingState

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")


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
        write_files(partial, state)
        publish_folder(partial, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"{final} cannot be written ({first_line(error)}); free some space or fix the error, and run "
            "the same command again to resume from the previous checkpoint."
        ) from error
    prune_checkpoints(output_dir, keep, final)
    return final


def prune_checkpoints(output_dir: Path, keep: int | None, current: Path) -> None:
    """Delete all but the newest `keep`, of which `current` is one whatever its step."""
    others = [c for c in list_checkpoints(output_dir) if c.name != current.name]
    for old in others[: max(0, len(others) - keep + 1)] if keep else []:
        remove_folder(old)


def load_checkpoint(folder: Path, state: TrainingState) -> None:
    """Put the run back, bit for bit, to where `folder` was written; `check_checkpoint` has accepted it.

    Raises:
        UserError: if the checkpoint is unreadable, or was written for other data or another batch.
    """
    progress = read_progress(folder)
    _check_same_run(folder, progress, state)
    try:
        read_files(folder, progress, state)
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
                f"{folder} was written for other data ({name}: {there} there, {here} now); restore the data, or "
                "choose another --output_dir."
            )
    if progress["images_per_step"] != state.images_per_step:
        raise UserError(
            f"{folder} was written for {progress['images_per_step']} images a step and this run takes "
            f"{state.images_per_step}; --train_batch_size x --gradient_accumulation_steps x processes must stay."
        )


def check_checkpoint(
    folder: Path, unet: UNet2DModel, scheduler: AnimeNoiseScheduler, *, averages: Iterable[str]
) -> None:
    """Raise a UserError if `folder` is damaged or of another model or other averages, before any image is read."""
    here, there = model_facts(unet, scheduler, averages=averages), read_progress(folder)["model"]
    kept, wanted = (", ".join(facts.pop("averages")) or "none" for facts in (there, here))
    changed = sorted(k for k in here.keys() | there.keys() if here.get(k) != there.get(k))
    if changed:
        raise UserError(
            f"{folder} was written for another model ({changed[0]} is {there.get(changed[0])} there and "
            f"{here.get(changed[0])} here); train the same model, or choose another --output_dir."
        )
    if kept != wanted:
        raise UserError(
            f"{folder} was written with other averages of the weights ({kept} there, {wanted} now); give the same "
            "--use_ema and --ema_sigma_rels, or choose another --output_dir."
        )


def checkpoint_folder(output_dir: Path, step: int) -> Path:
    return output_dir / f"checkpoint-{step}"


def list_checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = [(int(m[1]), p) for p in output_dir.glob("checkpoint-*") if (m := CHECKPOINT_NAME.fullmatch(p.name))]
    return [p for _, p in sorted(found)]


def last_good_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint that is whole and after a step that had a finite gradient, if there is one."""
    for checkpoint in _intact_checkpoints(list_checkpoints(output_dir)):
        if not read_progress(checkpoint)["numerics"].get("in_a_row"):
            return checkpoint
    return None


def drop_checkpoints_after(output_dir: Path, step: int) -> None:
    """Delete the checkpoints that a run which goes on from `step` will write again."""
    for checkpoint in list_checkpoints(output_dir):
        if int(CHECKPOINT_NAME.fullmatch(checkpoint.name)[1]) > step:
            remove_folder(checkpoint)


def find_checkpoint(output_dir: Path, asked: str | None, is_same_resume_request: bool = False) -> Path | None:
    """Return the checkpoint to resume from: the one asked for, else the newest intact one, else None.

    Args:
        asked: `latest`, the name of a checkpoint in `output_dir`, or the path of any.
        is_same_resume_request: whether the run has already resumed from `asked`. If it has written later checkpoints
            since, it resumes from the newest.

    Raises:
        UserError: if the one asked for by name is not there or damaged, or if all are damaged.
    """
    checkpoints = list_checkpoints(output_dir)
    if asked is None or asked == "latest" or (is_same_resume_request and _is_later(checkpoints, Path(asked))):
        newest = next(_intact_checkpoints(checkpoints), None)
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


def _is_later(checkpoints: list[Path], asked: Path) -> bool:
    named = CHECKPOINT_NAME.fullmatch(asked.name)
    step = int(named[1]) if named else read_progress(asked)["step"]
    return bool(checkpoints) and int(CHECKPOINT_NAME.fullmatch(checkpoints[-1].name)[1]) > step


def _intact_checkpoints(checkpoints: list[Path]) -> Iterator[Path]:
    """From the newest on, passing over those that are damaged and saying so."""
    for checkpoint in reversed(checkpoints):
        try:
            check_whole(checkpoint)
        except DamagedCheckpoint as error:
            logging.warning("%s; resuming from the previous one.", error.found)
        else:
            yield checkpoint
