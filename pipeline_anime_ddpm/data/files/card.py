"""What the README.md of a data set says of its files: configurations, their splits, and the kinds of their columns."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from datasets.data_files import sanitize_patterns
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData

from ...common.errors import UserError
from ...common.parsing import few_aliases
from .places import Place
from .splits import matching

README, YAML = "README.md", ".huggingface.yaml"


class Configuration(NamedTuple):
    """One of the ways to read a data set that its README.md offers.

    Attributes:
        folder: where its files are, relative to the data set; empty for all of it.
        patterns: of the files of each split; None if their names tell it.
        features: of its columns, as `datasets` understands them; None if the files tell.
    """

    folder: str = ""
    patterns: dict[str, list[str]] | None = None
    features: Mapping[str, Any] | None = None


def read_configuration(place: Place, asked: str | None, has_tables: bool) -> Configuration:
    """The configuration that is asked for, or the only or default one.

    Args:
        has_tables: their columns may be described even where no configurations are.

    Raises:
        UserError: if there is none of that name, or several and none is asked for.
        Exception: if the README.md is none that `datasets` would read.
    """
    readme, more = place.text(README), place.text(YAML)
    texts = (readme or "", more or "")
    if not (asked or has_tables or any(re.search("^configs:", text, re.MULTILINE) for text in texts)):
        return Configuration()
    with few_aliases():
        card = DatasetCard(readme).data if readme is not None else DatasetCardData()
        added = DatasetCard(f"---\n{more}\n---\n").data.to_dict() if more and more.strip() else {}
        card = DatasetCardData(**card.to_dict() | added) if added else card
        configs = MetadataConfigs.from_dataset_card_data(card)
        infos = DatasetInfosDict.from_dataset_card_data(card)
    name = asked or configs.get_default_config_name() or ("default" if not configs else None)
    if name is None:
        listed = ", ".join(map(repr, configs))
        raise UserError(f"{place.name} has several configurations ({listed}); give --dataset_config_name.")
    if name not in (configs or {"default"}):
        listed = ", ".join(map(str, configs)) or "default"
        raise UserError(f"--dataset_config_name {name} is not one of the configurations of {place.name}: {listed}.")
    facts = configs.get(name, {})
    features = facts.get("features") or (infos[name].features if name in infos else None)
    folder = _checked(place, str(facts.get("data_dir") or ""))
    named = facts.get("data_files")
    return Configuration(folder, None if named is None else sanitize_patterns(named), features)


def files_by_patterns(place: Place, patterns: dict[str, list[str]]) -> dict[str, list[str]]:
    """The files of each split, of whatever kind, as the README.md names them.

    Raises:
        UserError: for a pattern that names what is not in the data set.
    """
    names = [name for kind in place.listing.by_kind.values() for name in kind]
    found: dict[str, list[str]] = {}
    for split, wanted in patterns.items():
        for pattern in wanted:
            matched = matching(names, _checked(place, pattern))
            if not matched:
                raise _elsewhere(place.name, pattern)
            found.setdefault(split, []).extend(matched)
    return {split: list(dict.fromkeys(files)) for split, files in found.items()}


def _checked(place: Place, path: str) -> str:
    """A pattern or folder that is relative to the data set."""
    if path.startswith(("/", "~")) or "://" in path or "::" in path or ".." in path.split("/"):
        raise _elsewhere(place.name, path)
    return posixpath.normpath(path) if path else ""


def _elsewhere(name: str, path: str) -> UserError:
    return UserError(
        f"The data set {name!r} names {path}, which is not in it, and only its own files are opened; put the files "
        "themselves into it, or take that out of its README.md."
    )
