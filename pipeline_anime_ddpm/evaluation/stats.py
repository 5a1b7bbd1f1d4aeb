"""`anime-ddpm stats`: everything about the real images that an evaluation keeps, computed ahead, and the floor."""

from __future__ import annotations

from collections.abc import Iterator

from .recipe import choose_device
from .reference import held_out_distances, measure_floor, open_reference, real_diversity
from .report import line
from .settings import ReferenceConfig


def measure_statistics(config: ReferenceConfig, resolution: int, show_progress: bool = True) -> Iterator[str]:
    """Compute and keep the features of the real split and of as many training images, and the held-out distances.

    Args:
        resolution: side of the images of the models that will be judged, in pixels.

    Yields:
        The output, line by line.

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
    for extractor in reference.extractors:
        reference.features(real, extractor)
        if not config.floor:
            continue
        floor = measure_floor(reference, extractor, reference.config.num_images)
        if "skipped" in floor:
            yield f"No floor: {floor['skipped']}."
        else:
            yield f"Floor: {floor['of']['n']:,} images of the {floor['of']['split']} split against them:"
            yield from (f"  {line(metric)}" for metric in floor["metrics"].values())
    if reference.training is None:
        distances = []
    else:
        distances = [distance for distance in (reference.distance, reference.copy_distance) if distance]
    if reference.distance in distances:
        diversity, error = real_diversity(reference)
        yield f"{reference.distance.name} between two of the real images: {diversity:.4f} ± {error:.4f} on average."
    for distance in distances:
        values, what = held_out_distances(reference, distance)
        yield (
            f"{distance.name} from {len(values):,} {what} to the nearest of {len(reference.training):,} "
            f"training images: {values.mean():.4f} on average, at least {values.min():.4f}."
        )
    yield f"Kept in {reference.statistics}; `anime-ddpm cache ls` lists it."
