"""The output folder of a run: whose it is, what is in it, and the finished pipeline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from diffusers import UNet2DModel
from filelock import FileLock, Timeout

from pipeline_anime_ddpm import AnimeDDPMPipeline

from ..common.atomic import publish_folder, remove, remove_folder, restore_replaced
from ..common.errors import UserError
from ..common.parsing import parse_yaml
from ..common.settings import may_change_on_resume
from ..data.cache import SKIPPED
from ..training.config import TrainingConfig
from .checkpoints import list_checkpoints
from .numerics import EVENTS_NAME
from .provenance import RECORD_NAME
from .snapshots import SNAPSHOTS
from .tracking import CSV_NAME, CURVE_NAME, EVALUATION_NAME, SAMPLES_NAME

CONFIG_NAME = "training_config.yaml"
LOCK_NAME = ".lock"  # held by the run that is at work in the folder
LEFTOVER = ".*.partial"  # of a process that was killed
PATIENCE = 10.0  # seconds; the workers of a run that was killed end within five
BEST = "best"  # the folder of the pipeline with the least KID so far
GUIDE = "guide_unet"  # the network as it was at --save_guide_at, a component of the pipeline
PIPELINE_PARTS = ("unet", "scheduler", GUIDE, "pipeline_anime_ddpm.py", "model_index.json")


def check_output_dir(config: TrainingConfig) -> None:
    """Make sure that the output folder is new, or holds this very run; nothing is written or deleted here.

    Raises:
        UserError: if it holds another run or something else, and `--overwrite_output_dir` is not given.
    """
    folder = Path(config.output_dir)
    _check_writable(folder)
    if not folder.exists() or not any(p.name != LOCK_NAME and not p.match(LEFTOVER) for p in folder.iterdir()):
        return
    record = folder / CONFIG_NAME
    if not record.exists():
        raise UserError(f"--output_dir {folder} holds files that are not a training run; choose an empty folder.")
    if config.overwrite_output_dir:
        return
    before = recorded_settings(folder)
    if before is None:
        raise UserError(f"{record} is damaged; choose another --output_dir, or give --overwrite_output_dir.")
    now, may_change = config.to_dict(), may_change_on_resume(TrainingConfig)
    changed = [k for k in now if k not in may_change and before.get(k, now[k]) != now[k]]
    if changed:
        was = ", ".join(f"--{k} {before[k]} there, {now[k]} now" for k in changed[:3])
        raise UserError(
            f"--output_dir {folder} holds another run ({was}); choose another folder, or give --overwrite_output_dir "
            "to delete that run."
        )


def recorded_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the run in the folder; None if they cannot be read."""
    try:
        before = parse_yaml((folder / CONFIG_NAME).read_text())
    except (OSError, ValueError):
        return None
    return before if isinstance(before, dict) else None


def is_same_resume_request(config: TrainingConfig) -> bool:
    """Whether the run in the output folder was already started with this `--resume_from_checkpoint`."""
    before = recorded_settings(Path(config.output_dir)) or {}
    return before.get("resume_from_checkpoint") == config.resume_from_checkpoint


def _check_writable(folder: Path) -> None:
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise UserError(f"--output_dir {folder}: {existing} is a file; give a folder.")
    if not os.access(existing, os.W_OK):
        raise UserError(f"--output_dir {folder}: {existing} cannot be written to; choose another folder.")


def output_lock(config: TrainingConfig) -> FileLock:
    """The lock that keeps other runs out of the output folder while this process lives."""
    return FileLock(Path(config.output_dir) / LOCK_NAME, timeout=PATIENCE, is_singleton=True)


def acquire_output_lock(lock: FileLock) -> None:
    """Take the lock if its folder exists, and repair a replacement that a kill interrupted. Main process only.

    Raises:
        UserError: if another run uses the folder.
    """
    folder = Path(lock.lock_file).parent
    if not folder.is_dir():
        return
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"--output_dir {folder}: another run is using it; wait until it ends, or choose another folder."
        ) from error
    restore_replaced(folder)


def lock_output_dir(config: TrainingConfig, lock: FileLock) -> None:
    """Create the folder if needed and take its lock, so that no other run changes it. Main process only.

    Raises:
        UserError: if it cannot be made, and as `acquire_output_lock` and `check_output_dir`.
    """
    folder = Path(config.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output_dir {folder} cannot be created ({error.strerror}); choose another folder."
        ) from error
    acquire_output_lock(lock)
    check_output_dir(config)  # another run may have come and gone since the first look


def claim_output_dir(config: TrainingConfig) -> Path:
    """Empty the folder of an earlier run if asked to, and save the config in it. Main process only."""
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if config.overwrite_output_dir:
        for name in (
            *PIPELINE_PARTS,
            CSV_NAME,
            CURVE_NAME,
            SAMPLES_NAME,
            SKIPPED,
            SNAPSHOTS,
            config.logging_dir,
            ".wandb_run",
            EVALUATION_NAME,
            EVENTS_NAME,
            RECORD_NAME,
            BEST,
        ):
            remove(folder / name)
        for checkpoint in list_checkpoints(folder):
            remove_folder(checkpoint)
        remove(folder / CONFIG_NAME)  # the last, since without it the folder is nobody's
    for leftover in [*folder.glob(LEFTOVER), *(folder / BEST).glob(LEFTOVER)]:
        remove(leftover)
    config.save(folder / CONFIG_NAME)
    return folder


def export_pipeline(pipeline: AnimeDDPMPipeline, folder: Path) -> None:
    """Save the pipeline beside, then move its finished parts in place, the index last."""
    folder.mkdir(exist_ok=True)
    partial = folder / ".pipeline.partial"
    remove(partial)
    pipeline.save_pretrained(partial)
    for name in PIPELINE_PARTS:
        if name == GUIDE and (pipeline.guide_unet is None or (folder / name).exists()):
            continue  # a run's guide never changes, and a crash between two moves would lose it
        old = partial / f"{name}.old"
        if (folder / name).exists():
            os.replace(folder / name, old)
        os.replace(partial / name, folder / name)
    remove(partial)


def save_guide(unet: UNet2DModel, folder: Path) -> None:
    """Keep the network as it is now as the guide of the run's pipeline."""
    partial = folder / f".{GUIDE}.partial"
    remove(partial)
    unet.save_pretrained(partial)
    publish_folder(partial, folder / GUIDE)


def load_guide(folder: Path) -> UNet2DModel | None:
    """What `save_guide` has kept, if it has by now."""
    return UNet2DModel.from_pretrained(folder / GUIDE) if (folder / GUIDE).is_dir() else None


def usage(folder: Path, enlarges: bool = False) -> str:
    """The lines of Python that draw a face with the finished pipeline, or enlarge one with that of an upscaler."""
    if enlarges:
        return (
            "from PIL import Image\nfrom pipeline_anime_ddpm import AnimeDDPMPipeline\n"
            f'AnimeDDPMPipeline.from_pretrained("{folder}").upscale(Image.open("face.png")).images[0].save("large.png")'
        )
    return (
        "from diffusers import DiffusionPipeline\n"
        f'DiffusionPipeline.from_pretrained("{folder}", trust_remote_code=True)().images[0].save("face.png")'
    )
