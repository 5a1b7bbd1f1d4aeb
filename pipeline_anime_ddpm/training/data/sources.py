"""Where the encoded images come from: the folder or data set that the user names, as units that are read in order."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import datasets
import pyarrow.parquet
from datasets.exceptions import DatasetsError
from datasets.utils.file_utils import xopen
from huggingface_hub import HfFileSystem

from ..config import TrainingConfig
from ..errors import HUB_ERRORS, UserError, first_line
from .decoding import IMAGE_SUFFIXES, MOST_BYTES
from .own_files import is_row_within, looking_only_into

logger = logging.getLogger(__name__)

TABLE_SUFFIXES = frozenset({".parquet", ".arrow"})
ARCHIVE_SUFFIXES = frozenset({".zip"})
MOST_UNITS = 256  # of a folder of images: enough to mix, few enough to deal out at once
FEW_SHARDS = 64  # below this a table is read by row groups instead of files, where it has them
ROWS_AT_ONCE = 64
BUILDERS = frozenset({"parquet", "arrow", "imagefolder", "webdataset"})  # of `datasets`, whose files are opened


class EncodedImage(NamedTuple):
    """One image file: its content, or where to read it, or why it is not read."""

    name: str
    content: bytes | None
    path: str | None = None
    refused: str | None = None


class DataFile(NamedTuple):
    """A file of the data set. `version` changes with its content: the Hub's content id, or the time of change."""

    name: str
    size: int
    version: str


