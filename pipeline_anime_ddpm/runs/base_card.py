"""Read the card of a base model for the cards of derived models: licence, data, limits, its own base."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from ..common.errors import HUB_ERRORS
from ..common.parsing import parse_yaml, read_record

CARD_NAME = "README.md"
RECORD_NAME = "provenance.json"  # what a run was made from and on
MAX_BYTES = 1_000_000  # of a card; longer ones are not read
METADATA = ("license", "license_name", "license_link", "datasets")
# Marks in our model cards around sentences by their author, so that cards of derived models can quote them.
FACTS = ("data", "who_is_drawn", "intended_use", "limits")
MARKED = re.compile(r"<!-- fact: (\w+) -->(.*?)<!-- /fact -->", re.DOTALL)
FRONT_MATTER = re.compile(r"\s*---\r?\n(.*?)\r?\n---\s*$", re.DOTALL | re.MULTILINE)
REPOSITORY = re.compile(r"<!-- repository: ([\w.-]+/[\w.-]+) -->")


def marked(name: str, text: str) -> str:
    """`text` as `read_card` finds it again in a card."""
    return f"<!-- fact: {name} -->{text}<!-- /fact -->"


def read_card(name: str | None, cache_dir: str | None = None) -> dict[str, Any]:
    """The card of a model in a folder or on the Hub.

    Returns:
        Those of `METADATA` and `FACTS` that it has: texts, and a list of identifiers for `datasets`; and `repo_id`,
        where the model was published, if its card was made by us. A run's folder has the card of what the run began
        with. Empty without a card to be read.
    """
    path = _card_file(name, cache_dir) if name else None
    if path is None:
        return _card_of_run(Path(name)) if name else {}
    if path.stat().st_size > MAX_BYTES:
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    metadata = _metadata(text)
    found: dict[str, Any] = {}
    for key in METADATA:
        value = metadata.get(key)
        if key == "license" and isinstance(value, list):
            value, found["license_name"] = "other", " and ".join(map(str, value))
        if key == "datasets":
            value = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
        if value and isinstance(value, (str, list)):
            found.setdefault(key, value)
    if repository := REPOSITORY.search(text):
        found["repo_id"] = repository[1]
    for key, sentence in MARKED.findall(text):
        if key in FACTS:  # the model's own, then those of its base
            found[key] = f"{found[key]} {sentence}" if key in found else sentence
    return found


def _card_of_run(folder: Path) -> dict[str, Any]:
    """For an unpublished run, the card of its base model, which has the same licence and limits."""
    for place in (folder, folder.absolute().parent):  # an average, or the best so far, lies in its run
        start = read_record(place / RECORD_NAME).get("went_on_from")
        if start:
            return start.get("card") or {}
    return {}


def _metadata(text: str) -> dict[str, Any]:
    """The YAML at the top of a card; empty if there is none that can be read."""
    block = FRONT_MATTER.match(text)
    try:
        metadata = parse_yaml(block[1]) if block else {}
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _card_file(name: str, cache_dir: str | None) -> Path | None:
    if os.path.isdir(name):
        path = Path(name, CARD_NAME)
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(name, CARD_NAME, cache_dir=cache_dir))
    except HUB_ERRORS:  # none, or no way to it
        return None
