"""Labels of images: the values that each attribute takes in a data set, and the number of a value.

Of single image files they come from metadata.csv or metadata.jsonl beside them, or from the names of their folders.

An attribute is a column such as `hair`. Its values are numbered from 1 on, and 0 is "any": no value, or none known.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import datasets

from pipeline_anime_ddpm.loading import MAX_COMBINATIONS, check_labels
from pipeline_anime_ddpm.pipeline_anime_ddpm import ANY

from ..common.errors import UserError
from ..common.parsing import parse_json
from .files.damage import open_file

logger = logging.getLogger(__name__)

FILE_NAME = "file_name"  # the column that names the image, relative to the metadata file, as in `imagefolder`
FOLDER = "label"  # the name of the folder that holds an image, as in `imagefolder`
MAX_BYTES = 2**28  # of a metadata file
WHOLE = re.compile(r"[+-]?\d+(\.0*)?")


@dataclass(frozen=True)
class LabelColumns:
    """The attributes of a data set, and how the values in its columns are numbered.

    Attributes:
        names: the values of each attribute, in order; attributes in alphabetical order.
        numbers: of each attribute, the number from 1 on of each value as the column holds it.
    """

    names: dict[str, list[str]]
    numbers: dict[str, dict[str | int, int]]

    def encode(self, values: Mapping[str, Any]) -> tuple[int, ...]:
        """The numbers of one image's values, in the order of the attributes; 0 for a missing one.

        Raises:
            UserError: for a value that the data set did not have when it was opened.
        """
        return tuple(self._number(attribute, values.get(attribute)) for attribute in self.names)

    def _number(self, attribute: str, value: Any) -> int:
        value = clean(value)
        if value is None:
            return 0
        number = self.numbers[attribute].get(value)
        if number is None:
            raise UserError(
                f"The column {attribute} holds {value!r}, which is none of its {len(self.names[attribute])} values; "
                "correct the row, or leave it empty."
            )
        return number


class Labelled(NamedTuple):
    """A decoded image `(3, h, w)` and the numbers of its labels."""

    pixels: Any
    labels: tuple[int, ...]


def clean(value: Any) -> str | int | float | None:
    """A value as it is compared: text without spaces around it, whole numbers as int, None where it is missing."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        value = value.strip()
        return None if value == "" or value.lower() == ANY else value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return int(value) if value.is_integer() else None if math.isnan(value) else value
    return value


def from_values(values: Mapping[str, Iterable[Any]], where: str) -> LabelColumns:
    """Number the distinct values of each attribute: text in alphabetical order, whole numbers by size.

    Args:
        values: of each attribute, all values in the data set, or the distinct ones.
        where: what to call the data set.

    Raises:
        UserError: for values that are no labels, or too many of them.
    """
    numbers, names = {}, {}
    for attribute in sorted(values):
        found = _distinct(attribute, values[attribute], where)
        numbers[attribute] = {value: number for number, value in enumerate(found, start=1)}
        names[attribute] = [*map(str, found)]
    return _checked(LabelColumns(names, numbers), where)


def _distinct(attribute: str, values: Iterable[Any], where: str) -> list[str | int]:
    found: set[str | int] = set()
    for value in map(clean, values):
        if value is None:
            continue
        if isinstance(value, float) or not isinstance(value, (str, int)):
            raise UserError(
                f"The column {attribute} of {where} holds {str(value)[:40]}, and labels are text or whole numbers; "
                "name another column, or sort the values into classes."
            )
        found.add(value)
        if len(found) >= MAX_COMBINATIONS:
            raise UserError(
                f"The column {attribute} of {where} has {len(found):,} or more values, and a network takes fewer than "
                f"{MAX_COMBINATIONS:,}; name another column, or sort the values into classes."
            )
    fractions = [value for value in found if isinstance(value, str) and not WHOLE.fullmatch(value)]
    if fractions and all(map(_is_number, found)):
        raise UserError(
            f"The column {attribute} of {where} holds numbers with fractions, such as {min(fractions)}, and labels are "
            "classes; name another column, or sort the values into classes."
        )
    return sorted(found, key=lambda value: (isinstance(value, str), value))


def _is_number(value: str | int) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def from_names(names: Mapping[str, Sequence[str]], where: str) -> LabelColumns:
    """The columns of a data set that lists their names itself (`ClassLabel`) and holds numbers from 0 on; -1 is any."""
    lists = {attribute: list(names[attribute]) for attribute in sorted(names)}
    numbers: dict[str, dict[str | int, int]] = {
        attribute: {value: value + 1 for value in range(-1, len(known))} for attribute, known in lists.items()
    }
    return _checked(LabelColumns(lists, numbers), where)


def joined(parts: Iterable[LabelColumns], where: str) -> LabelColumns:
    """One of several, whose attributes differ."""
    names: dict[str, list[str]] = {}
    numbers: dict[str, dict[str | int, int]] = {}
    for part in parts:
        names |= part.names
        numbers |= part.numbers
    return _checked(LabelColumns({a: names[a] for a in sorted(names)}, numbers), where)


def _checked(columns: LabelColumns, where: str) -> LabelColumns:
    for attribute, names in columns.names.items():
        if not names:
            raise UserError(f"The column {attribute} of {where} is empty; name another one as --label_columns.")
    try:
        check_labels(columns.names, where)
    except ValueError as error:
        raise UserError(f"{error}; correct the data, or give other --label_columns.") from error
    return columns


