"""The encoded images of a data set in units, each of which is read in its order: image files and tars."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from ..common.errors import UserError
from ..common.parsing import parse_json
from .decoding import MAX_BYTES
from .files.damage import named, open_file
from .files.kinds import HEAD, SUFFIXES, TEXT_SUFFIXES, LeftOut, is_hidden, is_picture
from .labels import WHOLE, LabelColumns, check_known, clean, folder_labels, from_values

MAX_UNITS = 256  # of a folder of images: enough to mix, few enough to deal out at once
EXAMPLES_SEEN = 10  # of an archive, by which its layout is judged
SPARSE = "a sparse file, whose zeros are not in the tar"
CLASS = "cls"  # WebDataset's field of a class
MAX_LABEL_BYTES = 2**20  # of a JSON or .cls file in a tar


class EncodedImage(NamedTuple):
    """One image file: its content, or where to read it, or why it is not read; and the numbers of its labels."""

    name: str
    content: bytes | None
    path: str | None = None
    refused: str | None = None
    labels: tuple[int, ...] | None = None
    opened: Callable[[], bytes] | None = None  # gives the content, as `path` does


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
        labels: the attributes of its images, if they are asked for.
        label_files: those that hold labels alone.
    """

    name: str
    remote: bool
    num_units: int
    unit_sizes: list[int] | None
    files: list[DataFile]
    column: str | None = None
    labels: LabelColumns | None = None
    label_files: Sequence[DataFile] = ()

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
        return _digest([self.column, *map(list, sorted(self.files)), *self._label_facts(self.label_files)])

    @functools.cached_property
    def identity(self) -> str:
        """The same for a copy of the data elsewhere: what a resumed run is compared by."""
        label_files = [(f.name, f.size) for f in self.label_files]
        return _digest([self.column, *([f.name, f.size] for f in sorted(self.files)), *self._label_facts(label_files)])

    def _label_facts(self, files: Sequence) -> list:
        """Nothing without labels, so that a data set that has none keeps its caches and its runs."""
        return [] if self.labels is None else [self.labels.names, *map(list, sorted(files))]


def _digest(facts: list) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


class ImageFiles(Source):
    """Single image files. A unit is every n-th of them, so that it mixes the folders."""

    def __init__(self, name: str, paths: list[str], files: list[DataFile], remote: bool = False):
        self.name, self.paths, self.files, self.remote = name, paths, files, remote
        self.num_units = min(MAX_UNITS, len(paths))
        self.unit_sizes = [len(paths[unit :: self.num_units]) for unit in range(self.num_units)]
        self._labels: list[tuple[int, ...]] | None = None

    def add_labels(self, metadata: list[str], files: list[DataFile], wanted: Sequence[str]) -> None:
        """Take labels from `metadata` (paths of `files`) and the names of folders; see `folder_labels`."""
        self.labels, self._labels = folder_labels(self.paths, metadata, wanted, self.name)
        self.label_files = files

    def _label_facts(self, files: Sequence) -> list:
        return [*super()._label_facts(files), *([] if self._labels is None else [_digest(self._labels)])]

    def read(self, unit: int) -> Iterator[EncodedImage]:
        for n in range(unit, len(self.paths), self.num_units):
            labels = self._labels[n] if self._labels else None
            yield EncodedImage(self.files[n].name, None, self.paths[n], labels=labels)


def _open_tar(mode: Literal["r:", "r|"], size: int, **where: Any) -> tarfile.TarFile:
    """An archive of `size` bytes: uncompressed, so that no more comes out of it than there is in it.

    What is damaged in the middle is an error, which tarfile takes for the end. So is a member that goes back, which
    tarfile would read for ever, or beyond the end, which it would count up to.
    """

    class Member(tarfile.TarInfo):
        def _block(self, count: int) -> int:
            if not 0 <= count <= size:
                raise tarfile.ReadError(f"a member claims {count:,} bytes")
            return super()._block(count)  # type: ignore[misc]  # private, so typeshed leaves it out

        @classmethod
        def fromtarfile(cls, archive: tarfile.TarFile) -> Member:
            try:
                return super().fromtarfile(archive)
            except (  # typeshed leaves out the first two
                tarfile.InvalidHeaderError,  # type: ignore[attr-defined]
                tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
                ValueError, IndexError, RecursionError,
            ) as error:  # fmt: skip
                raise tarfile.ReadError(f"damaged after {archive.offset:,} bytes: {error}") from error

    return tarfile.open(mode=mode, tarinfo=Member, **where)


