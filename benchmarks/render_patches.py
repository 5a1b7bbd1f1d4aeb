"""The tables of crops by noise level, and of the operations of a training step."""

from __future__ import annotations

from common import table


def render_patch_curve(result: dict) -> str:
    """The table of `patch_curve.json`, as Markdown."""
    kinds = list(dict.fromkeys((row["crop"], row["tuned_images"]) for row in result["rows"]))
    cells = {(row["crop"], row["tuned_images"], row["log_sigma"]): row for row in result["rows"]}
    levels = sorted({row["log_sigma"] for row in result["rows"]})
    heads = [f"{side} px, " + (f"tuned on {tuned:,} crops" if tuned else "as it is") for side, tuned in kinds]
    body = [
        [f"{level:g}", f"{cells[(*kinds[0], level)]['loss_full']:.4f}"]
        + [
            f"{cells[(*kind, level)]['excess']:+.1%} ({cells[(*kind, level)]['excess_with_border']:+.1%})"
            for kind in kinds
        ]
        for level in levels
    ]
    summary = result["summary"]
    parting = ", ".join(
        f"{value:.2f} at {key.removeprefix('log_sigma_')} px" for key, value in summary.items() if "log_sigma_" in key
    )
    return "\n".join([
        *table(["log σ", "loss, full images", *heads], body),
        "",
        "Excess loss on crops, over the pixels that count in training (over all pixels of the crop). It is "
        f"{100 * summary['tolerance']:.0f} percentage points above its least from log σ = {parting} on.",
        "",
        f"{result['what']}. {result['machine']}; torch {result['versions']['torch']}; {result['date']}. Again: "
        f"`{result['command']}`.",
    ])  # fmt: skip