def label_features(
    features: Mapping[str, Any] | None, wanted: Sequence[str], image_column: str | None, where: str
) -> dict[str, Any]:
    """The features of the label columns of a table.

    Raises:
        UserError: for a column that is missing, holds the images, or cannot hold labels.
    """
    features = features or {}
    for column in wanted:
        check_known(column, [name for name in features if name != image_column], where)
        kind = features[column]
        is_label = isinstance(kind, datasets.ClassLabel) or (
            isinstance(kind, datasets.Value) and (kind.dtype.startswith(("int", "uint")) or kind.dtype in TEXT)
        )
        if not is_label:
            held = kind.dtype if isinstance(kind, datasets.Value) else type(kind).__name__
            raise UserError(
                f"The column {column} of {where} holds {held}, and labels are text or whole numbers; name another "
                "column, or sort the values into classes."
            )
    return {column: features[column] for column in sorted(wanted)}


TEXT = ("string", "large_string", "string_view", "bool")


def check_known(column: str, known: Collection[str], where: str) -> None:
    """Raise a UserError unless `column` is one of the known ones."""
    if column not in known:
        there = f"; it has {', '.join(sorted(known)[:20])}" if known else ", nor any other to take labels from"
        raise UserError(f"--label_columns {column}: {where} has no such column{there}.")


def read_features(features: Mapping[str, Any], distinct: Any, where: str) -> LabelColumns:
    """Number the values of table columns.

    Args:
        features: of each label column.
        distinct: gives all (or the distinct) values of those columns that do not list their names themselves.
    """
    listed = {name: kind.names for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
    others = [name for name in features if name not in listed]
    parts = [from_names(listed, where)] if listed else []
    if others:
        parts.append(from_values(distinct(others), where))
    return joined(parts, where)


def folder_labels(
    paths: Sequence[str],
    metadata: Sequence[str],
    wanted: Sequence[str],
    where: str,
    content: Callable[[str], bytes] | None = None,
) -> tuple[LabelColumns, list[tuple[int, ...]]]:
    """The labels of image files.

    Args:
        paths: of the images.
        metadata: paths of `metadata.csv` and `metadata.jsonl` files; an image that none of them lists has no labels
            but its folder's.
        wanted: columns of the metadata, or `label` for the folder's name.
        where: what to call the data set.
        content: gives up to `MAX_BYTES` and one more of a metadata file; None opens its path.

    Returns:
        The columns, and the numbers of each image's labels.

    Raises:
        UserError: for a column that is missing or holds no labels, or metadata that cannot be read.
    """
    rows = {path: row for file in metadata for path, row in _rows(file, content or _read)}
    known = {column for row in rows.values() for column in row} - {FILE_NAME}
    for column in wanted:
        check_known(column, known | {FOLDER}, where)
    _check_names_of_images(rows.keys() - set(paths), len(rows), where)
    by_folder = FOLDER in wanted and FOLDER not in known
    images = [rows.get(path, {}) for path in paths]
    if by_folder:
        folders = [PurePosixPath(path).parent.name for path in paths]
        if len(set(folders)) == 1:
            raise UserError(
                f"--label_columns {FOLDER} takes the names of folders, and all images of {where} are in one; sort them "
                "into folders, or add a metadata.csv."
            )
        images = [{**row, FOLDER: folder} for row, folder in zip(images, folders, strict=True)]
    columns = from_values({column: [row.get(column) for row in images] for column in wanted}, where)
    return columns, [columns.encode(row) for row in images]


def _check_names_of_images(missing: set[str], count: int, where: str) -> None:
    """Refuse metadata none of whose images is there; warn of some that are not."""
    if missing and len(missing) == count:
        raise UserError(
            f"None of the {count:,} images that the metadata of {where} name is there, such as {min(missing)}; write "
            f"each {FILE_NAME} relative to the metadata file."
        )
    if missing:
        facts = (len(missing), count, min(missing))
        logger.warning("%d of the %d images that metadata name are not there, such as %s.", *facts)


def _read(path: str) -> bytes:
    with open_file(path) as opened:
        return opened.read(MAX_BYTES + 1)


def _rows(file: str, content: Callable[[str], bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path of the image and its values, of each line of a metadata file."""
    folder = posixpath.dirname(file)
    for number, row in enumerate(_lines(file, content), start=1):
        name = row.get(FILE_NAME)
        if not isinstance(name, str):
            raise UserError(f"Row {number} of {file} has no {FILE_NAME}; name the image that it describes.")
        yield f"{folder}/{name.removeprefix('./')}", row


def _lines(file: str, content: Callable[[str], bytes]) -> Iterator[dict[str, Any]]:
    try:
        read = content(file)
        if len(read) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        text = read.decode("utf-8-sig")
        if file.lower().endswith(".csv"):
            rows = csv.DictReader(io.StringIO(text))
            # cells beyond the columns of the header are under None
            lines = [{key: _number(value) for key, value in row.items() if key is not None} for row in rows]
        else:
            lines = [parse_json(line) for line in text.splitlines() if line.strip()]
        if not all(isinstance(line, dict) for line in lines):
            raise ValueError("a line of it is no JSON object")
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file} cannot be read ({error}); correct it, or train without --label_columns.") from error
    yield from lines


def _number(value: Any) -> Any:
    """A whole number in a CSV file as one, so that classes are in the order of their numbers."""
    return int(float(value)) if isinstance(value, str) and WHOLE.fullmatch(value.strip()) else value