class TarFiles(Source):
    """Tar archives of images, WebDataset's layout or any other; a unit is one archive.

    Nothing is unpacked to disk, so that a member's name is no more than a name; links and devices are passed over.
    Sparse files, which may be much larger than the archive, are left out.

    Args:
        column: WebDataset's field, such as `jpg` or `mask.png`; `*` for every image in the archives. None for every
            image as well, where no example has several.
        label_columns: keys of the JSON files beside the images, or `cls` for files of that name. To know their values,
            all archives are read once before training.
    """

    def __init__(
        self,
        name: str,
        paths: list[str],
        files: list[DataFile],
        remote: bool,
        column: str | None,
        label_columns: Sequence[str] = (),
    ):
        self.name, self.paths, self.files, self.remote, self.column = name, paths, files, remote, column
        self.num_units = len(paths)
        self.left_out, self._by_content, self._reads_labels = LeftOut(), 0, bool(label_columns)
        self._check_fields()
        self.unit_sizes = None if remote else [*map(self._count, range(len(paths)))]
        self.left_out.warn(name)
        if label_columns:
            self.labels = self._find_labels(label_columns)

    def read(self, unit: int) -> Iterator[EncodedImage]:
        with self._opened(unit) as archive:
            if self.labels is None:
                yield from filter(None, (self._encoded(archive, member, unit) for member in archive))
                return
            for members in _examples(archive):
                images: list[EncodedImage] = []
                values: dict[str, Any] = {}
                for member in members:
                    image = self._encoded(archive, member, unit)
                    if image is not None:
                        images.append(image)
                    else:
                        values |= label_values(archive, member)
                numbers = self.labels.encode(values)
                yield from (image._replace(labels=numbers) for image in images)

    @contextlib.contextmanager
    def _opened(self, unit: int) -> Iterator[tarfile.TarFile]:
        name, path = self.files[unit].name, self.paths[unit]
        with (
            named(name, path),
            open_file(path) as file,
            _open_tar("r|", self.files[unit].size, fileobj=file) as archive,
        ):
            yield archive

    def _encoded(self, archive: tarfile.TarFile, member: tarfile.TarInfo, unit: int) -> EncodedImage | None:
        """A member that is a wanted image; None for others."""
        name, by_name = f"{self.files[unit].name}/{member.name}", self._is_wanted(member)
        if by_name is False:
            return None
        if member.size > MAX_BYTES:
            return EncodedImage(name, None, refused=f"a file of {member.size:,} bytes") if by_name else None
        if member.issparse():
            return (
                EncodedImage(name, None, refused="a sparse file, whose zeros are not in the tar") if by_name else None
            )
        content = archive.extractfile(member).read()
        return EncodedImage(name, content) if by_name or is_picture(content[:HEAD]) else None

    def _find_labels(self, wanted: Sequence[str]) -> LabelColumns:
        known: set[str] = set()
        values: dict[str, dict[Any, None]] = {column: {} for column in wanted}
        for unit in range(self.num_units):
            with self._opened(unit) as archive:
                for members in _examples(archive):
                    found, has_image = self._example_values(archive, members)
                    if not has_image:
                        continue
                    known |= found.keys()
                    for column in values.keys() & found.keys():
                        values[column][_checked_value(found[column], column, self.files[unit].name)] = None
        for column in wanted:
            check_known(column, known, self.name)
        return from_values(values, self.name)

    def _example_values(
        self, archive: tarfile.TarFile, members: Iterator[tarfile.TarInfo]
    ) -> tuple[dict[str, Any], bool]:
        """What the members of an example say of it, and whether one is an image."""
        found: dict[str, Any] = {}
        has_image = False
        for member in members:
            if self._is_wanted(member):
                has_image = True
            else:
                found |= label_values(archive, member)
        return found, has_image

    def _count(self, unit: int) -> int:
        count, path = 0, self.paths[unit]
        with named(self.files[unit].name, path), _open_tar("r:", self.files[unit].size, name=path) as archive:
            for member in archive:
                wanted = self._is_wanted(member)
                if wanted is None:
                    small = member.size <= MAX_BYTES and not member.issparse()
                    wanted = small and is_picture(archive.extractfile(member).read(HEAD))
                    self._by_content += wanted
                if wanted:
                    count += 1
                elif member.isfile() and self.column is None and not (self._reads_labels and _is_label(member)):
                    self.left_out.add(member.name)
        return count

    def _is_wanted(self, member: tarfile.TarInfo) -> bool | None:
        """Whether a member is a wanted image by its name; None if only its content tells."""
        if not member.isfile() or is_hidden(member.name):
            return False
        suffix = PurePosixPath(member.name).suffix.lower()
        if self.column not in (None, "*"):
            return self.column.lower() in (_field(member.name), role(member.name))
        if suffix in SUFFIXES["image"]:
            return True
        return False if suffix in TEXT_SUFFIXES else None

    def _check_fields(self) -> None:
        """Refuse archives whose examples hold several images each, such as a picture and its mask."""
        examples: dict[str, dict[str, None]] = {}
        with self._opened(0) as archive:
            for member in filter(self._is_wanted, archive):
                own = role(member.name)
                examples.setdefault(member.name[: -len(own)], {})[own] = None
                if len(examples) > EXAMPLES_SEEN:
                    break
        several = next((roles for roles in examples.values() if len(roles) > 1), None)
        if several is not None and self.column is None:
            elsewhere = {own for roles in examples.values() if roles is not several for own in roles}
            if len(examples) == 1 or elsewhere & several.keys():  # else they are names, such as mr.smith.png
                first = min(several, key=lambda own: (own.count("."), own))
                raise UserError(
                    f"The examples of {self.name} hold several images, {' and '.join(sorted(several))}; name the one "
                    f"to train on, as in --image_column {first}, or give --image_column '*' for all of them."
                )
        named_so = f" named *.{self.column}" if self.column not in (None, "*") else ""
        if not examples and (named_so or self._is_empty(0)):
            raise UserError(f"{self.files[0].name} holds no images{named_so}; put some into it, or leave it out.")

    def _is_empty(self, unit: int) -> bool:
        return next(iter(self.read(unit)), None) is None

    def _label_facts(self, files: Sequence) -> list:
        # members that were chosen otherwise before: caches of such archives are not used again
        changed = [self.left_out.hidden, self._by_content]
        return [*super()._label_facts(files), *([changed] if any(changed) else [])]


