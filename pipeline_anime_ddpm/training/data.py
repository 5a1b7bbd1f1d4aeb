"""Training images: found, decoded once, and served in an endless order that depends only on the seed."""

from __future__ import annotations

import io
import logging
import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import psutil
import torch
from datasets.exceptions import DatasetsError
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from .config import NUM_DRAWN_FACES, TrainingConfig
from .drawn_faces import draw_faces
from .errors import HUB_ERRORS, UserError, first_line

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(Image.registered_extensions())
NAMED_AT_MOST = 20  # skipped images
TABLE_SUFFIXES = frozenset({".parquet", ".arrow"})


def load_images(config: TrainingConfig, resolution: int, show_progress: bool = True) -> list[torch.Tensor]:
    """Find the images that `config` names and hold them decoded in memory.

    Args:
        resolution: the shorter side of every returned image, in pixels.

    Returns:
        One tensor `(3, h, w)` an image with `min(h, w) == resolution`: uint8, or float32 in [0, 1] with
        `--preserve_input_precision`. Undecodable images are left out and named in one warning.

    Raises:
        UserError: if there is no data set, no image in it, or not enough memory for it.
    """
    if config.uses_drawn_faces:
        return list(torch.from_numpy(draw_faces(NUM_DRAWN_FACES, resolution, config.seed)).permute(0, 3, 1, 2))
    source = _open_dataset(config)
    column = _image_column(source)
    source = source.select_columns(column).cast_column(column, datasets.Image(decode=False))
    _check_memory(len(source), resolution, config.preserve_input_precision)
    files = (row[column] for row in source)
    return _decode_all(files, len(source), resolution, config.preserve_input_precision, show_progress)


def _open_dataset(config: TrainingConfig) -> datasets.Dataset:
    name = config.dataset_name or config.train_data_dir
    options = {"cache_dir": config.cache_dir, "split": "train"}
    try:
        if config.dataset_name is not None:
            return datasets.load_dataset(name, config.dataset_config_name, **options)
        if _suffixes(Path(name)) & TABLE_SUFFIXES:
            return datasets.load_dataset(name, **options)
        # only the images count: captions and other files that lie beside them are no second column of the data
        return datasets.load_dataset("imagefolder", data_dir=name, drop_labels=True, drop_metadata=True, **options)
    except (*HUB_ERRORS, DatasetsError) as error:
        raise UserError(
            f"The data set {name!r} cannot be loaded ({first_line(error)}); check its name or path."
        ) from error


def check_source(config: TrainingConfig) -> None:
    """Raise a UserError for a `--train_data_dir` without images, before anything else is done."""
    if config.dataset_name is not None and config.train_data_dir is not None:
        logger.warning("--train_data_dir is ignored, since --dataset_name is given.")
    if config.dataset_name is not None or config.train_data_dir is None:
        return
    folder = Path(config.train_data_dir)
    if not folder.is_dir():
        raise UserError(f"--train_data_dir {folder} is not a folder; give the folder that holds your images.")
    if not _suffixes(folder) & (IMAGE_SUFFIXES | TABLE_SUFFIXES | {".zip"}):
        raise UserError(f"--train_data_dir {folder} holds no images; put png, jpg, webp or parquet files in it.")


def _suffixes(folder: Path) -> set[str]:
    return {p.suffix.lower() for p in folder.rglob("*")}


def _image_column(source: datasets.Dataset) -> str:
    columns = [name for name, feature in source.features.items() if isinstance(feature, datasets.Image)]
    if len(columns) == 1:
        return columns[0]
    if "image" in source.column_names:
        return "image"
    raise UserError(
        f"The data set has the columns {', '.join(source.column_names)}, of which {len(columns)} hold images; "
        "name the one to train on `image`."
    )


def _check_memory(count: int, resolution: int, as_float: bool) -> None:
    needed = count * 3 * resolution**2 * (4 if as_float else 1)
    available = psutil.virtual_memory().available
    if needed > 0.8 * available:
        raise UserError(
            f"{count:,} images of {resolution} pixels need {needed / 2**30:.1f} GiB of memory, more than is free; "
            "lower --resolution or train on a part of the data set."
        )


def _decode_all(
    files: Iterable[dict], count: int, resolution: int, as_float: bool, show_progress: bool
) -> list[torch.Tensor]:
    """Decode in threads (Pillow lets go of the interpreter while it works), in the order of `files`."""

    def decode(file: dict) -> torch.Tensor | str:
        if file is None:
            return "an empty row"
        try:
            return decode_image(file["bytes"] or Path(file["path"]).read_bytes(), resolution, as_float)
        except UnidentifiedImageError:
            return f"{file['path'] or 'an image without a name'} (not an image)"
        except Exception as error:  # Pillow's decoders raise almost anything on a broken file
            return f"{file['path'] or 'an image without a name'} ({error})"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = tqdm(total=count, desc="Decoding", unit="image", disable=not show_progress, leave=False)
        results = []
        for batch in _in_batches(files, 1024):  # bounded, so that the encoded files are never all in memory
            results += pool.map(decode, batch)
            bar.update(len(batch))
        bar.close()
    skipped = [r for r in results if isinstance(r, str)]
    images = [r for r in results if isinstance(r, torch.Tensor)]
    if not images:
        raise UserError(f"None of the {count:,} images can be decoded; the first is {skipped[0]}.")
    if skipped:
        named = "; ".join(skipped[:NAMED_AT_MOST]) + (" …" if len(skipped) > NAMED_AT_MOST else "")
        logger.warning("Skipped %d of %d images that cannot be decoded: %s", len(skipped), count, named)
    return images


