"""One evaluation from beginning to end: check everything, draw, measure, report."""

from __future__ import annotations

import shutil
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ..pipeline_anime_ddpm import AnimeDDPMPipeline
from ..training.errors import UserError
from .drawing import Drawing, check_pipeline, check_steps, choose_sampler, load_pipeline
from .image_sets import ImageSet, read_folder, read_images
from .memorisation import find_nearest, mean_pairwise
from .reference import (
    SHOWN_NEAREST,
    Reference,
    feature_metrics,
    measure_floor,
    memorisation,
    open_reference,
    real_diversity,
)
from .report import environment, write_grid, write_metrics, write_sheet
from .settings import EvaluationConfig


def evaluate(
    config: EvaluationConfig, pipeline: AnimeDDPMPipeline | None = None, show_progress: bool = True
) -> dict[str, Any] | None:
    """Measure how good a model's images are, how varied, and whether they are copies.

    Everything that can be wrong is looked at before the first image is drawn. Under `accelerate launch` or `torchrun`
    the drawing is shared between the processes, and the first one measures.

    Args:
        config: what to judge, and by what.
        pipeline: a loaded pipeline, which is drawn from; `config.model` is then only its name in the record.

    Returns:
        The content of `metrics.json` on the first process, None on the others. README's section on evaluation says what
        each number means.

    Raises:
        UserError: a sentence on what to do, for anything that the caller can put right.
    """
    state = PartialState(cpu=config.device == "cpu", timeout=timedelta(days=1))
    device = torch.device(config.device or state.device)
    drawing = prepare_drawing(config, pipeline, device) if config.images is None else None
    images = prepare_images(config) if config.images is not None else None
    reference, seconds = None, {}
    if state.is_main_process:
        side = images.resolution if images else drawing.side
        reference = open_reference(config, side, device, show_progress)
        prepare_folder(config, drawing)
    state.wait_for_everyone()
    if drawing is not None:
        begin = time.perf_counter()
        drawing.draw(state.process_index, state.num_processes, show_progress and state.is_main_process)
        state.wait_for_everyone()
        seconds["drawing"] = time.perf_counter() - begin
    if reference is None:
        return None
    if drawing is not None:
        images = ImageSet(read_images(drawing.paths), config.model)
    record = measure(reference, images, drawing, config.folder, seconds)
    if drawing is not None and not config.keep_images:
        shutil.rmtree(drawing.folder)
    return record


def prepare_drawing(config: EvaluationConfig, pipeline: AnimeDDPMPipeline | None, device: torch.device) -> Drawing:
    """The pipeline with its sampler, made sure that it can draw what is asked for."""
    if pipeline is None:
        pipeline = load_pipeline(config.model, config.cache_dir, device)
    else:
        pipeline = AnimeDDPMPipeline(pipeline.unet, pipeline.scheduler).to(device)
        check_pipeline(pipeline)
    choose_sampler(pipeline, config.sampler, config.parsed_sampler_options)
    steps = check_steps(pipeline, config.num_inference_steps)
    return Drawing(pipeline, config.num_images, steps, config.seed, config.batch_size, config.folder / "images")


def prepare_images(config: EvaluationConfig) -> ImageSet:
    """The first `--num_images` of a folder."""
    images = read_folder(Path(config.images), config.num_images)
    if len(images) < config.num_images:
        raise UserError(
            f"--images {config.images} holds {len(images):,} images, fewer than --num_images {config.num_images:,}; "
            f"give --num_images {len(images)}."
        )
    return images


def prepare_folder(config: EvaluationConfig, drawing: Drawing | None) -> None:
    try:
        config.folder.mkdir(parents=True, exist_ok=True)
        if drawing is not None:
            drawing.claim()
    except OSError as error:
        raise UserError(f"--output_dir {config.folder} cannot be made ({error.strerror}); choose another.") from error


def measure(
    reference: Reference, images: ImageSet, drawing: Drawing | None, folder: Path, seconds: dict[str, float]
) -> dict[str, Any]:
    """All metrics of `images`, written to `folder` with the pictures; the content of metrics.json."""
    config = reference.config
    record: dict[str, Any] = {
        "judged": {"source": images.source, "n": len(images), "resolution": images.resolution},
        "drawn": drawing and drawing.facts,
        "real": reference.real.facts,
        "metrics": {},
        "skipped": reference.skipped,
    }
    write_grid(folder, images.pixels)
    if reference.extractor is not None:
        begin = time.perf_counter()
        title = f"Features of {len(images):,} judged images"
        features = reference.extractor.extract(
            images.pixels, config.extractor_batch_size, title, reference.show_progress
        )
        seconds["features"] = time.perf_counter() - begin
        record["extractor"] = reference.extractor.facts
        real = reference.features(reference.real)
        record["metrics"] |= feature_metrics(config, reference.extractor, features, real)
        if config.floor:
            record["floor"] = measure_floor(reference, len(images))
    if reference.distance is not None:
        begin = time.perf_counter()
        record["distance"] = reference.distance.facts
        record["metrics"] |= perceptual_metrics(reference, images, folder)
        seconds["lpips"] = time.perf_counter() - begin
    record |= {"date": date.today().isoformat(), **environment((reference.extractor or reference.distance).device)}
    record["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    write_metrics(folder, record)
    return record


def perceptual_metrics(reference: Reference, images: ImageSet, folder: Path) -> dict[str, Any]:
    """LPIPS in its two meanings: distance to the nearest training image, and distance between the images themselves."""
    distance, counts = reference.distance, {"n": len(images)}
    diversity, error = mean_pairwise(images.pixels, distance)
    real_value, real_error = real_diversity(reference)
    metrics: dict[str, Any] = {
        "lpips_diversity": {
            "name": f"mean pairwise {distance.name}",
            "value": diversity,
            "standard_error": error,
            "real": real_value,
            "real_standard_error": real_error,
            **counts,
        }
    }
    if reference.training is None:
        reference.skipped.append(
            {"metrics": "lpips_nearest", "reason": f"there is no {reference.config.train_split} split"}
        )
        return metrics
    nearest = find_nearest(
        images.pixels, reference.training.pixels, distance, SHOWN_NEAREST, show_progress=reference.show_progress
    )
    write_sheet(folder, images.pixels, reference.training.pixels, nearest, distance.name)
    return metrics | {"lpips_nearest": memorisation(reference, nearest.distances[:, 0])}
