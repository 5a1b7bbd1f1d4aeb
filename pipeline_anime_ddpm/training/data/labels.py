"""Labels of images: the values that each attribute takes in a data set, and the number of a value.

An attribute is a column such as `hair`. Its values are numbered from 1 on, and 0 is "any": no value, or none known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets

from ..errors import UserError

MAX_COMBINATIONS = 4096  # of values, each attribute's "any" included: rows of the network's class embedding
MAX_NAME_LENGTH = 100  # characters of a value; a longer one is a caption
ANY = "any"
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


def clean(value: Any) -> str | int | None:
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
            raise _too_many(f"the column {attribute} has {len(found):,} or more values", where)
    if (
        all(isinstance(value, str) and WHOLE.fullmatch(value) is None and _is_number(value) for value in found)
        and found
    ):
        raise UserError(
            f"The column {attribute} of {where} holds numbers with fractions, such as {min(found)}, and labels are "
            "classes; name another column, or sort the values into classes."
        )
    return sorted(found, key=lambda value: (isinstance(value, str), value))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def from_names(names: Mapping[str, Sequence[str]], where: str) -> LabelColumns:
    """The columns of a data set that lists their names itself (`ClassLabel`) and holds numbers from 0 on; -1 is any."""
    names = {attribute: list(names[attribute]) for attribute in sorted(names)}
    numbers = {attribute: {value: value + 1 for value in range(-1, len(known))} for attribute, known in names.items()}
    return _checked(LabelColumns(names, numbers), where)


def joined(parts: Iterable[LabelColumns], where: str) -> LabelColumns:
    """One of several, whose attributes differ."""
    names, numbers = {}, {}
    for part in parts:
        names |= part.names
        numbers |= part.numbers
    return _checked(LabelColumns({a: names[a] for a in sorted(names)}, numbers), where)


def _checked(columns: LabelColumns, where: str) -> LabelColumns:
    for attribute, names in columns.names.items():
        if not names:
            raise UserError(f"The column {attribute} of {where} is empty; name another one as --label_columns.")
        if longest := next((name for name in names if len(name) > MAX_NAME_LENGTH), None):
            raise UserError(
                f"The column {attribute} of {where} holds {longest[:40]!r}…, which is a text rather than a class; name "
                "another column."
            )
        lower: dict[str, str] = {}
        for name in names:
            if name.lower() == ANY:
                raise UserError(
                    f"The column {attribute} of {where} has a value called {name!r}, which stands for a missing label; "
                    "rename it."
                )
            if lower.setdefault(name.lower(), name) != name:
                raise UserError(
                    f"The column {attribute} of {where} has the values {lower[name.lower()]!r} and {name!r}, which "
                    "differ in case only; spell them alike."
                )
    check_combinations(columns.names, where)
    return columns


def check_combinations(names: Mapping[str, Sequence[str]], where: str) -> None:
    """Raise a UserError for more than `MAX_COMBINATIONS`."""
    count = math.prod(len(values) + 1 for values in names.values())
    if count > MAX_COMBINATIONS:
        raise _too_many(f"the columns {', '.join(names)} have {count:,} combinations", where)


def _too_many(what: str, where: str) -> UserError:
    return UserError(
        f"In {where} {what}, and a network takes {MAX_COMBINATIONS:,}; give fewer --label_columns, or columns with "
        "fewer values."
    )


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
