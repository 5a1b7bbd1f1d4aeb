"""What the card of a model says, for the cards of what is trained from it: licence, data, limits, and its own base."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from .errors import HUB_ERRORS
from .parsing import parse_yaml

CARD_NAME = "README.md"
MOST_BYTES = 1_000_000  # of a card; longer ones are not read
METADATA = ("license", "license_name", "license_link", "datasets", "base_model")
# How our own cards mark the sentences that their maker wrote, so that cards of derived models can quote them.
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
        Those of `METADATA` and `FACTS` that it has: texts, and lists of identifiers for `datasets` and `base_model`;
        and `repo_id`, where the model was published, if its card was made by us. Empty without a card to be read.
    """
    path = _card_file(name, cache_dir) if name else None
    if path is None or path.stat().st_size > MOST_BYTES:
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    metadata, found = _metadata(text), {}
    for key in METADATA:
        value = metadata.get(key)
        if key in ("datasets", "base_model"):
            value = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
        if value and isinstance(value, (str, list)):
            found[key] = value
    if repository := REPOSITORY.search(text):
        found["repo_id"] = repository[1]
    return found | {key: sentence for key, sentence in MARKED.findall(text) if key in FACTS}


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
