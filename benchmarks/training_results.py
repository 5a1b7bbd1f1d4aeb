"""The rows and the summary of `training.json`."""

from __future__ import annotations

import argparse

from common import spread
from training_contenders import flags_of, precision_of

NOTES = [
    "Epoch: all images once, as median step times the number of steps; on patches the steps of each side are weighted "
    "by their share of a run (step_shares), the final phase on full images included, and an image gives one patch.",
    "saved_activation_bytes: the most that one forward pass keeps for its backward pass (saved-tensor hooks, each "
    "storage once, parameters apart). allocated_bytes: peak of what PyTorch's CPU allocator has given out during a "
    "step, weights and optimiser included. peak_rss_bytes: the most the process has held until the timed rounds ended.",
    "limit: FLOPs of a step on its images (recomputation included) at the best rate that a 3x3 convolution of the "
    "network's widths reaches here, forward and backward.",
    "All have an EMA; data loading is left out (benchmarks/data_loading.py measures it).",
]


def rows_of(results: dict[str, dict], settings: argparse.Namespace, rates: dict[str, float]) -> list[dict]:
    """One row a contender: epoch time, memory, FLOPs, and how near the machine's limit it comes."""
    rows, steps = [], settings.epoch_images / settings.batch
    for name, result in results.items():
        sides = {int(side): share for side, share in result["sides"].items()}
        epochs = [steps * sum(share * one[side] for side, share in sides.items()) for one in result["rounds"]]
        flops = sum(share * result["flops"][side] for side, share in sides.items()) / settings.batch
        seconds = spread(epochs)
        row = {
            "contender": name, "flags": flags_of(name, settings), "epoch_seconds": seconds,
            "images_per_second": settings.epoch_images / seconds["median"],
            "step_seconds": {side: spread([one[side] for one in result["rounds"]]) for side in sides},
            "step_shares": sides, "gflop_per_image": flops / 1e9,
            "limit_images_per_second": rates[precision_of(name)] / flops,
        }  # fmt: skip
        row["share_of_limit"] = row["images_per_second"] / row["limit_images_per_second"]
        rows.append(row | {key: value for key, value in result.items() if key.endswith("_bytes")})
    return rows


def summary_of(rows: list[dict], plans: dict[str, int]) -> dict[str, float]:
    """Ours ÷ peer, from medians; `plan_relative_error` is the largest over the settings planned."""
    row = {r["contender"]: r for r in rows}
    peer = row["peer"]

    def ratio(name: str, key: str) -> float:
        return row[name][key] / peer[key]

    summary = {
        "speed_setting_speed_ratio": ratio("speed", "images_per_second"),
        "speed_setting_activation_ratio": ratio("speed", "saved_activation_bytes"),
        "memory_setting_activation_ratio": ratio("memory", "saved_activation_bytes"),
        "memory_setting_speed_ratio": ratio("memory", "images_per_second"),
        "patch_activation_ratio": ratio("patch", "saved_activation_bytes"),
        "patch_epoch_time_ratio": row["patch"]["epoch_seconds"]["median"] / peer["epoch_seconds"]["median"],
    }
    if plans:
        errors = {name: plan / row[name]["allocated_bytes"] - 1 for name, plan in plans.items()}
        summary["plan_relative_error"] = max(errors.values(), key=abs)
    return summary
