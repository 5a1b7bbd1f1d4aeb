"""What every benchmark needs: a word about the machine, a table, and the JSON file that README is rendered from."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import statistics
from datetime import date
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "model_card" / "results"


def machine() -> str:
    """Processor, cores and memory."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    memory = psutil.virtual_memory().total / 2**30
    return f"{name}, {psutil.cpu_count(logical=False)} cores, {memory:.0f} GiB, no GPU used"


def versions(*packages: str) -> dict[str, str]:
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most of repeated measurements."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def write_result(path: Path, what: str, command: str, packages: list[str], **parts: Any) -> None:
    """Write one benchmark's `rows`, `summary` and `notes`, with where and how they were measured."""
    facts = {"what": what, "command": command, "date": date.today().isoformat(), "machine": machine()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts | {"versions": versions(*packages)} | parts, indent=1) + "\n")
