"""The images in zip archives."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence

from ...common.errors import UserError
from ..decoding import MAX_BYTES
from ..labels import folder_labels
from ..units import DataFile, EncodedImage, Source
from .damage import named, open_file
from .kinds import HEAD, LeftOut, sort_out


class ZipFiles(Source):
    """Images in zip archives, which are read without unpacking them. All of them are one unit.

    Args:
        paths: of the `files`, where they are opened.
        label_columns: columns of a metadata.csv or metadata.jsonl in the archive, or `label` for the folder's name.

    Raises:
        UserError: if an archive is none, or is damaged.
    """

    column = "image"
    num_units, unit_sizes = 1, None

    def __init__(
        self, name: str, paths: list[str], files: list[DataFile], remote: bool, label_columns: Sequence[str] = ()
    ):
        self.name, self.paths, self.files, self.remote = name, paths, files, remote
        self.left_out = LeftOut()
        self._members = [self._list(number) for number in range(len(paths))]
        self._count = sum(len(images) for images, _ in self._members)
        self._labels: list[tuple[int, ...]] | None = None
        if self._count == 0:
            found = f" ({self.left_out.summary})" if self.left_out.summary else ""
            names = ", ".join(file.name for file in files)
            raise UserError(f"{names} holds no images{found}; put some into it, or leave it out.")
        self.left_out.warn(name)
        if label_columns:
            self._add_labels(label_columns)

    @property
    def num_found(self) -> int:
        """Images, corrupt ones included."""
        return self._count

    def read(self, unit: int) -> Iterator[EncodedImage]:
        """The images, which are read when they are decoded: reading and decoding share the threads."""
        number = 0
        for file, path, (images, _) in zip(self.files, self.paths, self._members, strict=True):
            archive = _open(file.name, path)
            for member in images:
                labels = self._labels[number] if self._labels else None
                number += 1
                name = f"{file.name}/{member}"
                info = archive.getinfo(member)
                if info.file_size > MAX_BYTES:
                    yield EncodedImage(name, None, refused=f"a file of {info.file_size:,} bytes", labels=labels)
                elif info.flag_bits & 1:
                    yield EncodedImage(name, None, refused="encrypted: pack it again without a password", labels=labels)
                else:
                    yield EncodedImage(name, None, labels=labels, opened=_reader(archive, info))

    def _list(self, number: int) -> tuple[list[str], list[str]]:
        """The members that are images and those that are metadata; images of a folder before those of its folders."""
        archive = _open(self.files[number].name, self.paths[number])
        with archive:
            infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}

            def head(name: str) -> bytes:
                if infos[name].flag_bits & 1:
                    return b""
                with archive.open(infos[name]) as file:
                    return file.read(HEAD)

            with named(self.files[number].name, self.paths[number]):
                listing = sort_out(iter(sorted(infos, key=_place)), head)
        self.left_out.hidden += listing.left_out.hidden
        self.left_out.others += listing.left_out.others
        return listing.by_kind["image"], listing.by_kind["metadata"]

    def _add_labels(self, wanted: Sequence[str]) -> None:
        numbered = list(enumerate(self._members))
        images = [f"{number}/{member}" for number, (members, _) in numbered for member in members]
        metadata = [f"{number}/{member}" for number, (_, members) in numbered for member in members]

        def content(path: str) -> bytes:
            number, _, member = path.partition("/")
            with _open(self.files[int(number)].name, self.paths[int(number)]) as archive:
                return archive.open(member).read(MAX_BYTES)

        self.labels, self._labels = folder_labels(images, metadata, wanted, self.name, content)

    def _label_facts(self, files: Sequence) -> list:
        # other files than images were taken for images once, and such caches are not used again
        others = self.left_out.others.total()
        return [*super()._label_facts(files), *([f"{others} others"] if others else [])]


def _open(name: str, path: str) -> zipfile.ZipFile:
    with named(name, path):
        # its own file, on this machine, which it closes itself
        return zipfile.ZipFile(open_file(path) if path.startswith("hf://") else path)


def _reader(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], bytes]:
    return lambda: archive.read(info)


def _place(name: str) -> list[tuple[bool, str]]:
    """The order of walking through folders: the files of one by name, then its folders by name."""
    *folders, last = name.split("/")
    return [*((True, folder) for folder in folders), (False, last)]
