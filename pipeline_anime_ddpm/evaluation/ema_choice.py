"""`anime-ddpm ema RUN --choose`: measure averages of several lengths and the guide, and save the best pipeline."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import AnimeDDPMPipeline
from ..common.errors import UserError
from ..runs.ema_command import check_new_folder, load_run, load_weights, save_pipeline
from ..runs.folder import recorded_settings
from ..runs.posthoc import reconstruct
from . import recipe
from .networks.extractors import find_efficientnet
from .settings import EFFICIENTNET, INCEPTION, EvaluationConfig

LENGTHS = (0.03, 0.05, 0.08, 0.12, 0.18)  # that are measured unless others are given
GUIDANCE = (1.25, 1.5)  # scales that are measured with the best length, if the run's pipeline has a guide
OWN = "the run's own EMA"
MEASUREMENTS = "ema-choice"  # folder in the run, with a grid and metrics.json of each


@dataclass(frozen=True)
class Measured:
    """The KID of one candidate, with its standard deviation."""

    name: str
    kid: float
    std: float

    def __str__(self) -> str:
        return f"{self.name}: KID {self.kid:.4g} ± {self.std:.2g}"


def choose_average(
    run: Path,
    lengths: Sequence[float] = LENGTHS,
    output_dir: Path | None = None,
    dataset: str | None = None,
    extractor: str | None = None,
) -> Iterator[str]:
    """Measure each length against held-out images, save the best as a pipeline, and yield lines that say so.

    Guidance by the run's guide network becomes the pipeline's default only if its KID is lower by more than the
    standard deviation, since it doubles the work of each step.

    Args:
        run: The output folder of a training run with EMA snapshots.
        output_dir: Folder for the pipeline; by default `RUN/chosen`.
        dataset: Real images; by default those of the run, of which the held-out ones are used.
        extractor: As in `evaluate`; by default EfficientNet-Lite0 if it is installed, otherwise Inception.

    Raises:
        UserError: If there are no snapshots, no real images, or `output_dir` holds something.
    """
    folder = output_dir or run / "chosen"
    check_new_folder(folder)
    averages = {f"sigma_rel {length:g}": length for length in lengths}
    pipeline, settings = load_run(run), _evaluation(run, dataset, extractor)
    found = {OWN: _measure(pipeline, OWN, settings)}
    yield f"  {found[OWN]}"
    own = {name: parameter.detach().clone() for name, parameter in pipeline.unet.named_parameters()}
    for name, length in averages.items():
        load_weights(pipeline.unet, reconstruct(run, length).weights, run)
        found[name] = _measure(pipeline, name, settings)
        yield f"  {found[name]}"
    best = min(found.values(), key=lambda measured: measured.kid)
    weights = own if best.name == OWN else reconstruct(run, averages[best.name]).weights
    load_weights(pipeline.unet, weights, run)
    scale = 1.0
    for guided, measured in _guided(pipeline, best, settings):
        yield f"  {measured}"
        if measured.kid < min(best.kid - best.std, *(other.kid for other in found.values())):
            scale, found[measured.name] = guided, measured
    parts = pipeline.components | pipeline.parameters | {"default_guidance_scale": scale}
    save_pipeline(AnimeDDPMPipeline(**parts), folder)
    guidance = f"with guidance {scale:g}" if scale > 1 else "without guidance"
    yield f"{folder}: {best.name}, {guidance}.{_doubt(best, found)}"


def _evaluation(run: Path, dataset: str | None, extractor: str | None) -> dict[str, Any]:
    """The settings of all measurements."""
    trained = recorded_settings(run) or {}
    own = trained.get("dataset_name") or trained.get("train_data_dir")
    if not (dataset or own):
        raise UserError(f"{run} does not say which images it was trained on; give --dataset.")
    same_data = {name: trained.get(name) for name in ("dataset_config_name", "image_column")} if not dataset else {}
    return {
        "model": str(run),
        "dataset": dataset or own,
        "metrics": "kid",
        "floor": False,
        "extractor": extractor or (EFFICIENTNET if find_efficientnet() else INCEPTION),
        "cache_dir": trained.get("cache_dir"),
        **same_data,
    }


def _measure(pipeline: AnimeDDPMPipeline, name: str, settings: dict[str, Any], **sampling: Any) -> Measured:
    place = Path(settings["model"], MEASUREMENTS, re.sub("[^a-z0-9.]+", "-", name.replace("'", "").lower()))
    config = EvaluationConfig(**settings, **sampling, output_dir=str(place))
    kid = recipe.evaluate(config, pipeline, show_progress=False)["metrics"]["kid"]
    return Measured(name, kid["value"], kid["std"])


def _guided(pipeline: AnimeDDPMPipeline, best: Measured, settings: dict[str, Any]) -> Iterator[tuple[float, Measured]]:
    for scale in GUIDANCE if pipeline.guide_unet is not None else ():
        yield scale, _measure(pipeline, f"{best.name}, guidance {scale:g}", settings, guidance_scale=scale)


def _doubt(best: Measured, found: dict[str, Measured]) -> str:
    """A sentence where chance may have made the choice."""
    lead = found[OWN].kid - best.kid
    if best.name == OWN or lead > best.std:
        return ""
    return f" Its lead over {OWN}, {lead:.2g}, is within ±, so look at both grids in {MEASUREMENTS}/."
