#!/usr/bin/env python
"""What the model in the browser weighs, how good its faces are, and how fast they come.

    python benchmarks/browser.py --model hub_model/four_steps --dataset FACES --extractor FOLDER --label NAME
    python benchmarks/browser.py --stage speed --model hub_model/four_steps

The first command judges faces of the same names in each precision, drawn by PyTorch and by onnxruntime; with one core
it takes most of an hour, and goes on where it was stopped. The second needs Chromium and `npm ci` in web/, and a
machine that does nothing else. Both keep what the other has measured.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from browser_speed import measure_site
from common import FACES, RESULTS, write_result
from judging import BATCH, add_flags, measured, values
from PIL import Image
from render_browser import render_browser

from pipeline_anime_ddpm.common.errors import one_sentence_errors
from pipeline_anime_ddpm.evaluation import EvaluationConfig, evaluate
from pipeline_anime_ddpm.exporting.command import export_onnx
from pipeline_anime_ddpm.exporting.drawing import AnimeONNX
from pipeline_anime_ddpm.exporting.names import latents_for, noise_for
from pipeline_anime_ddpm.exporting.site import build_site, find_runtime
from pipeline_anime_ddpm.loading import load_pipeline

PACKAGES = ["torch", "diffusers", "onnxruntime", "numpy"]
PRECISIONS = ("float32", "float16", "int8")
PYTORCH = "PyTorch"
STAGES = ("quality", "speed")


def exported(settings: argparse.Namespace, precision: str) -> Path:
    """The export of the model, made if it is not there."""
    folder = settings.work / f"onnx-{precision}"
    if not (folder / "recipe.json").is_file():
        print(*export_onnx(settings.model, folder, precision), sep="\n")
    return folder


def artist(settings: argparse.Namespace, arm: str) -> Callable[[str], np.ndarray]:
    """A function from a name to pixels."""
    if arm != PYTORCH:
        model = AnimeONNX(exported(settings, arm))
        return lambda name: model.pixels(noise_for(name, model.image_shape)[None])[0]
    pipeline = load_pipeline(settings.model)
    pipeline.set_progress_bar_config(disable=True)
    return lambda name: np.asarray(pipeline(latents=latents_for(name, pipeline.image_shape)).images[0])


def judge_arm(settings: argparse.Namespace, arm: str) -> dict[str, Any]:
    """FD and KID of faces of the names "face 0", "face 1" and so on."""
    folder, images = settings.work / f"judged-{arm}", settings.work / f"faces-{arm}"
    if found := measured(folder, settings.num_images):
        return values(found)
    images.mkdir(parents=True, exist_ok=True)
    draw = artist(settings, arm)
    for number in range(settings.num_images):
        path = images / f"{number:05d}.png"
        if not path.is_file():
            Image.fromarray(draw(f"face {number}")).save(path)
    config = EvaluationConfig(
        images=str(images), dataset=settings.dataset, metrics="fid,kid,prc", extractor=settings.extractor,
        extractor_label=settings.label, num_images=settings.num_images, floor=False, output_dir=str(folder),
        kid_subset_size=min(settings.num_images // 2, 1000), cache_dir=settings.cache_dir, extractor_batch_size=BATCH,
    )  # fmt: skip
    return values(evaluate(config, show_progress=False))


def rows(settings: argparse.Namespace, before: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each way to draw, with what an earlier command has measured of it."""
    made = []
    for arm in (PYTORCH, *PRECISIONS):
        row = {"name": arm} | before.get(arm, {})
        if settings.stage == "quality":
            row |= judge_arm(settings, arm)
        elif arm != PYTORCH:
            row |= measure_site(site_of(settings, arm), settings.repeats)
        print(row, flush=True)
        made.append(row)
    return made


def site_of(settings: argparse.Namespace, precision: str) -> Path:
    """The page with the model in a precision, made anew."""
    folder = settings.work / f"site-{precision}"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for path in exported(settings, precision).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        print(build_site(folder, find_runtime(settings.cache_dir)))
    return folder


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    by_name = {row["name"]: row for row in found}
    made: dict[str, Any] = {}
    for precision in PRECISIONS[1:]:
        row, reference = by_name[precision], by_name[PYTORCH]
        if "fd" in row and "fd" in reference:
            made[f"{precision}_fd_ratio"] = row["fd"] / reference["fd"]
        if "page_bytes" in row:
            made[f"{precision}_megabytes"] = row["page_bytes"] / 1e6
            made[f"{precision}_first_face_seconds"] = row["first_face"]["median"]
            made[f"{precision}_seconds_per_face"] = row["next_face"]["1"]["median"]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hub_model/four_steps")
    parser.add_argument("--stage", choices=STAGES, default="quality")
    parser.add_argument("--num_images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3, help="cold loads of each page")
    parser.add_argument("--work", type=Path, default=Path("runs/browser"))
    parser.add_argument("--output", type=Path, default=RESULTS / "browser.json")
    add_flags(parser, FACES)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    before = json.loads(settings.output.read_text()) if settings.output.is_file() else {"rows": [], "commands": {}}
    found = rows(settings, {row["name"]: row for row in before["rows"]})
    named = [Path(part).name if part.startswith("/") else part for part in sys.argv[1:]]  # no paths of this machine
    commands = before["commands"] | {settings.stage: shlex.join(["python", "benchmarks/browser.py", *named])}
    write_result(
        settings.output, "The model in the browser: size, image quality and time", commands[settings.stage], PACKAGES,
        commands=commands, rows=found, summary=summary(found),
    )  # fmt: skip
    print(render_browser(json.loads(settings.output.read_text())))


if __name__ == "__main__":
    with one_sentence_errors():
        main()
