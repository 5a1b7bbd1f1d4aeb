"""The training record of a run, in a form that may be published."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.errors import UserError
from ..common.parsing import parse_yaml
from ..runs.folder import CONFIG_NAME
from ..runs.provenance import read_provenance
from ..runs.tracking import CSV_NAME, CURVE_NAME
from .privacy import without_paths

# Settings that do not describe the model but the folders and accounts of its maker.
AT_HOME = frozenset(
    "output_dir overwrite_output_dir cache_dir cache_limit_gb logging_dir logger report_to local_rank hub_card "
    "resume_from_checkpoint checkpoints_total_limit push_to_hub hub_model_id hub_private_repo hub_strategy".split()
)
PATHS = ("train_data_dir", "noise_calibration", "eval_extractor_weights")  # whether they are still there or not
ORIGINS = {"dataset_name": "data", "pretrained_model_name_or_path": "went_on_from"}


@dataclass(frozen=True)
class TrainingRecord:
    """The training of a network.

    Attributes:
        config: the settings of the run, without those that are about its maker's machine.
        images: that it has seen; None if the run has no table of them.
        hours: that the steps took, pauses for samples and evaluations apart; likewise.
        provenance: `data` and `machines`, as in `training.provenance`; None and no machines for a run without one.
        has_curve: whether there is a picture of its loss.
    """

    config: dict[str, Any]
    images: int | None
    hours: float | None
    provenance: dict[str, Any]
    has_curve: bool


def read_training(run: Path) -> TrainingRecord:
    """Read the folder of a run.

    Raises:
        UserError: if its settings are damaged.
    """
    try:
        settings = parse_yaml((run / CONFIG_NAME).read_text())
        config = {name: value for name, value in settings.items() if name not in AT_HOME}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{run / CONFIG_NAME} is damaged; restore the file that the training wrote.") from error
    for name in PATHS:
        config[name] = config.get(name) and Path(config[name]).name
    images, hours = _last_progress(run / CSV_NAME)
    provenance = {"data": None, "machines": []} | without_paths(read_provenance(run))
    for name, what in ORIGINS.items():  # recorded when the run began, since the folder may be deleted since
        if config.get(name) and provenance.get(what):
            config[name] = provenance[what]["name"]
    return TrainingRecord(without_paths(config), images, hours, provenance, (run / CURVE_NAME).is_file())


def _last_progress(table: Path) -> tuple[int | None, float | None]:
    """Images and hours by a run's metrics.csv, whose rows have the speed since the row before."""
    if not table.is_file():
        return None, None
    with open(table, newline="") as file:
        whole = [row for row in csv.DictReader(file) if all(row.values())]  # a kill may cut the last one off
        rows = [(int(row["images"]), float(row["images_per_second"])) for row in whole]
    if not rows:
        return None, None
    before = [0, *(images for images, _ in rows)]
    seconds = sum((images - start) / speed for start, (images, speed) in zip(before, rows, strict=False))
    return rows[-1][0], seconds / 3600
