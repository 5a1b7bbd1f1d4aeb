"""`anime-ddpm stats`: everything about the real images that an evaluation keeps, computed ahead, and the floor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .recipe import choose_device
from .reference import held_out_distances, measure_floor, open_reference, real_diversity
from .settings import ReferenceConfig


def measure_statistics(config: ReferenceConfig, resolution: int, show_progress: bool = True) -> Iterator[str]:
    """Compute and keep the features of the real split and of as many training images, and the held-out distances.

    Args:
        resolution: side of the images of the models that will be judged, in pixels.

    Yields:
        What to tell the user, line by line.

    Raises:
        UserError: as for `evaluate`.
    """
    _, device = choose_device(config.device)
    reference = open_reference(config, resolution, device, show_progress)
    real = reference.real
    yield (
        f"{len(real):,} images of the {real.split} split of {real.source} at {resolution} pixels "
        f"(fingerprint {real.fingerprint})."
    )
    if reference.extractor is not None:
        reference.features(real)
    if reference.extractor is not None and config.floor:
        floor = measure_floor(reference, config.num_images)
        if "skipped" in floor:
            yield f"No floor: {floor['skipped']}."
        else:
            yield f"Floor: {floor['of']['n']:,} images of the {floor['of']['split']} split against them:"
            yield from (f"  {line(metric)}" for metric in floor["metrics"].values())
    if reference.distance is not None and reference.training is not None:
        distances, what = held_out_distances(reference)
        diversity, error = real_diversity(reference)
        yield f"{reference.distance.name} between two of the real images: {diversity:.4f} ± {error:.4f} on average."
        yield (
            f"{reference.distance.name} from {len(distances):,} {what} to the nearest of {len(reference.training):,} "
            f"training images: {distances.mean():.4f} on average, least {distances.min():.4f}."
        )
    yield f"Kept in {reference.statistics}; `anime-ddpm cache ls` lists it."


def line(metric: dict[str, Any]) -> str:
    """One metric as people read it."""
    value = f"{metric['value']:.4g}"
    if "std" in metric:
        subsets = f"{metric['subsets']} subsets of {metric['subset_size']}"
        value = (
            f"{metric['value']:.3g} ± {metric['std']:.2g} ({'; '.join(filter(None, [subsets, metric.get('note')]))})"
        )
    if "real" in metric:
        value += f" (real images {metric['real']:.4g})"
    return f"{metric['name']}: {value}"