class Source(ABC):
    """The encoded images of a data set, in units (files, row groups) that can only be read from their beginning.

    Attributes:
        name: what the user called it.
        remote: whether reading goes over a network, and may have to be repeated.
        num_units: how many units there are.
        unit_sizes: images in each unit, corrupt ones included; None if that is known only after reading.
    """

    name: str
    remote: bool
    num_units: int
    unit_sizes: list[int] | None
    files: list[DataFile]
    column: str | None = None

    @abstractmethod
    def read(self, unit: int) -> Iterator[EncodedImage]:
        """The images of one unit, always in the same order."""

    @property
    def num_images(self) -> int | None:
        """How many images there are, corrupt ones included; None if that is known only after reading."""
        return None if self.unit_sizes is None else sum(self.unit_sizes)

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(f.size for f in self.files)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with every change of a file: what a cache is keyed by."""
        return _digest([self.column, *map(list, sorted(self.files))])

    @functools.cached_property
    def identity(self) -> str:
        """The same for a copy of the data elsewhere: what a resumed run is compared by."""
        return _digest([self.column, *([f.name, f.size] for f in sorted(self.files))])


def _digest(facts: list) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


class ImageFiles(Source):
    """Single image files. A unit is every n-th of them, so that it mixes the folders."""

    def __init__(self, name: str, paths: list[str], files: list[DataFile], remote: bool = False):
        self.name, self.paths, self.files, self.remote = name, paths, files, remote
        self.num_units = min(MOST_UNITS, len(paths))
        self.unit_sizes = [len(paths[unit :: self.num_units]) for unit in range(self.num_units)]

    def read(self, unit: int) -> Iterator[EncodedImage]:
        numbers = range(unit, len(self.paths), self.num_units)
        return (EncodedImage(self.files[n].name, None, self.paths[n]) for n in numbers)


def _open_tar(mode: str, size: int, **where: Any) -> tarfile.TarFile:
    """An archive of `size` bytes: uncompressed, so that no more comes out of it than there is in it.

    What is damaged in the middle is an error, which tarfile takes for the end. So is a member that goes back, which
    tarfile would read for ever, or beyond the end, which it would count up to.
    """

    class Member(tarfile.TarInfo):
        def _block(self, count: int) -> int:
            if not 0 <= count <= size:
                raise tarfile.ReadError(f"a member claims {count:,} bytes")
            return super()._block(count)

        @classmethod
        def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
            try:
                return super().fromtarfile(archive)
            except (
                tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError, ValueError, IndexError, RecursionError
            ) as error:  # fmt: skip
                raise tarfile.ReadError(f"damaged after {archive.offset:,} bytes: {error}") from error

    return tarfile.open(mode=mode, tarinfo=Member, **where)


class TarFiles(Source):
    """Tar archives of images, WebDataset's layout or any other; a unit is one archive.

    Nothing is unpacked to disk, so that a member's name is no more than a name; links and devices are passed over.
    Sparse files, which may be much larger than the archive, are left out.

    Args:
        column: WebDataset's field, such as `jpg` or `mask.png`; None for every image in the archives.
    """

    def __init__(self, name: str, paths: list[str], files: list[DataFile], remote: bool, column: str | None):
        self.name, self.paths, self.files, self.remote, self.column = name, paths, files, remote, column
        self.num_units = len(paths)
        self._check_fields()
        self.unit_sizes = None if remote else [*map(self._count, range(len(paths)))]

    def read(self, unit: int) -> Iterator[EncodedImage]:
        size = self.files[unit].size
        with xopen(self.paths[unit], "rb") as file, _open_tar("r|", size, fileobj=file) as archive:
            for member in filter(self._is_wanted, archive):
                name = f"{self.files[unit].name}/{member.name}"
                if member.size > MOST_BYTES:
                    yield EncodedImage(name, None, refused=f"a file of {member.size:,} bytes")
                elif member.issparse():
                    yield EncodedImage(name, None, refused="a sparse file, whose zeros are not in the tar")
                else:
                    yield EncodedImage(name, archive.extractfile(member).read())

    def _count(self, unit: int) -> int:
        with _open_tar("r:", self.files[unit].size, name=self.paths[unit]) as archive:
            return sum(map(self._is_wanted, archive))

    def _is_wanted(self, member: tarfile.TarInfo) -> bool:
        if not member.isfile() or PurePosixPath(member.name).name.startswith("."):
            return False
        if self.column is not None:
            return _field(member.name) == self.column.lower()
        return PurePosixPath(member.name).suffix.lower() in IMAGE_SUFFIXES

    def _check_fields(self) -> None:
        """Refuse archives whose examples hold two images each, such as a picture and its mask."""
        keys: dict[str, str] = {}
        size = self.files[0].size
        with xopen(self.paths[0], "rb") as file, _open_tar("r|", size, fileobj=file) as archive:
            for member in filter(self._is_wanted, archive):
                key, field = member.name[: -len(_field(member.name))], _field(member.name)
                if keys.setdefault(key, field) != field:
                    raise UserError(
                        f"The examples of {self.name} hold several images, {keys[key]} and {field}; name the one to "
                        f"train on, as in --image_column {keys[key]}."
                    )
                if len(keys) == 10:
                    return
        if not keys:
            raise UserError(
                f"{self.files[0].name} holds no images" + (f" named *.{self.column}." if self.column else ".")
            )


def _field(name: str) -> str:
    """WebDataset's name of a file's role in its example: all after the first dot."""
    return PurePosixPath(name).name.partition(".")[2].lower()


class Tables(Source):
    """A column of anything that `datasets` can stream: parquet, arrow, zipped folders. A unit is a shard."""

    def __init__(self, name: str, dataset: datasets.IterableDataset, files: list[DataFile], paths: list[str],
                 remote: bool, column: str | None):  # fmt: skip
        self.name, self.files, self.remote = name, files, remote
        if dataset.num_shards < FEW_SHARDS:
            dataset = dataset.reshard()
        self.column = _image_column(dataset, column)
        self.dataset = dataset.select_columns(self.column).cast_column(self.column, datasets.Image(decode=False))
        self.num_units = dataset.num_shards
        self.unit_sizes = _parquet_sizes(paths, self.num_units)
        self._own = frozenset(paths)

    def read(self, unit: int) -> Iterator[EncodedImage]:
        # `.iter` and not `iter()`, which inside a worker would deal the rows of this one shard to all workers
        shard = self.dataset.shard(self.num_units, unit)
        number = 0
        for rows in shard.iter(batch_size=ROWS_AT_ONCE):
            for row in rows[self.column]:
                row = row or {}
                name = row.get("path") or f"row {number} of part {unit}"
                yield self._image(name, row.get("bytes"), row.get("path"))
                number += 1

    def _image(self, name: str, content: bytes | None, path: str | None) -> EncodedImage:
        """A row of a table may name any file of this machine, or an address; only the data set's own are opened."""
        if content is None and path is not None and not is_row_within(path, self._own):
            return EncodedImage(name, None, refused="a row that points to a file outside of the data set")
        return EncodedImage(name, content, path)


