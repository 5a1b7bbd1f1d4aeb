"""Where the files of a data set lie: in a folder of this machine, or in a repository of the Hub."""

from __future__ import annotations

import functools
import logging
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from ...common.errors import UserError
from ..units import DataFile
from .damage import open_file
from .kinds import HEAD, Listing, list_folder, sort_out

logger = logging.getLogger(__name__)

LOOKED_INTO = 64  # files of the Hub whose kind only their content tells: each costs a request
MAX_TEXT = 2**24  # bytes of a README.md


@dataclass(frozen=True)
class Place:
    """A folder or a repository, and the files in it by kind.

    Attributes:
        name: what the user called it.
        root: the folder, or the address of the repository at one commit.
        remote: whether it is a repository.
        listing: names relative to the root.
        facts: of each file of a repository, as `HfFileSystem` tells them.
    """

    name: str
    root: str
    remote: bool
    listing: Listing
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def path(self, name: str) -> str:
        """Where a file is opened."""
        return f"{self.root}/{name}" if self.remote else str(Path(self.root, name))

    def text(self, name: str) -> str | None:
        """The text of a file such as README.md; None if it is not there."""
        if not (name in self.facts if self.remote else Path(self.root, name).is_file()):
            return None
        with open_file(self.path(name)) as file:
            return file.read(MAX_TEXT).decode(errors="replace")

    def files(self, names: Sequence[str], are_shortened: bool = False) -> list[DataFile]:
        """Name, size and version of each file.

        Args:
            are_shortened: leave the folder that all of them share out of their names, if they are of this machine.
        """
        if self.remote:
            return [self._remote_file(name) for name in names]
        self._tell_of_links(names)
        common = posixpath.commonpath(names) if are_shortened else ""
        if common in names:
            common = posixpath.dirname(common)
        stats = ((name, Path(self.root, name).stat()) for name in names)
        return [DataFile(posixpath.relpath(n, common or "."), s.st_size, str(s.st_mtime_ns)) for n, s in stats]

    def _remote_file(self, name: str) -> DataFile:
        facts = self.facts[name]
        content = facts.get("lfs") or {}
        version = content.get("sha256") or facts.get("blob_id") or self.path(name)
        return DataFile(name, facts["size"], version)

    def _tell_of_links(self, names: Sequence[str]) -> None:
        """Links to files are followed, for data sets are often made of them; those to folders are not."""
        inside = Path(self.root).resolve()
        paths = ((name, Path(self.root, name)) for name in names)
        outside = [name for name, p in paths if p.is_symlink() and not p.resolve().is_relative_to(inside)]
        if outside:
            logger.warning(
                "%d of the %d files are links that lead out of %s, such as %s; they are trained on as well.",
                len(outside), len(names), self.root, outside[0],
            )  # fmt: skip


def local_place(folder: Path) -> Place:
    """A folder with all in it; links to folders are not followed."""
    return Place(str(folder), str(folder), False, list_folder(folder))


def hub_place(name: str) -> Place:
    """A data set or bucket of the Hub as it is now.

    Args:
        name: such as `me/faces`, also with `hf://datasets/` or `hf://buckets/` before it.

    Raises:
        UserError: if there is none of that name.
    """
    own = name.removeprefix("hf://").removeprefix("datasets/")
    inside = own if own.startswith("buckets/") else f"datasets/{own}@{_newest_commit(own)}"
    # a file system of its own: what another has listed in part is listed in part again
    hub = HfFileSystem(skip_instance_cache=True)
    found: dict[str, Any] = hub.find(inside, detail=True, expand_info=False)  # type: ignore[assignment]
    facts = {path.removeprefix(f"{inside}/"): info for path, info in sorted(found.items())}
    root, looks = f"hf://{inside}", iter(range(LOOKED_INTO))

    @functools.cache
    def head(name: str) -> bytes:
        if next(looks, None) is None:
            return b""
        with open_file(f"{root}/{name}") as file:
            return file.read(HEAD)

    return Place(name, root, True, sort_out(iter(facts), head), facts)


def _newest_commit(name: str) -> str:
    try:
        return HfApi().dataset_info(name).sha
    except HFValidationError as error:
        raise UserError(
            f"The data set {name!r} cannot be loaded: it is neither a folder of this machine nor a name on the Hub, "
            "such as me/faces; check it."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"The data set {name!r} cannot be loaded: it is neither a folder of this machine nor on the Hub, or you "
            "may not read it; check its name, or log in with `hf auth login`."
        ) from error
