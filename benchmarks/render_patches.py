"""The tables of crops by noise level, of the operations of a training step, and of upscalers."""

from __future__ import annotations

from common import table

SUBJECTS = {"crops": "crops", "full": "whole images"}


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


def render_upscaling(result: dict) -> str:
    """The table of `upscaling.json`, as Markdown: each way to enlarge faces, and what the arms of the test cost."""
    judges = [key.removeprefix("kid ") for key in result["rows"][0] if key.startswith("kid ")]
    images = result["images"]
    body = [
        [
            row["what"],
            f"{images[row['arm']]:,}" if row["arm"] in images else "",
            f"{row['psnr']:.2f}",
            f"{row['lpips']:.4f}",
            *(f"{row[f'kid {judge}']:.3g} ± {row[f'kid_std {judge}']:.2g}" for judge in judges),
        ]
        for row in result["rows"]
    ]
    speed, summary = result["speed"], result["summary"]
    steps = " and ".join(f"{speed[name]['median']:.2f} s on {what}" for name, what in SUBJECTS.items())
    return "\n".join([
        *table(["enlarged by", "images seen", "PSNR, dB", "LPIPS", *(f"KID, {judge}" for judge in judges)], body),
        "",
        f"{result['what']}, n = {result['rows'][0]['n']}. LPIPS is ST-LPIPS. KID compares the enlarged faces of "
        f"one half with the real ones of the other, both ways. Each arm had {result['minutes']:g} minutes of one "
        f"core's time. A step of 16 takes {steps}. For its backward pass it keeps "
        f"{summary['crops_over_full_memory']:.3f} times as much memory on crops. The upscaler that ships takes "
        f"{speed['face']['min']:.2f} s a face ({speed['face']['median']:.2f} in the median) on two cores. "
        f"{result['machine']}; torch {result['versions']['torch']}; {result['date']}. Again: `{result['command']}`.",
    ])  # fmt: skip
