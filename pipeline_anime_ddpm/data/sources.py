"""Where the encoded images come from: the folder or data set that the user names, and what kind of files it has."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..common.errors import UserError, first_line
from .config import DataConfig
from .files.card import Configuration, files_by_patterns, read_configuration
from .files.kinds import CARD, counted, holds_data
from .files.places import Place, hub_place, local_place
from .files.splits import as_datasets, by_split, chosen
from .files.zips import ZipFiles
from .labels import label_features
from .tables import ArrowFiles, ParquetFiles, features_of, image_column
from .units import ImageFiles, Source, TarFiles

logger = logging.getLogger(__name__)

READ = ("table", "tar", "zip", "image")  # the first of these kinds that a data set has is read
KINDS = {"table": "table", "tar": "tar", "zip": "zip", "image": "image file"}


def check_source(config: DataConfig) -> None:
    """Look at a folder of images before anything else is done.

    Raises:
        UserError: if a `--train_data_dir` is none or holds no images, or the run would write among its own data.
    """
    if config.dataset_name is not None and config.train_data_dir is not None:
        logger.warning("--train_data_dir is ignored, since --dataset_name is given.")
    _check_outside(config)
    if config.dataset_name is not None or config.train_data_dir is None:
        return
    folder = Path(config.train_data_dir)
    if "://" in config.train_data_dir:
        raise UserError(
            f"--train_data_dir {config.train_data_dir} is an address, and only folders of this machine are read; "
            "download it, or put it on the Hub and give that as --dataset_name."
        )
    if not folder.is_dir():
        raise UserError(f"--train_data_dir {folder} is not a folder; give the folder that holds your images.")
    if not holds_data(folder):
        others = local_place(folder).listing.left_out.summary
        raise UserError(
            f"--train_data_dir {folder} holds no images{f' ({others})' if others else ''}; put png, jpg, webp, "
            "parquet, tar or zip files in it."
        )


def _check_outside(config: DataConfig) -> None:
    name = config.name
    if name is None or not os.path.isdir(name):
        return
    for flag, folder in (("--output_dir", config.output_folder), ("--cache_dir", config.cache_dir)):
        if folder is not None and Path(folder).resolve().is_relative_to(Path(name).resolve()):
            raise UserError(
                f"{flag} {folder} is inside of the data folder {name}, and what is written there would be taken for "
                "data; choose a folder elsewhere."
            )


def open_source(config: DataConfig, split: str = "train") -> Source:
    """Find the images that `config` names, without reading them.

    Args:
        split: of the data set; see `files.splits`.

    Raises:
        UserError: if they cannot be found, or it is not clear which column holds them.
    """
    with _one_sentence(config):
        found = _find(config)
        names = chosen(found.splits, split, found.place.name, found.num_files, config.dataset_name is None)
        source = _SOURCES[found.kind](config, found, names)
    if source.num_images == 0:
        raise UserError(f"The data set {source.name!r} holds no images; put some into it, or choose another.")
    found.place.listing.left_out.warn(source.name)
    return source


def available_splits(config: DataConfig) -> list[str]:
    """The splits of `--dataset_name`.

    Raises:
        UserError: if the data set cannot be found.
    """
    with _one_sentence(config):
        return list(_find(config).splits)


@contextlib.contextmanager
def _one_sentence(config: DataConfig) -> Iterator[None]:
    """What libraries say of a data set that cannot be loaded, as one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of a broken file or README.md, almost anything
        raise UserError(
            f"The data set {config.name!r} cannot be loaded ({first_line(error)}); check its name or path, and its "
            "files."
        ) from error


@dataclass(frozen=True)
class Found:
    """What is read of a data set.

    Attributes:
        kind: of the files that are read, one of `READ`.
        splits: the files of each split.
        num_files: of that kind, in all splits and in none.
        is_shortened: whether the files are named within the folder that all of them share.
    """

    place: Place
    kind: str
    splits: dict[str, list[str]]
    num_files: int
    configuration: Configuration
    is_shortened: bool


def _find(config: DataConfig) -> Found:
    place = _place(config)
    by_kind = place.listing.by_kind
    has_tables = bool(by_kind["table"])
    configuration = Configuration()
    if config.dataset_name is not None or has_tables:  # a folder of images is as its user sees it
        configuration = read_configuration(place, config.dataset_config_name, has_tables)
    if configuration.patterns is not None:
        return _find_named(config, place, configuration)
    inside = f"{configuration.folder}/" if configuration.folder else ""
    if inside:
        by_kind = {kind: [n for n in names if n.startswith(inside)] for kind, names in by_kind.items()}
    kind = _kind_read(config, place, by_kind, configuration)
    names = by_kind[kind]
    if kind in ("image", "tar") and not place.remote and not inside:
        splits = by_split(names)
    else:
        found = as_datasets([name.removeprefix(inside) for name in names], by_file_name=kind != "image")
        splits = {split: [inside + name for name in files] for split, files in found.items()}
    return Found(place, kind, splits, len(names), configuration, kind in ("table", "zip") or bool(inside))


