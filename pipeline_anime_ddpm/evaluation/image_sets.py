"""What is compared: a split of a data set, or a folder of images, as one array of equal squares."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_anime_ddpm.pipeline_anime_ddpm import open_picture, to_mode

from ..common.errors import UserError, first_line
from ..data.cache import SKIPPED, CacheKey, cache_root, decoded, find_or_build
from ..data.config import DataConfig
from ..data.decoding import check_size
from ..data.files.kinds import list_folder
from ..data.reading import check_skipped
from ..data.sources import available_splits, open_source
from .metrics.digests import pixel_digest

HELD_OUT = ("validation", "test")  # splits that no model should have seen, in the order of preference
CHOICE_SEED = 0  # of the images that are taken where fewer are wanted than there are


@dataclass(frozen=True)
class ImageSet:
    """Images of one size.

    Attributes:
        pixels: `(n, 3, R, R)` uint8, perhaps mapped from disk.
        source: the data set or folder as the user named it.
        split: of a data set; None for a folder.
    """

    pixels: np.ndarray
    source: str
    split: str | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def resolution(self) -> int:
        return self.pixels.shape[-1]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the decoded pixels in their order: what numbers are compared by, and statistics cached."""
        return pixel_digest(self.pixels)

    def take(self, count: int) -> ImageSet:
        """`count` of the images, the same ones every time; all if there are no more."""
        if count >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(CHOICE_SEED).permutation(len(self))[:count])
        return replace(self, pixels=self.pixels[chosen])

    @property
    def facts(self) -> dict[str, Any]:
        """What a number must be reported with."""
        facts = {"source": self.source, "split": self.split, "n": len(self), "resolution": self.resolution}
        return facts | {"fingerprint": self.fingerprint}


@dataclass(frozen=True)
class DataSet:
    """A data set by name, whose splits are opened when they are needed.

    Attributes:
        name: Hub id or local folder, as `datasets.load_dataset` takes it.
        config_name, image_column, cache_dir, max_skipped_fraction: as in training.
    """

    name: str
    config_name: str | None = None
    image_column: str | None = None
    cache_dir: str | None = None
    max_skipped_fraction: float = DataConfig.max_skipped_fraction

    @property
    def _config(self) -> DataConfig:
        return DataConfig(
            dataset_name=self.name,
            dataset_config_name=self.config_name,
            image_column=self.image_column,
            cache_dir=self.cache_dir,
        )

    @functools.cached_property
    def splits(self) -> list[str]:
        """Raises a UserError if there is no such data set."""
        return available_splits(self._config)

    def held_out(self, asked: str | None = None) -> str:
        """The split to compare with: the one that is asked for, or one that no model has seen, or else train."""
        if asked is not None and asked not in self.splits:
            raise UserError(f"--split {asked} is not one of {', '.join(self.splits) or 'the splits'} of {self.name}.")
        return asked or next((split for split in HELD_OUT if split in self.splits), "train")

    def open(self, split: str, resolution: int, show_progress: bool = False) -> ImageSet:
        """All images of `split`, their middle squares resized to `resolution` pixels as in training; decoded once.

        Raises:
            UserError: if there is no such split, no image in it, or too much of it is broken.
        """
        source = open_source(self._config, split)
        key = CacheKey(source.name, source.fingerprint, resolution, True, "uint8")
        root = cache_root(self.cache_dir)
        entry = find_or_build(key, decoded(source, key), root, source.num_images, show_progress)
        total = entry.num_images + entry.num_skipped
        check_skipped(entry.num_skipped, total, self.max_skipped_fraction, entry.folder / SKIPPED)
        return ImageSet(entry.pixels().reshape(-1, 3, resolution, resolution), self.name, split)


def read_folder(folder: Path, most: int | None = None) -> ImageSet:
    """Finished images, exactly as they are: nothing is resized, cropped, turned or left out.

    Args:
        folder: nested folders are looked into.
        most: take the first ones by name, if there are more.

    Raises:
        UserError: if there is no image, one cannot be decoded or is not RGB or grey, or they differ in size.
    """
    if not folder.is_dir():
        raise UserError(f"--images {folder} is not a folder; give the folder that holds the generated images.")
    listing = list_folder(folder)
    paths = [folder / name for name in listing.by_kind["image"]]
    if not paths:
        others = listing.left_out.summary
        raise UserError(
            f"--images {folder} holds no images{f' ({others})' if others else ''}; put png, jpg or webp files in it."
        )
    listing.left_out.warn(f"--images {folder}")
    return ImageSet(read_images(paths[:most]), str(folder))


def read_images(paths: Sequence[Path]) -> np.ndarray:
    """`(n, 3, R, R)` uint8 of image files of one size; a UserError names the first that does not fit."""
    pixels, first = [], None
    for path in paths:
        try:
            image, _ = open_picture(path.read_bytes(), check_size)
        except Exception as error:  # decoders raise almost anything on a broken file
            raise UserError(f"{path} cannot be decoded ({first_line(error)}); remove it or put it right.") from error
        if image.mode not in ("RGB", "L", "I;16") or image.has_transparency_data:
            raise UserError(f"{path} is neither RGB nor grey but {image.mode}; save the images as 8-bit RGB.")
        first = first or image.size
        if image.size != first or image.width != image.height:
            raise UserError(
                f"{path} has {image.width} x {image.height} pixels, not {first[0]} x {first[0]}; the images must be "
                "squares of one size."
            )
        pixels.append(np.asarray(to_mode(image, "RGB")).transpose(2, 0, 1))
    return np.stack(pixels)