def _in_batches(items: Iterable, size: int) -> Iterator[list]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def decode_image(content: bytes, resolution: int, as_float: bool = False) -> torch.Tensor:
    """Decode one image file and resize its shorter side to `resolution` pixels (bilinear, antialiased).

    Returns:
        `(3, h, w)` RGB: uint8, or float32 in [0, 1] if `as_float`.
    """
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    scale = resolution / min(image.size)
    size = tuple(max(resolution, round(side * scale)) for side in image.size)
    if not as_float:
        pixels = np.array(_to_rgb(image).resize(size, Image.Resampling.BILINEAR))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    pixels = _precise_pixels(image)
    return torch.nn.functional.interpolate(
        pixels[None], size=size[::-1], mode="bilinear", antialias=True, align_corners=False
    )[0].clamp(0, 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB as the eye expects it: transparency on white, 16-bit and float grey scaled rather than cut off."""
    if image.mode == "F":
        values = np.asarray(image)
        image = Image.fromarray((values * (255 if values.max() <= 1 else 1)).clip(0, 255).astype(np.uint8))
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _precise_pixels(image: Image.Image) -> torch.Tensor:
    """`(3, h, w)` float32 in [0, 1] without a detour through 8 bits; only float images are already in that range."""
    if image.mode == "F":
        values, top = np.asarray(image, np.float32), 1.0
    elif image.mode.startswith("I"):
        values, top = np.asarray(image).astype(np.float32), 65535.0
    else:
        values, top = np.asarray(_to_rgb(image), np.float32), 255.0
    pixels = torch.from_numpy(values / top)
    return pixels.permute(2, 0, 1).contiguous() if pixels.ndim == 3 else pixels.expand(3, -1, -1)


class ImageStream(Dataset):
    """The endless shuffled stream of a data set, addressed by position.

    Epoch `e` is the permutation drawn from (seed, e), and the stream is all epochs one after another. So the image
    at a position, and its crop, depend on nothing but the seed: a run that starts in the middle, or on another
    number of ranks, sees exactly what it would have seen.
    """

    def __init__(self, images: list[torch.Tensor], resolution: int, center_crop: bool, seed: int):
        self.images, self.resolution, self.center_crop, self.seed = images, resolution, center_crop, seed
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def index_at(self, position: int) -> int:
        """Which image of the data set stands at `position` (>= 0) of the stream."""
        epoch, offset = divmod(position, len(self.images))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
        return int(self._order[offset])

    def __getitem__(self, position: int) -> torch.Tensor:
        image = self.images[self.index_at(position)]
        room = [side - self.resolution for side in image.shape[1:]]
        if not any(room):
            return image
        if self.center_crop:
            top, left = (r // 2 for r in room)
        else:
            top, left = np.random.default_rng([self.seed, 1, position]).integers(0, room, endpoint=True)
        return image[:, top : top + self.resolution, left : left + self.resolution]


def step_positions(first_step: int, last_step: int, rank_batch: int, rank: int, world: int) -> Iterator[list[int]]:
    """The stream positions that a rank trains on in each optimiser step of [first_step, last_step)."""
    for step in range(first_step, last_step):
        start = (step * world + rank) * rank_batch
        yield list(range(start, start + rank_batch))


def _leave_ctrl_c(worker: int) -> None:
    """Ctrl-C reaches workers too; the main process decides, and still needs their batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def build_loader(stream: ImageStream, positions: Iterable[list[int]], num_workers: int) -> DataLoader:
    """Batches `(rank_batch, 3, R, R)`, one for each list of positions."""
    return DataLoader(
        stream,
        batch_sampler=positions,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_ctrl_c,
    )


def prepare_batch(batch: torch.Tensor, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Scale a whole batch to [-1, 1] in float32 on its device and mirror about half of its images.

    Args:
        batch: `(B, 3, R, R)`, uint8, or float32 in [0, 1].
        generator: where the coin for each image comes from; on the batch's device.
    """
    clean = batch.float() / 127.5 - 1 if batch.dtype == torch.uint8 else batch * 2 - 1
    if flip:
        heads = torch.rand(len(batch), generator=generator, device=batch.device) < 0.5
        clean = torch.where(heads[:, None, None, None], clean.flip(-1), clean)
    return clean


ImageFile.LOAD_TRUNCATED_IMAGES = False  # a half-downloaded file is skipped and named, not trained on
