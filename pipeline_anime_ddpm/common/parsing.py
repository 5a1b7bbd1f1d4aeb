"""Text that others have written, as YAML or JSON: read without surprises, or refused with a ValueError.

A few kilobytes of either can ask for gigabytes, or for more depth than the interpreter has.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MAX_CHARACTERS = 16_000_000  # of a file; the largest that this project writes has a few hundred thousand
MAX_ALIASES = 20  # in what libraries read: together they stand for at most some thousand times the text


class _Alias(ValueError):
    """Of the text that is parsed."""


class _NoAliases(yaml.SafeLoader):
    """YAML's `*name` stands for what was written before: ten lines of such names are a list of billions."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _Alias("it repeats a part by an alias (*name); write it out")
        return super().compose_node(parent, index)


def parse_yaml(text: str) -> Any:
    """What `text` says, without aliases and without making any object but plain ones.

    Raises:
        ValueError: if it is not YAML, or too long or too deep.
    """
    _check_length(text)
    try:
        return yaml.load(text, _NoAliases)
    except _Alias:
        raise
    except Exception as error:  # PyYAML's own, and whatever its constructors raise for values that are none
        raise ValueError("it is not valid YAML") from error


@contextlib.contextmanager
def few_aliases() -> Iterator[None]:
    """While a library reads YAML that others have written, a ValueError for more than `MAX_ALIASES` in a text."""
    whole = yaml.SafeLoader.compose_node

    def compose_node(self: yaml.SafeLoader, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self.aliases = getattr(self, "aliases", 0) + 1
            if self.aliases > MAX_ALIASES:
                raise _Alias("its YAML repeats parts by aliases (*name); write them out")
        return whole(self, parent, index)

    yaml.SafeLoader.compose_node = compose_node
    try:
        yield
    finally:
        yaml.SafeLoader.compose_node = whole


def parse_json(text: str | bytes) -> Any:
    """What `text` says.

    Raises:
        ValueError: if it is not JSON, or too long or too deep.
    """
    _check_length(text)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is too deep") from error


def read_record(path: Path) -> dict[str, Any]:
    """The content of a JSON file that may be missing; empty if it is, or if it is damaged."""
    try:
        record = parse_json(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _check_length(text: str | bytes) -> None:
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has more than {MAX_CHARACTERS:,} characters")
