"""Where the encoded images come from: the folder or data set that the user names, and what kind of files it has."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import datasets
from huggingface_hub import HfFileSystem

from ..common.errors import UserError, first_line
from ..common.parsing import few_aliases
from .config import DataConfig
from .decoding import IMAGE_SUFFIXES
from .labels import is_metadata, label_features
from .own_files import looking_only_into
from .tables import ParquetFiles, Tables, image_column
from .units import DataFile, ImageFiles, Source, TarFiles

logger = logging.getLogger(__name__)

# Words for splits, as in `datasets`: names of folders, and parts of the names of tars.
SPLIT_WORDS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "dev", "val"},
    "test": {"test", "testing", "eval", "evaluation"},
}
TABLE_SUFFIXES = frozenset({".parquet", ".arrow"})
ARCHIVE_SUFFIXES = frozenset({".zip"})
BUILDERS = frozenset({"parquet", "arrow", "imagefolder"})  # of `datasets`, whose files are opened; we read tars


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
    if not any(p.suffix.lower() in _DATA_SUFFIXES for p in folder.rglob("*")):
        raise UserError(f"--train_data_dir {folder} holds no images; put png, jpg, webp, parquet or tar files in it.")


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


_DATA_SUFFIXES = IMAGE_SUFFIXES | TABLE_SUFFIXES | ARCHIVE_SUFFIXES | {".tar"}


def open_source(config: DataConfig, split: str = "train") -> Source:
    """Find the images that `config` names, without reading them.

    Args:
        split: of the data set; see `by_split` for folders of images and tars.

    Raises:
        UserError: if they cannot be found, or it is not clear which column holds them.
    """
    with _one_sentence(config):
        folder = _own_folder(config)
        source = _open_dataset(config, split) if folder is None else _open_folder(config, folder, split)
    if source.num_images == 0:
        raise UserError(f"The data set {source.name!r} holds no images; put some into it, or choose another.")
    return source


def available_splits(config: DataConfig) -> list[str]:
    """The splits of `--dataset_name`: of a folder of images or tars by `by_split`, else as `datasets` tells them.

    Raises:
        UserError: if the data set cannot be found.
    """
    with _one_sentence(config):
        folder = _own_folder(config)
        if folder is None:
            return [str(name) for name in _builder(config).config.data_files or {}]
        files = _files_by_kind(folder)
        return list(by_split(files["tar"] or files["image"], folder))


@contextlib.contextmanager
def _one_sentence(config: DataConfig) -> Iterator[None]:
    """What libraries say of a data set that cannot be loaded, as one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of a broken file or README.md, almost anything
        name, lines = config.name, str(error).splitlines()
        if len(lines) > 1 and lines[0].startswith("Config name is missing"):
            names = lines[1].partition("[")[2].rstrip("]")
            raise UserError(f"{name} has several configurations ({names}); give --dataset_config_name.") from error
        raise UserError(
            f"The data set {name!r} cannot be loaded ({first_line(error)}); check its name or path, and its files."
        ) from error


def _own_folder(config: DataConfig) -> Path | None:
    """The folder that is read by our own rules: every `--train_data_dir`, and a `--dataset_name` of images or tars.

    So the training and the evaluation agree on what is held out.
    """
    if config.dataset_name is None:
        return Path(config.train_data_dir)
    folder = Path(config.dataset_name)
    if not folder.is_dir() or config.dataset_config_name is not None or _has_configurations(folder):
        return None
    files = _files_by_kind(folder)
    return None if files["table"] or files["archive"] or not (files["tar"] or files["image"]) else folder


def _has_configurations(folder: Path) -> bool:
    """Whether its README.md tells `datasets` which files are what."""
    page = folder / "README.md"
    return page.is_file() and re.search("^configs:", page.read_text(errors="replace"), re.MULTILINE) is not None


def _files_by_kind(folder: Path) -> dict[str, list[Path]]:
    by_kind: dict[str, list[Path]] = {"table": [], "tar": [], "archive": [], "image": []}
    for path in sorted(folder.rglob("*")):
        kind = _kind(path.name)
        if kind in by_kind and path.is_file():
            by_kind[kind].append(path)
    return by_kind


def by_split(paths: list[Path], folder: Path) -> dict[str, list[Path]]:
    """The files of each split of a folder of images or tars.

    A file belongs to the split that the topmost folder above it is named for or, if it is a tar, that a word of its
    name stands for. Unless some are so named for training and some as held out, or all as held out, all are for
    training.
    """
    found: dict[str, list[Path]] = {}
    for path in paths:
        place = path.relative_to(folder)
        words = {part.lower() for part in place.parts[:-1][:1]}
        if place.suffix.lower() == ".tar":
            words |= set(re.findall("[a-z]+", place.stem.lower()))
        split = next((split for split in SPLIT_WORDS if words & SPLIT_WORDS[split]), None)
        if split is not None:
            found.setdefault(split, []).append(path)
    is_whole = sum(map(len, found.values())) == len(paths)
    has_held_out = bool(found.keys() - {"train"})
    return found if has_held_out and ("train" in found or is_whole) else {"train": paths}


def _chosen(paths: list[Path], folder: Path, split: str, is_told: bool) -> list[Path]:
    """Those of a split, and if asked for a word about the others."""
    splits = by_split(paths, folder)
    if split not in splits:
        raise UserError(
            f"The data set {str(folder)!r} has no {split} split (it has {', '.join(splits)}); choose another."
        )
    if is_told and len(splits) > 1:
        others = ", ".join(f"{len(files):,} of {name}" for name, files in splits.items() if name != split)
        logger.warning("%s has splits: %d files of %s are used, and not %s.", folder, len(splits[split]), split, others)
    return splits[split]


