"""Reading `provenance.json`, the record of what a run was made from and on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..common.parsing import parse_json

RECORD_NAME = "provenance.json"


def read_record(path: Path) -> dict[str, Any]:
    """Its content; empty if there is none, or it is damaged."""
    try:
        record = parse_json(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
