"""Results from the rows of `noise.json`: the best training, and its margin."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

from noise_arms import ARMS


def from_scratch(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        row for row in rows if row["kind"] == "arm" and not ARMS[row["arm"]].start and ARMS[row["arm"]].data == "faces"
    ]


def winner(rows: list[dict[str, Any]]) -> str | None:
    """The run from scratch, of seed 0, with the least FD of those that KID's spread cannot tell from the best."""
    arms = [row for row in from_scratch(rows) if row["seed"] == 0]
    if not arms:
        return None
    best = min(arms, key=lambda row: row["kid"])
    level = [row for row in arms if row["kid"] <= best["kid"] + best["kid_std"]]
    return min(level, key=lambda row: row["fd"])["run"]


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The ratios of the winner and arm A that can be told from what is there."""
    best, arms = winner(rows), {row["run"]: row for row in rows if row["kind"] == "arm"}
    summary: dict[str, Any] = {"winner": best}
    if best is None or "A" not in arms:
        return summary
    summary["winner_kid_ratio"] = arms[best]["kid"] / arms["A"]["kid"]
    summary["winner_fd_ratio"] = arms[best]["fd"] / arms["A"]["fd"]
    curves = {
        run: [(row["at"], row["kid"]) for row in rows if row["kind"] == "curve" and row["run"] == run] for run in arms
    }
    if curves["A"] and curves[best]:
        images, goal = curves["A"][-1]
        reached = images_to_reach(curves[best], goal)
        summary["images_to_match_ratio"] = reached and reached / images
    return summary


def images_to_reach(curve: list[tuple[float, float]], goal: float) -> float | None:
    """Where a falling curve of (images, KID) first reaches `goal`, linear in the logarithms; None if never."""
    for (before, high), (after, low) in itertools.pairwise(curve):
        if curve[0][1] <= goal:
            return curve[0][0]
        if low <= goal < high:
            share = math.log(high / goal) / math.log(high / max(low, 1e-9))
            return before * (after / before) ** share
    return None