def _find_named(config: DataConfig, place: Place, configuration: Configuration) -> Found:
    """Files that the README.md names one by one."""
    inside = f"{configuration.folder}/" if configuration.folder else ""
    patterns = {
        split: [pattern if pattern.startswith("/") else inside + pattern for pattern in wanted]
        for split, wanted in configuration.patterns.items()
    }
    splits = files_by_patterns(place, patterns)
    named = {name for files in splits.values() for name in files}
    by_kind = {kind: [n for n in names if n in named] for kind, names in place.listing.by_kind.items()}
    kinds = [kind for kind in READ if by_kind[kind]]
    if len(kinds) != 1:
        raise _other_files(place, sorted(named))
    kept = {split: [name for name in files if name in set(by_kind[kinds[0]])] for split, files in splits.items()}
    return Found(place, kinds[0], kept, len(by_kind[kinds[0]]), configuration, True)


def _place(config: DataConfig) -> Place:
    name = config.name
    if name.startswith(("http://", "https://")):
        raise UserError(f"{name} is an address; give a folder of this machine or the name of a data set on the Hub.")
    if config.dataset_name is None or os.path.isdir(name):
        return local_place(Path(name))
    if os.path.exists(name):
        raise UserError(f"{name} is a file; give the folder that holds it.")
    return hub_place(name)


def _kind_read(config: DataConfig, place: Place, by_kind: dict[str, list[str]], configuration: Configuration) -> str:
    """The kind of files that is read, and a word about others beside them.

    Raises:
        UserError: if there is none, or it cannot be told which one is meant.
    """
    kinds = [kind for kind in READ if by_kind[kind]]
    if not kinds:
        raise _other_files(place, by_kind["other"])
    if "image" in kinds and "table" in kinds and not _has_images(config, place, by_kind["table"][0], configuration):
        kinds.remove("table")  # such as captions beside the images
        for name in by_kind["table"]:
            place.listing.left_out.add(name)
    if len(kinds) == 1:
        return kinds[0]
    counts = " and ".join(counted(len(by_kind[kind]), KINDS[kind]) for kind in kinds)
    # such as an example beside the data; of the Hub, the files are as they are
    if place.remote or kinds in (["table", "image"], ["tar", "image"]):
        logger.warning(
            "%s holds %s: only the %ss are read; to train on the others, put them into a folder of their own.",
            place.name, counts, KINDS[kinds[0]],
        )  # fmt: skip
        return kinds[0]
    raise UserError(
        f"{place.name} holds {counts} beside each other, perhaps the same images twice; put those to train on into a "
        "folder of their own."
    )


def _has_images(config: DataConfig, place: Place, table: str, configuration: Configuration) -> bool:
    try:
        image_column(configuration.features or features_of(table, place.path(table)), config.image_column)
    except UserError:
        return False
    return True


def _other_files(place: Place, names: Sequence[str]) -> UserError:
    others = [name for name in names if name != CARD]
    if not others:
        return UserError(f"The data set {place.name!r} holds no images; put some into it, or choose another.")
    return UserError(
        f"The data set {place.name!r} is made of files such as {PurePosixPath(others[0]).name}; give one of images, "
        "parquet, arrow, tar or zip files, and of one kind alone."
    )


def _open_images(config: DataConfig, found: Found, names: list[str]) -> Source:
    place = found.place
    files = place.files(names, found.is_shortened)
    source = ImageFiles(place.name, [*map(place.path, names)], files, place.remote)
    if config.label_names:
        metadata = place.listing.by_kind["metadata"]
        source.add_labels([*map(place.path, metadata)], place.files(metadata), config.label_names)
    return source


def _open_tars(config: DataConfig, found: Found, names: list[str]) -> Source:
    place = found.place
    paths, files = [*map(place.path, names)], place.files(names, found.is_shortened)
    return TarFiles(place.name, paths, files, place.remote, config.image_column, config.label_names)


def _open_zips(config: DataConfig, found: Found, names: list[str]) -> Source:
    place = found.place
    paths, files = [*map(place.path, names)], place.files(names, found.is_shortened)
    return ZipFiles(place.name, paths, files, place.remote, config.label_names)


def _open_tables(config: DataConfig, found: Found, names: list[str]) -> Source:
    place = found.place
    suffixes = {PurePosixPath(name).suffix.lower() for name in names}
    if len(suffixes) > 1:
        raise _other_files(place, names)
    features = found.configuration.features or features_of(names[0], place.path(names[0]))
    column = image_column(features, config.image_column)
    labels = label_features(features, config.label_names, column, place.name) if config.label_names else None
    source = ParquetFiles if suffixes == {".parquet"} else ArrowFiles
    paths, files = [*map(place.path, names)], place.files(names, found.is_shortened)
    return source(place.name, paths, files, place.remote, column, labels)


_SOURCES = {"table": _open_tables, "tar": _open_tars, "zip": _open_zips, "image": _open_images}