def _open_folder(config: DataConfig, folder: Path, split: str) -> Source:
    by_kind, is_told = _files_by_kind(folder), config.dataset_name is None
    if by_kind["table"]:
        return _open_dataset(config, split)
    if by_kind["tar"]:
        paths = _chosen(by_kind["tar"], folder, split, is_told)
        files = _local_files(paths, folder)
        return TarFiles(str(folder), [*map(str, paths)], files, False, config.image_column, config.label_names)
    if by_kind["archive"]:  # without labels, only the images count, and not the captions that may lie beside them
        options = dict.fromkeys(("drop_labels", "drop_metadata"), not config.label_names)
        return _tables(config, datasets.load_dataset_builder("imagefolder", data_dir=str(folder), **options), split)
    paths = _chosen(by_kind["image"], folder, split, is_told)
    source = ImageFiles(str(folder), [*map(str, paths)], _local_files(paths, folder))
    if config.label_names:
        metadata = sorted(path for path in folder.rglob("*") if is_metadata(path.name) and path.is_file())
        source.add_labels([*map(str, metadata)], _local_files(metadata, folder), config.label_names)
    return source


def _tell_of_links(paths: list[Path], folder: Path) -> None:
    """Links to files are followed, for data sets are often made of them; those to folders are not."""
    inside = folder.resolve()
    outside = [path for path in paths if path.is_symlink() and not path.resolve().is_relative_to(inside)]
    if outside:
        logger.warning(
            "%d of the %d files are links that lead out of %s, such as %s; they are trained on as well.",
            len(outside),
            len(paths),
            folder,
            outside[0].relative_to(folder),
        )


def _kind(name: str) -> str | None:
    suffix = PurePosixPath(name).suffix.lower()
    if PurePosixPath(name).name.startswith("."):
        return None
    kinds = {"table": TABLE_SUFFIXES, "tar": {".tar"}, "archive": ARCHIVE_SUFFIXES, "image": IMAGE_SUFFIXES}
    return next((kind for kind, suffixes in kinds.items() if suffix in suffixes), None)


def _builder(config: DataConfig) -> datasets.DatasetBuilder:
    name = config.name
    if name.startswith(("http://", "https://")):
        raise UserError(f"{name} is an address; give a folder of this machine or the name of a data set on the Hub.")
    with looking_only_into(name), few_aliases():
        return datasets.load_dataset_builder(name, config.dataset_config_name, cache_dir=config.cache_dir)


def _open_dataset(config: DataConfig, split: str) -> Source:
    name = config.name
    builder = _builder(config)
    paths = _split_paths(builder, name, split)
    kinds = {_kind(path) for path in paths} - {None}  # beside images, metadata files
    if kinds == {"tar"}:
        paths = [p for p in paths if _kind(p) == "tar"]
        return TarFiles(name, paths, *_facts(paths), config.image_column, config.label_names)
    if kinds == {"image"}:
        images, metadata = ([p for p in paths if test(p)] for test in (lambda p: _kind(p) == "image", is_metadata))
        source = ImageFiles(name, images, *_facts(images))
        if config.label_names:
            source.add_labels(metadata, _facts(metadata)[0] if metadata else [], config.label_names)
        return source
    return _tables(config, builder, split)


def _split_paths(builder: datasets.DatasetBuilder, name: str, split: str) -> list[str]:
    data_files = builder.config.data_files or {}
    if split not in data_files:
        there = ", ".join(map(str, data_files)) or "no files"
        raise UserError(f"The data set {name!r} has no {split} split (it has {there}); choose another.")
    return list(data_files[split])


def _tables(config: DataConfig, builder: datasets.DatasetBuilder, split: str) -> Source:
    name = config.name
    paths = _split_paths(builder, name, split)
    if builder.info.builder_name not in BUILDERS:  # of others, some follow links in their files to anywhere
        raise UserError(
            f"The data set {name!r} is made of files such as {PurePosixPath(paths[0]).name}; give one of images, "
            "parquet, arrow, tar or zip files, and of one kind alone."
        )
    files, remote = _facts(paths)
    dataset = builder.as_streaming_dataset(split=split)
    column = image_column(dataset, config.image_column)
    labels = label_features(dataset.features, config.label_names, column, name) if config.label_names else None
    if builder.info.builder_name == "parquet":
        return ParquetFiles(name, paths, files, remote, column, labels)
    return Tables(name, dataset, files, paths, remote, column, labels)


def _facts(paths: list[str]) -> tuple[list[DataFile], bool]:
    """Names, sizes and versions of files here or on the Hub, and whether they are remote."""
    if not any("://" in path for path in paths):
        common = Path(os.path.commonpath(paths))
        return _local_files([Path(p) for p in paths], common if common.is_dir() else common.parent), False
    hub, files = HfFileSystem(), []
    for path in paths:
        facts = hub.info(path)
        content = facts.get("lfs") or {}
        name = path.partition("@")[2].partition("/")[2] or path
        files.append(DataFile(name, facts["size"], content.get("sha256") or facts.get("blob_id") or path))
    return files, True


def _local_files(paths: list[Path], folder: Path) -> list[DataFile]:
    _tell_of_links(paths, folder)
    facts = ((path, path.stat()) for path in paths)
    return [DataFile(path.relative_to(folder).as_posix(), s.st_size, str(s.st_mtime_ns)) for path, s in facts]