def _parquet_sizes(paths: list[str], num_units: int) -> list[int] | None:
    """Images in each unit, from the footers of parquet files; None for other files."""
    if not all(path.endswith(".parquet") for path in paths):
        return None
    by_file, by_group = [], []
    for path in paths:
        with xopen(path, "rb") as file:
            footer = pyarrow.parquet.ParquetFile(file).metadata
        by_file.append(footer.num_rows)
        by_group += [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    return next((sizes for sizes in (by_file, by_group) if len(sizes) == num_units), None)


def _image_column(dataset: datasets.IterableDataset, asked: str | None) -> str:
    features = dataset.features or {}
    if asked is not None:
        if features and asked not in features:
            raise UserError(f"--image_column {asked} is not one of the columns {', '.join(features)}.")
        return asked
    for kind in (_is_image, _is_image_like):
        columns = [name for name, feature in features.items() if kind(feature)]
        if len(columns) == 1:
            return columns[0]
        if "image" in columns:
            return "image"
        if columns:
            break
    raise UserError(
        f"The data set has the columns {', '.join(features) or '(unknown)'}, of which {len(columns)} hold images; name "
        "the one to train on with --image_column."
    )


def _is_image(feature) -> bool:
    return isinstance(feature, datasets.Image)


def _is_image_like(feature) -> bool:
    """Encoded files in a table that `datasets` has not written: bytes, alone or beside a path."""
    if isinstance(feature, dict):
        feature = feature.get("bytes")
    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")


def check_source(config: TrainingConfig) -> None:
    """Raise a UserError for a `--train_data_dir` without images, before anything else is done."""
    if config.dataset_name is not None and config.train_data_dir is not None:
        logger.warning("--train_data_dir is ignored, since --dataset_name is given.")
    if config.dataset_name is not None or config.train_data_dir is None:
        return
    folder = Path(config.train_data_dir)
    if not folder.is_dir():
        raise UserError(f"--train_data_dir {folder} is not a folder; give the folder that holds your images.")
    if not any(p.suffix.lower() in _DATA_SUFFIXES for p in folder.rglob("*")):
        raise UserError(f"--train_data_dir {folder} holds no images; put png, jpg, webp, parquet or tar files in it.")


_DATA_SUFFIXES = IMAGE_SUFFIXES | TABLE_SUFFIXES | ARCHIVE_SUFFIXES | {".tar"}


def open_source(config: TrainingConfig, split: str = "train") -> Source:
    """Find the images that `config` names, without reading them.

    Args:
        split: of the data set; a `--train_data_dir` of images is all training images.

    Raises:
        UserError: if they cannot be found, or it is not clear which column holds them.
    """
    with _one_sentence(config):
        return _open_folder(config) if config.dataset_name is None else _open_dataset(config, split)


def available_splits(config: TrainingConfig) -> list[str]:
    """The splits of `--dataset_name`, as `datasets` tells them from the names of the files.

    Raises:
        UserError: if the data set cannot be found.
    """
    with _one_sentence(config):
        return [str(name) for name in _builder(config).config.data_files or {}]


@contextlib.contextmanager
def _one_sentence(config: TrainingConfig) -> Iterator[None]:
    """What libraries say of a data set that cannot be loaded, as one sentence."""
    try:
        yield
    except (*HUB_ERRORS, DatasetsError, tarfile.TarError, MemoryError, OverflowError) as error:
        name = config.dataset_name or config.train_data_dir
        raise UserError(
            f"The data set {name!r} cannot be loaded ({first_line(error)}); check its name or path."
        ) from error


def _open_folder(config: TrainingConfig) -> Source:
    folder = Path(config.train_data_dir)
    by_kind: dict[str, list[Path]] = {"table": [], "tar": [], "archive": [], "image": []}
    for path in sorted(folder.rglob("*")):
        kind = _kind(path.name)
        if kind in by_kind and path.is_file():
            by_kind[kind].append(path)
    if by_kind["table"]:
        return _open_dataset(config, "train")
    if by_kind["tar"]:
        paths = by_kind["tar"]
        return TarFiles(str(folder), [*map(str, paths)], _local_files(paths, folder), False, config.image_column)
    if by_kind["archive"]:  # only the images in it count, and not the captions that may lie beside them
        options = {"drop_labels": True, "drop_metadata": True}
        return _tables(config, datasets.load_dataset_builder("imagefolder", data_dir=str(folder), **options), "train")
    paths = by_kind["image"]
    return ImageFiles(str(folder), [*map(str, paths)], _local_files(paths, folder))


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


def _builder(config: TrainingConfig) -> datasets.DatasetBuilder:
    name = config.dataset_name or config.train_data_dir
    with looking_only_into(name):
        return datasets.load_dataset_builder(name, config.dataset_config_name, cache_dir=config.cache_dir)


def _open_dataset(config: TrainingConfig, split: str) -> Source:
    name = config.dataset_name or config.train_data_dir
    builder = _builder(config)
    paths = _split_paths(builder, name, split)
    kinds = {_kind(path) for path in paths} - {None}  # beside images, metadata files
    if kinds == {"tar"}:
        paths = [p for p in paths if _kind(p) == "tar"]
        return TarFiles(name, paths, *_facts(paths), config.image_column)
    if kinds == {"image"}:
        paths = [p for p in paths if _kind(p) == "image"]
        return ImageFiles(name, paths, *_facts(paths))
    return _tables(config, builder, split)


def _split_paths(builder: datasets.DatasetBuilder, name: str, split: str) -> list[str]:
    data_files = builder.config.data_files or {}
    if split not in data_files:
        there = ", ".join(map(str, data_files)) or "no files"
        raise UserError(f"The data set {name!r} has no {split} split (it has {there}); choose another.")
    return list(data_files[split])


def _tables(config: TrainingConfig, builder: datasets.DatasetBuilder, split: str) -> Tables:
    name = config.dataset_name or config.train_data_dir
    paths = _split_paths(builder, name, split)
    if builder.info.builder_name not in BUILDERS:  # of others, some follow links in their files to anywhere
        raise UserError(
            f"The data set {name!r} is made of files such as {PurePosixPath(paths[0]).name}; give one of images, "
            "parquet, arrow, tar or zip files."
        )
    files, remote = _facts(paths)
    return Tables(name, builder.as_streaming_dataset(split=split), files, paths, remote, config.image_column)


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
