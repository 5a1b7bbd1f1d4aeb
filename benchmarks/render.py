#!/usr/bin/env python
"""The measured tables of README.md and docs/, made from model_card/results/*.json.

python benchmarks/render.py           # rewrite them in place
python benchmarks/render.py --check   # fail if a page is not what the files give
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
from common import RESULTS, ROOT, kid_cell, rewrite_pages, table
from render_browser import render_browser
from render_labels import render_attributes, render_copy_check, render_labels, render_recipes
from render_long_run import render_long_run
from render_noise import render_noise
from render_patches import render_patch_curve, render_step_calls, render_upscaling
from render_small_data import render_small_data
from render_speed import render_data_loading, render_training
from render_summary import render_summary
from scaling import render_scaling

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
JUDGE_FOLDER = "../shared/features/vit_s14"  # where the judge lay on our machine; docs/evaluate.md says what it is
LPIPS = {"lpips_nearest": "LPIPS to the nearest training image", "lpips_diversity": "LPIPS between images"}


DAMAGES = {"none": "none", "blur": "blur, σ {:g} px", "JPEG": "JPEG, quality {:g}", "noise": "noise, σ {:g} of 255"}


def render_evaluation(result: dict) -> str:
    """The tables of `evaluation.json`, as Markdown."""
    damage = [row for row in result["rows"] if row["kind"] == "damage"]
    names = [metric["name"] for metric in damage[0]["metrics"].values()]
    lines = [f"| damage to {damage[0]['n']:,} training images | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row in damage:
        cells = [DAMAGES[row["damage"]].format(row["strength"]), *map(_metric, row["metrics"].values())]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        *_evaluation_notes(result),
        "",
        "| images | flagged as copies of training images | suspicious |",
        "|---|---|---|",
    ]
    for row in (row for row in result["rows"] if row["kind"] == "copies"):
        verdict = "yes" if row["suspicious"] else "no"
        lines.append(f"| {row['n']:,} {row['images']} | {row['memorised_share']:.1%} | {verdict} |")
    first = next(row for row in result["rows"] if row["kind"] == "copies")
    lines += [
        "",
        "All but the first row are training images after the change that the row names. An image is flagged if its "
        f"distance to a training image, mirrored or not, is below {first['threshold']:.4f} in {first['distance']}.",
        "",
        f"{result['what']}. {result['machine']}; torch {result['versions']['torch']}; {result['date']}. "
        f"Again: `{result['command']}`.",
    ]
    return "\n".join(lines)


def _metric(metric: dict) -> str:
    return f"{metric['value']:.4g} ± {metric['std']:.2g}" if "std" in metric else f"{metric['value']:.4g}"


def _evaluation_notes(result: dict) -> list[str]:
    floor = next(row for row in result["rows"] if row["kind"] == "floor")
    halves = next(row for row in result["rows"] if row["kind"] == "halves")
    values = ", ".join(f"{metric['name']} {_metric(metric)}" for metric in floor["metrics"].values())
    return [
        f"The floor, {floor['of']['n']:,} undamaged training images against all held-out ones: {values}. Two disjoint "
        f"halves of the held-out images, {halves['n']:,} each, have a KID of {halves['kid']:.3g} ± "
        f"{halves['kid_std']:.2g} (subsets of {halves['kid_subset_size']}), and their Fréchet distance to themselves "
        f"is {abs(halves['distance_to_itself']):.1g}.",
    ]


def render_evaluation_speed(result: dict) -> str:
    """The table of `evaluation_speed.json`, as Markdown."""
    lines = ["| network | images/s (least to most) |", "|---|---|"]
    for row in (row for row in result["rows"] if row["kind"] == "network"):
        speed = row["images_per_second"]
        lines.append(f"| {row['name']} | {speed['median']:.1f} ({speed['min']:.1f} to {speed['max']:.1f}) |")
    cache, search = (next(row for row in result["rows"] if row["kind"] == kind) for kind in ("cache", "search"))
    first, second = cache["seconds"]
    return "\n".join([
        *lines,
        "",
        f"The features of {cache['n']} real images took {first:.2f} s with {cache['name']} in a first run and "
        f"{second:.3f} s in the second, which found them. The nearest 3 of {search['among']:,} images to each of "
        f"{search['n']} by {search['name']}: {search['seconds']:.1f} s.",
        "",
        f"{result['what']}; medians. {result['machine']}; torch {result['versions']['torch']}; {result['date']}. "
        f"Again: `{result['command']}`.",
    ])  # fmt: skip


def render_sampling(result: dict) -> str:
    """The table of `sampling.json`, as Markdown."""
    body = []
    for row in (row for row in result["rows"] if row["kind"] != "backend"):
        judged = [kid_cell(row), f"{row['fd']:.1f}"] if "kid" in row else ["", ""]
        timed = [f"{row['seconds'][kind]['median']:.3g}" for kind in ("one", "batch")] if "seconds" in row else ["", ""]
        body.append([row["name"], *judged, *timed])
    judged = [row for row in result["rows"] if "kid" in row]
    note = f" {judged[0]['n']:,} images for each KID" if judged else ""
    note += "." * bool(judged)
    for device in sorted({row["device"] for row in judged} - {judged[0]["device"]}) if judged else ():
        names = " and ".join(f"`{row['name']}`" for row in judged if row["device"] == device)
        note += f" {names} were sampled and judged on {device}, the other rows on {judged[0]['device']}."
    if any("seconds" in row for row in result["rows"]):
        note += " Times are medians; of more than 50 steps, 50 were timed."
    return "\n".join([
        *table(["sampler", "KID", "FD", "s, one image", "s an image, in batches"], body),
        "",
        *_backends([row for row in result["rows"] if row["kind"] == "backend"]),
        f"{result['what']}.{note} {result['machine']}; torch {result['versions']['torch']}; {result['date']}. Again: "
        f"`{result['command']}`.",
    ])  # fmt: skip


def _backends(rows: list[dict]) -> list[str]:
    """A table of how fast a call of the network is, and an empty line; nothing if that was not measured."""
    body = [
        [
            row["name"],
            str(row["batch"]),
            f"{1e3 * row['call']['median']:.2f} ({1e3 * row['call']['min']:.2f} to {1e3 * row['call']['max']:.2f})",
            f"{row['difference']:.1e}",
        ]
        for row in rows
    ]
    head = ["one call of the network by", "images", "ms an image", "largest difference from eager"]
    return [*table(head, body), ""] if rows else []


def render_demo(result: dict) -> str:
    """The tables of `demo.json`, as Markdown."""

    def seconds(values: dict) -> str:
        return f"{values['median']:.2f} s ({values['min']:.2f} to {values['max']:.2f})"

    visits = [[row["what"], seconds(row["seconds"])] for row in result["rows"] if row["kind"] == "visit"]
    loads = [row for row in result["rows"] if row["kind"] == "load"]
    body = [
        [str(row["faces"]), f"{row['requests']:,}", str(row["errors"]), f"{row['p50']:.1f} s", f"{row['p95']:.1f} s",
         " / ".join(f"{part / 1e6:.0f}" for part in row["memory"])]
        for row in loads
    ]  # fmt: skip
    head = [f"faces a request, {loads[0]['visitors']} visitors at once", "requests", "errors", "median wait",
            "95th percentile", "memory before / halfway / after, MB"]  # fmt: skip
    summary = result["summary"]
    text = (
        f"Before the first face {summary['bytes_before_first_face'] / 1e6:.2f} MB come in "
        f"{summary['requests_before_first_face']} requests."
    )
    if "axe_findings" in summary:
        text += (
            f" Findings of axe in all tabs, light and dark: {summary['axe_findings']}. Lighthouse: accessibility "
            f"{summary['lighthouse_accessibility']}, best practices {summary['lighthouse_best_practices']}."
        )
    note = (
        f"{result['what']}. {result['machine']}; torch {result['versions']['torch']}, gradio "
        f"{result['versions']['gradio']}; {result['date']}. Again: `{result['command']}`."
    )
    tables = [*table(["from opening the page, or from the click", "time"], visits), "", *table(head, body)]
    return "\n".join([*tables, "", text, "", note])


def render_faults(result: dict) -> str:
    """The table of `faults.json`, as Markdown."""
    body = [[row["fault"], str(row["tried"]), str(row["survived"]), row["sees"]] for row in result["rows"]]
    total = ["together", *(str(result["summary"][key]) for key in ("tried", "survived")), ""]
    return "\n".join([
        *table(["what happens", "tried", "survived", "what you see, for example"], [*body, total]),
        "",
        f"{result['what']}. {result['machine']}; torch {result['versions']['torch']}; {result['date']}. Again: "
        f"`{result['command']}`.",
    ])  # fmt: skip


def render_calibration(result: dict) -> str:
    """The table of a `calibration.json`, as Markdown."""
    sets = [data for data in (result, result["beside"]) if data]
    names = [Path(data["images"]["source"]).name for data in sets]
    body = [
        [_band(band), *(f"{data['bands'][index]['log_sigma']:.2f}" for data in sets)]
        for index, band in enumerate(result["bands"])
    ]
    body.append(["SSIM is a half", *(f"{np.interp(0.5, data['ssim'], data['logsnr']) / -2:.2f}" for data in sets)])
    counts = " and ".join(f"{data['images']['n']:,} of {name}" for data, name in zip(sets, names, strict=True))
    return "\n".join([
        *table(["log σ at which noise is as strong as", *names], body),
        "",
        f"Images: {counts}, {result['images']['split']} split, at {result['images']['resolution']} pixels; noise of "
        f"seed {result['seed']}.",
    ])  # fmt: skip


def _band(band: dict) -> str:
    if band["highest"] == 0:
        return "the mean colour"
    return f"{band['lowest']} to {band['highest']} cycles an image" if band["highest"] > 1 else "1 cycle an image"


def render_quality(result: dict) -> str:
    """The two tables of `quality.json`, as Markdown: equal images, and equal time."""
    lines = []
    for kind, title in (("images", "Equal images"), ("time", "Equal time of training")):
        rows = [row for row in result["rows"] if row["kind"] == kind]
        if not rows:
            continue
        body = [
            [
                row["what"],
                f"{row['images']:,}",
                f"{row['device']}, {row['trained_in']}",
                row["sampler"],
                f"{kid_cell(row)} ({', '.join(f'{kid:.3f}' for kid in row['kid_seeds'])})",
                f"{row['fd']:.1f}",
                *(f"{row['lpips'][name]:.3f}" for name in LPIPS if kind == "images"),
            ]
            for row in rows
        ]
        head = [
            title,
            "images",
            "trained and judged on",
            "its best sampler",
            "KID (each seed)",
            "FD",
            *(LPIPS.values() if kind == "images" else ()),
        ]
        lines += [*table(head, body), ""]
    first = next(row for row in result["rows"] if row["kind"] == "images")
    floor = first["floor"]
    return "\n".join([
        *lines,
        f"{result['what']}; {first['n']:,} samples for each sampling seed, against {first['real']}, by "
        f"{first['extractor']}. The floor, as many training images, has KID {floor['kid']:.3f} and FD "
        f"{floor['fd']:.1f}. Equal time: each arm trains for as long as the baseline needs for {first['images']:,} "
        f"images. Rows on CPU cores: {result['machine']}; torch {result['versions']['torch']}; {result['date']}. "
        "Again, a command for each machine:",
        "",
        *_quality_commands(result),
    ])  # fmt: skip


def _quality_commands(result: dict) -> list[str]:
    """A line for each machine: its arms, and the command that trains and judges them there."""
    devices: dict[str, list[dict]] = {}
    for row in result["rows"]:
        if row["kind"] == "images":
            devices.setdefault(row["device"], []).append(row)
    command = re.sub(r" --arms( \w+)+| --mixed_precision \w+", "", result["command"])
    lines = []
    for device, rows in devices.items():
        precision = next((row["trained_in"] for row in rows if row["trained_in"] != "float32"), None)
        more = f" --mixed_precision {precision}" if precision else ""
        lines.append(f"- {device}: `{command} --arms {' '.join(row['arm'] for row in rows)}{more}`")
    return lines


RENDERERS = {
    "browser": render_browser,
    "data_loading": render_data_loading,
    "training": render_training,
    "training_cuda": render_training,
    "evaluation": render_evaluation,
    "evaluation_speed": render_evaluation_speed,
    "calibration_32": render_calibration,
    "calibration_64": render_calibration,
    "noise": render_noise,
    "sampling": render_sampling,
    "sampling_patch": render_sampling,
    "quality": render_quality,
    "demo": render_demo,
    "long_run": render_long_run,
    "faults": render_faults,
    "scaling": render_scaling,
    "labels": render_labels,
    "attributes": render_attributes,
    "recipes": render_recipes,
    "copy_check": render_copy_check,
    "patch_curve": render_patch_curve,
    "step_calls": render_step_calls,
    "small_data": render_small_data,
    "upscaling": render_upscaling,
}


def rendered(text: str, results: Path = RESULTS) -> str:
    """`text` with each part between `<!-- results:NAME -->` and `<!-- end results:NAME -->` made anew."""

    def block(match: re.Match[str]) -> str:
        name = match[2]
        if name == "summary":
            return f"{match[1]}{render_summary(results)}\n{match[3]}"
        text = RENDERERS[name](json.loads((results / f"{name}.json").read_text())).replace(JUDGE_FOLDER, "vit_s14/")
        return f"{match[1]}{text}\n{match[3]}"

    return re.sub(r"(<!-- results:(\w+) -->\n).*?(<!-- end results:\2 -->)", block, text, flags=re.DOTALL)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if something would change")
    parser.add_argument("--pages", type=Path, nargs="+", default=PAGES)
    arguments = parser.parse_args(argv)
    gives = "model_card/results gives; run `python benchmarks/render.py`"
    rewrite_pages(arguments.pages, rendered, arguments.check, gives)


if __name__ == "__main__":
    main()
