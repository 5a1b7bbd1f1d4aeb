"""Shared code of the benchmarks: facts of the machine, tables, and the JSON files that the pages are rendered from."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "model_card" / "results"
FACES = ROOT.parent / "shared" / "data" / "anime_faces_64"  # the real ones, where they are


def machine(gpu: str | None = None) -> str:
    """Processor, cores, memory, and the GPU that was used."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    memory = psutil.virtual_memory().total / 2**30
    return f"{name}, {psutil.cpu_count(logical=False)} cores, {memory:.0f} GiB, {gpu or 'no GPU used'}"


def gpu_name() -> str | None:
    """The GPU that PyTorch uses, if there is one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def versions(*packages: str) -> dict[str, str]:
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most of repeated measurements."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def write_result(
    path: Path, what: str, command: str, packages: list[str], gpu: str | None = None, **parts: Any
) -> None:
    """Write one benchmark's `rows`, `summary` and `notes`, with where and how they were measured."""
    facts = {"what": what, "command": command, "date": date.today().isoformat(), "machine": machine(gpu)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts | {"versions": versions(*packages)} | parts, indent=1) + "\n")


def drawn_faces(folder: str, images: int, resolution: int) -> str:
    """A data set of the project's own faces, for where the real ones are missing."""
    import io

    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    from pipeline_anime_ddpm.synthetic.drawn_faces import draw_faces

    rows = []
    for number, pixels in enumerate(draw_faces(images, resolution)):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=95)
        rows.append({"bytes": file.getvalue(), "path": f"{number}.jpg"})
    (Path(folder) / "data").mkdir()
    schema = pyarrow.schema(
        {"image": pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})}
    ).with_metadata({"huggingface": '{"info": {"features": {"image": {"_type": "Image"}}}}'})
    for part in range(8):
        table = pyarrow.Table.from_pylist([{"image": row} for row in rows[part::8]], schema)
        pyarrow.parquet.write_table(table, f"{folder}/data/train-{part:05d}-of-00008.parquet")
    return folder


def table(head: list[str], body: list[list[str]]) -> list[str]:
    rows = [f"| {' | '.join(cells)} |" for cells in (head, *body)]
    return [rows[0], "|---" * len(head) + "|", *rows[1:]]


def kid_cell(row: dict) -> str:
    return f"{row['kid']:.3f} ± {row['kid_std']:.3f}"


def rewrite_pages(pages: Sequence[Path], rendered: Callable[[str], str], check: bool, source: str) -> None:
    """Make the generated parts of the pages anew, or with `check` end if one of them is not what `source` says."""
    for page in pages:
        before = page.read_text()
        after = rendered(before)
        if not check:
            page.write_text(after)
        elif after != before:
            sys.exit(f"{page.name} is not what {source}.")
