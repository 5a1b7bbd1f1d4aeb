"""One evaluation from beginning to end: check everything, draw, measure, report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from .. import AnimeDDPMPipeline
from ..common.errors import UserError, first_line
from ..common.parsing import parse_json
from ..runs.provenance import public_name, read_provenance
from ..training.hardware import check_launcher
from .drawing import (
    Drawing,
    check_pipeline,
    check_sampling,
    check_steps,
    checked_guidance,
    choose_sampler,
    load_pipeline,
)
from .image_sets import ImageSet, read_folder, read_images
from .metrics.distances import feature_metrics
from .metrics.memorisation import mean_pairwise
from .networks.extractors import FeatureExtractor
from .reference import (
    SHOWN_NEAREST,
    Reference,
    measure_floor,
    memorisation,
    open_reference,
    real_diversity,
)
from .report import METRICS_NAME, SHEET_NAME, environment, write_grid, write_metrics, write_sheet
from .settings import COPIES, EvaluationConfig

LOCK = ".evaluation.lock"


def evaluate(
    config: EvaluationConfig, pipeline: AnimeDDPMPipeline | None = None, show_progress: bool = True
) -> dict[str, Any] | None:
    """Measure how good a model's images are, how varied, and whether they are copies.

    All input is checked before the first image is drawn. Under `accelerate launch` or `torchrun` the drawing is shared
    between the processes, and the first one measures.

    Args:
        config: what to judge, and by what.
        pipeline: a loaded pipeline, which is drawn from, and moved to the device for that; `config.model` is then only
            its name in the record.

    Returns:
        The content of `metrics.json` (docs/evaluate.md) on the first process, None on the others.

    Raises:
        UserError: a sentence on what to do, for mistakes of the caller.
    """
    state, device = choose_device(config.device)
    config = with_recorded_split(config)
    if pipeline is not None and config.images is not None:
        raise UserError("Give --images, a folder of finished images, or a pipeline; not both.")
    drawing = prepare_drawing(config, pipeline, device) if config.images is None else None
    images = prepare_images(config) if config.images is not None else None
    with contextlib.ExitStack() as stack:
        reference, seconds = None, {}
        if state.is_main_process:
            side = images.resolution if images else drawing.side
            reference = open_reference(config, side, device, show_progress, len(images) if images else None)
            stack.enter_context(locked_folder(config.folder))
            prepare_folder(config, drawing)
        state.wait_for_everyone()
        if drawing is not None:
            (drawing.count,) = broadcast_object_list([reference and reference.config.num_images])
            begin = time.perf_counter()
            drawing.draw(state.process_index, state.num_processes, show_progress and state.is_main_process)
            state.wait_for_everyone()
            seconds["drawing"] = time.perf_counter() - begin
        if reference is None:
            return None
        if drawing is not None:
            images = ImageSet(read_images(drawing.paths), config.model)
            if pipeline is None and device.type == "cuda":
                drawing.pipeline.to("cpu")  # to make room for the search
                torch.cuda.empty_cache()
        record = measure(reference, images, drawing, config.folder, seconds)
        if drawing is not None:
            drawing.finish()
    return record


def choose_device(asked: str | None) -> tuple[PartialState, torch.device]:
    """The processes that share the work, and this one's device.

    Raises:
        UserError: if there is no such device, or the launcher started too few processes.
    """
    check_launcher()
    cpu = asked == "cpu" or (asked is None and not torch.accelerator.is_available())
    state = PartialState(cpu=cpu, timeout=timedelta(days=1))
    try:
        device = torch.device(asked or state.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {asked} cannot be used ({first_line(error)}); give cpu, or omit it.") from error
    return state, device


def prepare_drawing(config: EvaluationConfig, pipeline: AnimeDDPMPipeline | None, device: torch.device) -> Drawing:
    """The pipeline with its sampler, made sure that it can draw what is asked for."""
    if pipeline is None:
        pipeline = load_pipeline(config.model, config.cache_dir, device)
    else:
        pipeline = AnimeDDPMPipeline(**pipeline.components, **pipeline.parameters).to(device)
        check_pipeline(pipeline)
    choose_sampler(pipeline, config.sampler, config.parsed_sampler_options)
    steps = check_steps(pipeline, config.num_inference_steps)
    pipeline.set_progress_bar_config(disable=True)
    labels = config.parsed_labels
    guidance = checked_guidance(pipeline, config.guidance, labels)
    check_sampling(pipeline, steps, guidance, labels)
    images = config.folder / "images"
    return Drawing(pipeline, config.num_images, steps, config.seed, config.batch_size, images, guidance, labels)


def with_recorded_split(config: EvaluationConfig) -> EvaluationConfig:
    """The config with the `--validation_fraction` that the run of `--model` has held out of this data set."""
    data = training_data(config.model) if config.model and config.validation_fraction is None else None
    if not data or data.get("name") != public_name(config.dataset):
        return config
    return config.with_chosen(validation_fraction=data.get("validation_fraction"))


def training_data(model: str) -> dict[str, Any] | None:
    """What the run of a model has recorded of its data; an average, or the best so far, lies in its run."""
    places = (Path(model), Path(model).absolute().parent)
    return next((data for place in places if (data := read_provenance(place).get("data"))), None)


def prepare_images(config: EvaluationConfig) -> ImageSet:
    """The first `--num_images` of a folder."""
    images = read_folder(Path(config.images), config.num_images)
    if len(images) < config.num_images and "num_images" in config.given:
        raise UserError(
            f"--images {config.images} holds {len(images):,} images, fewer than --num_images {config.num_images:,}; "
            f"give --num_images {len(images)}."
        )
    return images


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make the output folder, for this evaluation alone.

    Raises:
        UserError: if it cannot be written to, or another process is at work in it.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"Another evaluation is running in {folder}; choose another --output_dir.") from None
    except OSError as error:
        raise UserError(f"--output_dir {folder} cannot be written to ({error.strerror}); choose another.") from error
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def prepare_folder(config: EvaluationConfig, drawing: Drawing | None) -> None:
    """Refuse a folder with the results of something else, and claim its images."""
    path = config.folder / METRICS_NAME
    if path.exists():
        try:
            judged = parse_json(path.read_text())["judged"]["source"]
        except (OSError, ValueError, KeyError, TypeError):
            judged = "something else"
        if judged != (config.images or config.model):
            raise UserError(f"--output_dir {config.folder} holds the evaluation of {judged}; choose another folder.")
    if drawing is not None:
        drawing.claim(config.keep_images)


def measure(
    reference: Reference, images: ImageSet, drawing: Drawing | None, folder: Path, seconds: dict[str, float]
) -> dict[str, Any]:
    """All metrics of `images`, written to `folder` with the pictures; the content of metrics.json."""
    record: dict[str, Any] = {
        "judged": {"source": images.source, "n": len(images), "resolution": images.resolution},
        "drawn": drawing and drawing.facts,
        "real": reference.real.facts | {"is_held_out": is_held_out(reference, images.source)},
        "metrics": {},
        "skipped": reference.skipped,
    }
    (folder / SHEET_NAME).unlink(missing_ok=True)  # of an earlier evaluation, whose numbers go as well
    write_grid(folder, images.pixels)
    if reference.extractors:
        begin = time.perf_counter()
        first, *others = (judged_by(reference, extractor, images) for extractor in reference.extractors)
        record |= first | ({"other_judges": others} if others else {})
        seconds["features"] = time.perf_counter() - begin
    if reference.distance is not None:
        begin = time.perf_counter()
        record["distance"] = reference.distance.facts
        record["metrics"] |= perceptual_metrics(reference, images)
        seconds["lpips"] = time.perf_counter() - begin
    if reference.distance is not None or reference.copy_distance is not None:
        begin = time.perf_counter()
        record["metrics"] |= search_copies(reference, images, folder)
        seconds["copies"] = time.perf_counter() - begin
    record |= {"date": date.today().isoformat(), **environment(reference.device)}
    record["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    write_metrics(folder, record)
    return record


def is_held_out(reference: Reference, model: str) -> bool:
    """Whether the real images are others than those that the model was trained on, as far as its run has recorded."""
    data = training_data(model)
    return reference.is_held_out or (data is not None and data["name"] != public_name(reference.config.dataset))


def judged_by(reference: Reference, extractor: FeatureExtractor, images: ImageSet) -> dict[str, Any]:
    """The distances between features of one judge, its facts, and the floor."""
    config = reference.config
    title = f"Features of {len(images):,} evaluated images"
    features = extractor.extract(images.pixels, config.extractor_batch_size, title, reference.show_progress)
    real = reference.features(reference.real, extractor)
    result = {"extractor": extractor.facts, "metrics": feature_metrics(config, extractor, features, real)}
    return result | ({"floor": measure_floor(reference, extractor, len(images))} if config.floor else {})


def perceptual_metrics(reference: Reference, images: ImageSet) -> dict[str, Any]:
    """LPIPS between the images themselves, beside that between real images."""
    distance = reference.distance
    diversity, error = mean_pairwise(images.pixels, distance)
    real_value, real_error = real_diversity(reference)
    return {
        "lpips_diversity": {
            "name": f"mean pairwise {distance.name}",
            "value": diversity,
            "standard_error": error,
            "real": real_value,
            "real_standard_error": real_error,
            "n": len(images),
        }
    }


def search_copies(reference: Reference, images: ImageSet, folder: Path) -> dict[str, Any]:
    """Distances of the images to training images: by LPIPS, and by the features that find altered copies best.

    The sheet of the nearest ones is by the latter where both are there.
    """
    metrics = {}
    for key, distance in (("lpips_nearest", reference.distance), (COPIES, reference.copy_distance)):
        if distance is None:
            continue
        if reference.training is None:
            reason = f"there is no {reference.config.train_split} split"
            reference.skipped.append({"metrics": key, "reason": reason})
            continue
        nearest = reference.nearest_training(images.pixels, distance, SHOWN_NEAREST)
        write_sheet(folder, images.pixels, reference.training.pixels, nearest, distance.name)
        metrics[key] = memorisation(reference, distance, nearest.distances[:, 0])
    return metrics
