"""Text that others have written, as YAML or JSON: read without surprises, or refused with a ValueError.

A few kilobytes of either can ask for gigabytes, or for more depth than the interpreter has.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

MOST_CHARACTERS = 16_000_000  # of a file; the largest that this project writes has a few hundred thousand


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


def _check_length(text: str | bytes) -> None:
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has more than {MOST_CHARACTERS:,} characters")
