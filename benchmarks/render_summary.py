"""README's one table: ours beside the peer, a line for each page of measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common import table

PAGES = "docs/measured"


def _result(results: Path, name: str) -> dict[str, Any]:
    return json.loads((results / f"{name}.json").read_text())


def _ratio(value: float) -> str:
    return f"{value:.3f}×" if value < 0.1 else f"{value:.2f}×"


def render_summary(results: Path) -> str:
    """Ratios of ours to the peer, out of the summaries of all results, as Markdown."""
    data, step, quality, sampling, faults = (
        _result(results, name)["summary"] for name in ("data_loading", "training", "quality", "sampling", "faults")
    )
    rows = _result(results, "sampling")["rows"]
    seconds = {row["name"]: row["seconds"]["batch"]["median"] for row in rows if "seconds" in row}
    peer = next(value for name, value in seconds.items() if name.startswith("DDPMPipeline"))
    few = next(value for name, value in seconds.items() if name.endswith(f"), {sampling['distilled_steps']} steps"))
    quality_page, speed_page = f"[quality]({PAGES}/quality.md)", f"[speed]({PAGES}/speed.md)"
    step_page, faults_page = "[memory and time](docs/memory_and_time.md)", "[stop and resume](docs/resume.md)"

    def pair(source: dict[str, float], *names: str) -> str:
        return ", ".join(_ratio(source[name]) for name in names)

    defaults = f"{_ratio(1 / step['speed_setting_speed_ratio'])}, {_ratio(step['speed_setting_activation_ratio'])}"
    saving = f"{_ratio(1 / step['memory_setting_speed_ratio'])}, {_ratio(step['memory_setting_activation_ratio'])}"
    body = [
        ["image quality, our noise: KID, FD", pair(quality, "noise_kid_ratio", "noise_fd_ratio"), quality_page],
        ["with guidance and EMA length: KID, FD", pair(quality, "full_kid_ratio", "full_fd_ratio"), quality_page],
        ["data from the cache: time, CPU", pair(data, "cached_epoch_time_ratio", "cached_cpu_ratio"), speed_page],
        ["data streamed: time, CPU", pair(data, "streaming_epoch_time_ratio", "streaming_cpu_ratio"), speed_page],
        ["training step: time, activations", defaults, step_page],
        ["the same with `--gradient_checkpointing`", saving, step_page],
        ["a face in 4 distilled steps: time", _ratio(few / peer), f"[sampling]({PAGES}/sampling.md)"],
        ["faults survived with the same bits", f"{faults['survived']} of {faults['tried']}", faults_page],
    ]
    return "\n".join(table(["lower is better", "ours ÷ `train_unconditional.py`", "page"], body))
