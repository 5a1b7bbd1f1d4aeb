"""README's one table: ours beside the baseline of each measurement."""

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


def _sampling_seconds(results: Path) -> dict[str, float]:
    """Seconds a face in batches: of the distilled network, and of what README compares it with."""
    steps = _result(results, "sampling")["summary"]["distilled_steps"]
    rows = _result(results, "sampling")["rows"]
    seconds = {row["name"]: row["seconds"]["batch"]["median"] for row in rows if "seconds" in row}
    ends = {"few": f"), {steps} steps", "pipeline": "DDPMPipeline, 1000 steps", "ddim": "ddim, 50 steps"}
    return {key: next(value for name, value in seconds.items() if name.endswith(end)) for key, end in ends.items()}


def render_summary(results: Path) -> str:
    """Ratios of ours to the baseline, out of the summaries of all results, as Markdown."""
    data, step, quality, noise, faults = (
        _result(results, name)["summary"] for name in ("data_loading", "training", "quality", "noise", "faults")
    )
    seconds = _sampling_seconds(results)
    quality_page, speed_page = f"[quality]({PAGES}/quality.md)", f"[speed]({PAGES}/speed.md)"
    step_page, sampling_page = "[memory and time](docs/memory_and_time.md)", f"[sampling]({PAGES}/sampling.md)"
    script = "`train_unconditional.py`"

    def pair(source: dict[str, float], *names: str) -> str:
        return ", ".join(_ratio(source[name]) for name in names)

    defaults = f"{_ratio(1 / step['speed_setting_speed_ratio'])}, {_ratio(step['speed_setting_activation_ratio'])}"
    saving = f"{_ratio(1 / step['memory_setting_speed_ratio'])}, {_ratio(step['memory_setting_activation_ratio'])}"
    few, pipeline, ddim = (seconds[name] for name in ("few", "pipeline", "ddim"))
    body = [
        [
            "noise, from scratch: KID, FD",
            pair(noise, "winner_kid_ratio", "winner_fd_ratio"),
            "linear table, ε, MSE",
            f"[noise]({PAGES}/noise.md)",
        ],
        ["noise, fine-tuned: KID, FD", pair(quality, "noise_kid_ratio", "noise_fd_ratio"), "the same", quality_page],
        [
            "also guidance, a shorter EMA: KID, FD",
            pair(quality, "full_kid_ratio", "full_fd_ratio"),
            "the same, at half of the network calls",
            quality_page,
        ],
        [
            "data from the cache: time, CPU",
            pair(data, "cached_epoch_time_ratio", "cached_cpu_ratio"),
            script,
            speed_page,
        ],
        [
            "data streamed: time, CPU",
            pair(data, "streaming_epoch_time_ratio", "streaming_cpu_ratio"),
            script,
            speed_page,
        ],
        ["training step: time, activations", defaults, script, step_page],
        ["the same with `--gradient_checkpointing`", saving, script, step_page],
        ["4 distilled steps: time", _ratio(few / pipeline), "`DDPMPipeline`, 1,000 steps (50 timed)", sampling_page],
        ["4 distilled steps: time", _ratio(few / ddim), "DDIM, 50 steps", sampling_page],
    ]
    table_lines = table(["lower is better", "ours ÷ baseline", "baseline", "page"], body)
    survived = f"{faults['survived']} of {faults['tried']} injected faults ended with the same bits"
    return "\n".join([*table_lines, "", f"On a CPU, {survived}: [stop and resume](docs/resume.md)."])
