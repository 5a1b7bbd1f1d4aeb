"""Features and distances of real images, computed once and found again by all that decides them."""

from __future__ import annotations

import hashlib
import json
import re
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.atomic import find_or_make
from ...common.errors import UserError
from ...data.cache import cache_root

if TYPE_CHECKING:  # its packages are not needed to list and delete what is kept
    from ..image_sets import ImageSet
    from ..networks.extractors import FeatureExtractor

FORMAT = 1  # raise it with every change of what is kept
ARRAYS, FACTS = "arrays.npz", "facts.json"


@dataclass(frozen=True)
class StatisticsEntry:
    """One kept result: its folder, and what decides it."""

    folder: Path
    facts: dict[str, Any]

    @property
    def num_bytes(self) -> int:
        return (self.folder / ARRAYS).stat().st_size

    @property
    def description(self) -> str:
        if not self.facts:
            return f"{self.folder.name}  {self.num_bytes / 1e6:,.1f} MB  damaged"
        made = datetime.fromtimestamp(self.facts["created"]).strftime("%Y-%m-%d %H:%M")
        what = {
            "features": "features",
            "nearest": "distances to training images",
            "diversity": "distances between images",
        }[self.facts["kind"]]
        return f"{self.folder.name}  {self.num_bytes / 1e6:,.1f} MB  {made}  {what} of the {self.facts['split']} split"


def statistics_root(cache_dir: str | None) -> Path:
    """Beside the decoded images."""
    return cache_root(cache_dir) / "statistics"


def list_statistics(root: Path) -> list[StatisticsEntry]:
    """The entries in `root` by name."""
    folders = sorted(path.parent for path in root.glob(f"*/{ARRAYS}") if not path.parent.name.startswith("."))
    return [StatisticsEntry(folder, _facts(folder)) for folder in folders]


def _facts(folder: Path) -> dict[str, Any]:
    """The facts of an entry; empty if it is damaged, so that it can still be listed and deleted."""
    try:
        return dict(json.loads((folder / FACTS).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def kept(
    root: Path, title: str, facts: dict[str, Any], compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What `compute` gives, or gave the last time with the same `facts`.

    Args:
        title: begins the folder's name, for people.
        facts: everything that decides the result, as JSON has it.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, facts], sort_keys=True).encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-").lower()[:60]

    def make(folder: Path) -> None:
        begin = time.perf_counter()
        arrays: dict[str, Any] = compute()
        np.savez(folder / ARRAYS, **arrays)
        record = facts | {"seconds": round(time.perf_counter() - begin, 2), "created": time.time()}
        (folder / FACTS).write_text(json.dumps(record, indent=1))

    try:
        return find_or_make(root / f"{name}-{digest}", _read, make)
    except OSError as error:
        raise UserError(
            f"Statistics cannot be kept in {root} ({error.strerror}); give a --cache_dir with free space."
        ) from error


def _read(folder: Path) -> dict[str, np.ndarray] | None:
    try:
        json.loads((folder / FACTS).read_text())
        with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError, EOFError, AttributeError, MemoryError, zipfile.BadZipFile, zlib.error):
        return None


def real_features(
    images: ImageSet, extractor: FeatureExtractor, root: Path, batch_size: int, show_progress: bool = False
) -> np.ndarray:
    """`(n, d)` float32 features of real images, from the cache if they are there."""
    facts = {
        "kind": "features",
        "fingerprint": images.fingerprint,
        "split": images.split,
        "n": len(images),
        **{name: value for name, value in extractor.facts.items() if name != "name"},
    }

    def compute() -> dict[str, np.ndarray]:
        title = f"Features of {len(images):,} {images.split or 'real'} images"
        return {"features": extractor.extract(images.pixels, batch_size, title, show_progress)}

    label = extractor.label or "inception"
    return kept(root, f"{Path(images.source).name} {images.split} {len(images)} {label}", facts, compute)["features"]