def _field(name: str) -> str:
    """WebDataset's name of a file's role in its example: all after the first dot."""
    return PurePosixPath(name).name.partition(".")[2].lower()


def role(name: str) -> str:
    """The same without parts of the name itself: those with a digit, as in `ep01.frame000.png` or `1.0.mask.png`."""
    parts = _field(name).split(".")
    begin = next((n for n in range(len(parts) - 1, 0, -1) if any(map(str.isdigit, parts[n - 1]))), 0)
    return ".".join(parts[begin:])


def _examples(archive: tarfile.TarFile) -> Iterator[Iterator[tarfile.TarInfo]]:
    """The members of each example of WebDataset, which follow one another and share a name up to their roles."""
    plain = (member for member in archive if member.isfile())
    for _, members in itertools.groupby(plain, key=lambda m: m.name[: len(m.name) - len(role(m.name))]):
        yield members


def _is_label(member: tarfile.TarInfo) -> bool:
    field = role(member.name)
    return member.isfile() and (field == CLASS or field.endswith("json"))


def label_values(archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    """What a member says of its example: the keys of a JSON file, or a `.cls` file as `cls`; {} for all others.

    Raises:
        UserError: for JSON that cannot be read.
    """
    field = role(member.name)
    if (
        is_hidden(member.name)
        or not member.isfile()
        or member.issparse()
        or not (field == CLASS or field.endswith("json"))
    ):
        return {}
    content = archive.extractfile(member).read(MAX_LABEL_BYTES + 1)
    try:
        if len(content) > MAX_LABEL_BYTES:
            raise ValueError(f"it has more than {MAX_LABEL_BYTES:,} bytes")
        if field == CLASS:
            text = content.decode().strip()
            return {CLASS: int(text) if WHOLE.fullmatch(text) and "." not in text else text}
        values = parse_json(content)
    except ValueError as error:
        raise UserError(f"{member.name} cannot be read ({error}); correct it, or leave the labels out.") from error
    return values if isinstance(values, dict) else {}


def _checked_value(value: Any, column: str, name: str) -> str | int | float | None:
    if isinstance(value, (list, dict)):
        raise UserError(f"{name}: its {column} holds several values, and a label is one; name another column.")
    return clean(value)
