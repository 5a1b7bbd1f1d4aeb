"""Which files a data set may have opened: its own, whatever its README.md, its folders or its rows name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from datasets import data_files
from datasets.utils.file_utils import is_relative_path

from ..common.errors import UserError


@contextlib.contextmanager
def looking_only_into(name: str) -> Iterator[None]:
    """While `datasets` looks for the files of `name`, it neither finds nor asks for what lies elsewhere.

    A README.md may name any file of this machine, and any address. All that is looked for passes through one function.

    Args:
        name: a folder, or a data set or bucket of the Hub.

    Raises:
        UserError: if the data set names something else; the sentence says what.
    """
    whole = data_files.resolve_pattern
    holds = _holds_of_folder(name) if os.path.isdir(name) else _holds_of_hub(name)

    def resolve_pattern(pattern: str, base_path: str, *arguments: Any, **options: Any) -> list[str]:
        if not is_relative_path(pattern) or ".." in pattern.split("/") or "::" in pattern:
            raise _elsewhere(name, pattern)
        if not holds(f"{base_path}/."):
            raise _elsewhere(name, base_path)
        paths = whole(pattern, base_path, *arguments, **options)
        for path in paths:
            if not holds(path):
                raise _elsewhere(name, path)
        return paths

    data_files.resolve_pattern = resolve_pattern
    try:
        yield
    finally:
        data_files.resolve_pattern = whole


def _elsewhere(name: str, path: str) -> UserError:
    return UserError(
        f"The data set {name!r} names {path}, which is not in it, and only its own files are opened; put the files "
        "themselves into it, or take that out of its README.md."
    )


def _holds_of_folder(name: str) -> Callable[[str], bool]:
    inside = Path(name).resolve()

    def holds(path: str) -> bool:
        """A link to a file is followed, as in folders of images; one to a folder is not."""
        return "://" not in path and Path(os.path.dirname(path)).resolve().is_relative_to(inside)

    return holds


def _holds_of_hub(name: str) -> Callable[[str], bool]:
    name = name.removeprefix("hf://datasets/").removeprefix("hf://")
    inside = f"hf://{name}/" if name.startswith("buckets/") else f"hf://datasets/{name}@"

    def holds(path: str) -> bool:
        return path.startswith(inside) and not {"", ".."} & set(path.removeprefix(inside).split("/"))

    return holds


def is_row_within(path: str, own: Collection[str]) -> bool:
    """Whether a row of a table names one of the data set's `own` files, or a member of one of its zips.

    Longer chains, `zip://a::http://…::<own file>`, end in a file of the data set too, but are opened from the middle.
    """
    member, _, file = path.rpartition("::")
    if "::" not in path:
        return path in own
    return file in own and file.lower().endswith(".zip") and member.startswith("zip://") and "::" not in member
