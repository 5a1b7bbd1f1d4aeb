"""The tables of crops by noise level, and of the operations of a training step."""

from __future__ import annotations

from common import table


def render_patch_curve(result: dict) -> str:
    """The tables of `patch_curve.json`, as Markdown: by noise level, and by distance from a crop's border."""
    kinds = list(dict.fromkeys((row["crop"], row["tuned_images"]) for row in result["rows"]))
    cells = {(row["crop"], row["tuned_images"], row["log_sigma"]): row for row in result["rows"]}
    levels = sorted({row["log_sigma"] for row in result["rows"]})
    heads = [f"{side} px, " + (f"tuned on {tuned:,} crops" if tuned else "as it is") for side, tuned in kinds]
    body = [
        [f"{level:g}", f"{cells[(*kinds[0], level)]['loss_full']:.4f}"]
        + [f"{cells[(*kind, level)]['excess']:+.1%}" for kind in kinds]
        for level in levels
    ]
    side, tuned = max(kinds)
    margins = list(cells[(side, tuned, levels[0])]["excess_by_margin"])
    places = [f"{margin} px inside" if int(margin) else "whole crop" for margin in margins]
    by_margin = [
        [f"{level:g}", *(f"{cells[(side, tuned, level)]['excess_by_margin'][margin]:+.1%}" for margin in margins)]
        for level in levels
    ]
    parting = "; ".join(
        f"at {key.removeprefix('log_sigma_')} px "
        + " and ".join(f"{100 * float(rise):.0f} points at log σ = {value:.2f}" for rise, value in values.items())
        for key, values in result["summary"].items()
        if key.startswith("log_sigma_")
    )
    return "\n".join([
        *table(["log σ", "loss, full images", *heads], body),
        "",
        "Excess loss on crops, over the pixels that count in training. It rises above its least by so many percentage "
        f"points: {parting}.",
        "",
        *table([f"log σ; {side} px, tuned", *places], by_margin),
        "",
        f"{result['what']}. {result['machine']}; torch {result['versions']['torch']}; {result['date']}. Again: "
        f"`{result['command']}`.",
    ])  # fmt: skip


def render_step_calls(result: dict) -> str:
    """The table of `step_calls.json`, as Markdown."""
    default = next(row for row in result["rows"] if row["contender"] == "speed")
    body = [
        [
            row["name"],
            f"{row['network_calls']:g}",
            f"{row['operations']:,.0f}",
            f"{row['drawing'] + row['passes']:,.0f}",
            f"{row['update']:,.0f}",
            f"{row['operations'] / default['operations']:.2f}×",
        ]
        for row in result["rows"]
    ]
    head = ["training step", "network calls", "operations", "draw, forward, backward", "clip, optimiser, EMA"]
    head += ["operations over ours"]
    return "\n".join([
        *table(head, body),
        "",
        *result["notes"],
        "",
        f"{result['what']}. {result['machine']}; torch {result['versions']['torch']}; {result['date']}. Again: "
        f"`{result['command']}`.",
    ])  # fmt: skip
