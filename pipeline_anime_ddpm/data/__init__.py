"""Training images: one interface to two paths, decoded once to a cache or streamed, both as batches of uint8.

`open_data` finds the images and chooses the path; `data.feed(plan)` gives a rank its batches; `prepare_batch` scales
and mirrors a whole batch on the device.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch

from ..common.errors import UserError
from ..synthetic import drawn_faces, drawn_faces_parts
from .cache import SKIPPED, CacheEntry, CacheKey, cache_root, decoded, find_or_build
from .cached import CachedData
from .config import NUM_DRAWN_FACES, DataConfig
from .feed import Batch, Feed, FeedPlan
from .files.held_out import ContentSplit
from .near_identical import warn_of_repeats
from .reading import SkipLog, check_skipped
from .sources import check_source, open_source
from .streaming import StreamedData
from .units import Source

logger = logging.getLogger(__name__)

__all__ = [
    "Batch", "CachedData", "Feed", "FeedPlan", "StreamedData", "check_source", "open_data", "open_source",
    "prepare_batch",
]  # fmt: skip


def open_data(
    config: DataConfig, resolution: int, show_progress: bool = True, source: Source | None = None
) -> CachedData | StreamedData:
    """Find the images that `config` names, and decode them to the cache unless they are to be streamed.

    Args:
        resolution: side of the square training images, in pixels.
        show_progress: show a bar while decoding, and warn of near-identical pictures.
        source: what `open_source` gives, if it is open already.

    Raises:
        UserError: if there is no data set, no image in it, no room for it, or too much of it is broken.
    """
    if config.uses_drawn_faces:
        return _drawn_faces(config, resolution, show_progress)
    source = source or open_source(config)
    if wants_streaming(config, source):
        if isinstance(source, ContentSplit):
            raise UserError("--validation_fraction needs decoded images; omit it, or give --no-streaming.")
        skip_log = SkipLog((config.output_folder or Path()) / SKIPPED, config.max_skipped_fraction)
        return StreamedData(
            source,
            resolution,
            config.center_crop,
            config.preserve_input_precision,
            config.seed,
            config.shuffle_buffer_size,
            skip_log,
        )
    dtype = "float32" if config.preserve_input_precision else "uint8"
    labels = source.labels.names if source.labels else None
    key = CacheKey(source.name, source.fingerprint, resolution, config.center_crop, dtype, labels)
    enlarged: list[int] = []
    images = decoded(source, key, enlarged)
    entry = find_or_build(key, images, cache_root(config.cache_dir), source.num_images, show_progress, enlarged)
    check_skipped(
        entry.num_skipped, entry.num_images + entry.num_skipped, config.max_skipped_fraction, entry.folder / SKIPPED
    )
    if show_progress:  # once on each machine
        warn_of_repeats(entry, source)
        warn_of_enlarged(entry)
    return CachedData(entry, source.identity, config.seed, _num_held_out(source, entry))


def _num_held_out(source: Source, entry: CacheEntry) -> int:
    """Images on the other side of a `--validation_fraction`; 0 where they are not counted."""
    known = isinstance(source, ContentSplit) and source.whole.num_images
    return known - entry.num_images - entry.num_skipped if known else 0


def warn_of_enlarged(entry: CacheEntry) -> None:
    """Log how many pictures have fewer pixels than the resolution, which teaches the network to blur."""
    if entry.num_enlarged:
        side = entry.key.resolution
        logger.warning(
            "%s of %s pictures are smaller than %d x %d pixels and were enlarged, which teaches blur; leave them out, "
            "or lower --resolution.",
            f"{entry.num_enlarged:,}", f"{entry.num_images:,}", side, side,
        )  # fmt: skip


def wants_streaming(config: DataConfig, source: Source) -> bool:
    """`--streaming`, or by default whether the data set is on the Hub and larger than `--cache_limit_gb`."""
    if config.streaming is not None:
        return config.streaming
    return source.remote and source.num_bytes > config.cache_limit_gb * 1e9


def _drawn_faces(config: DataConfig, resolution: int, show_progress: bool) -> CachedData:
    """The project's own faces, cached under the very code that draws them."""
    code = b"".join(Path(module.__file__).read_bytes() for module in (drawn_faces, drawn_faces_parts))
    fingerprint = hashlib.sha256(code + f"{NUM_DRAWN_FACES} {config.seed}".encode()).hexdigest()[:16]

    def faces():
        yield from drawn_faces.draw_faces(NUM_DRAWN_FACES, resolution, config.seed).transpose(0, 3, 1, 2)

    key = CacheKey("drawn faces", fingerprint, resolution, True, "uint8")
    entry = find_or_build(key, faces(), cache_root(config.cache_dir), NUM_DRAWN_FACES, show_progress)
    return CachedData(entry, fingerprint, config.seed)


def prepare_batch(batch: torch.Tensor, mirrored: torch.Tensor | None = None) -> torch.Tensor:
    """Scale a whole batch to [-1, 1] in float32 on its device, and mirror some of its images.

    Args:
        batch: `(B, 3, R, R)`, uint8, or float32 in [0, 1].
        mirrored: `(B,)`, true for those that are to be mirrored; on the batch's device. None for none of them.
    """
    if mirrored is not None:
        # choosing rows of the batch beside its mirror image copies whole images, and a GPU need not wait for the coins
        rows = torch.arange(len(batch), device=batch.device) + mirrored * len(batch)
        batch = torch.cat([batch, batch.flip(-1)]).index_select(0, rows)
    return batch.float().mul_(1 / 127.5).sub_(1) if batch.dtype == torch.uint8 else batch.mul(2).sub_(1)
