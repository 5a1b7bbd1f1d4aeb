#!/usr/bin/env python
"""A few hundred pictures at equal time: our defaults against diffusers' script, fine-tuned and from scratch.

    python benchmarks/small_data.py --data PARQUET/ --extractor VIT/,efficientnet-lite0 --label NAME

The data set needs the splits train and validation, of another style than the pre-trained model knows. So many pictures
of its train split as `--pictures` says become a folder of files, as a user has them; its whole validation split judges.
The arms are in small_data.yaml. Run the same command again to go on: an arm that is trained or judged already is not
done again. An arm of 24,000 images takes about 30 minutes on two cores. Pictures of the data set stay in --work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common import FACES, RESULTS, ROOT, write_result
from figure_style import LABEL, new_figure, save, styled
from judging import measured
from PIL import Image
from render_small_data import render_small_data

from pipeline_anime_ddpm.data import open_source
from pipeline_anime_ddpm.data.config import DataConfig
from pipeline_anime_ddpm.data.reading import encoded_content
from pipeline_anime_ddpm.evaluation import EvaluationConfig, evaluate
from pipeline_anime_ddpm.evaluation.metrics.judges import judges
from pipeline_anime_ddpm.evaluation.settings import COPIES

ARMS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
COMPARED = ("ours_tuned", "ours_scratch", "peer_tuned", "peer_scratch")
PACKAGES = ["torch", "diffusers", "torch-fidelity", "numpy"]
FIGURE = ROOT / "model_card" / "figures" / "small_data.png"
TOOK = "minutes.json"  # in an arm's folder: how long its commands took


def save_pictures(data: Path, folder: Path, split: str, count: int | None = None) -> Path:
    """Write the files of a split, or `count` of them by chance, to `folder`, unless they are there."""
    if folder.is_dir():
        return folder
    source = open_source(DataConfig(dataset_name=str(data)), split)
    images = [image for unit in range(source.num_units) for image in source.read(unit)]
    chosen = sorted(np.random.default_rng(0).permutation(len(images))[:count])
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    for number in chosen:
        (partial / f"{number:05d}.png").write_bytes(encoded_content(images[number], source.remote))
    partial.rename(folder)
    return folder


def prepare(settings: argparse.Namespace, pictures: int) -> tuple[Path, Path]:
    """The folder to train on, and the one to compare with: the same pictures as `train`, and all held-out ones."""
    place = settings.work / str(pictures)
    faces = save_pictures(settings.data, place / "faces", "train", pictures)
    judged = place / "judged"
    save_pictures(settings.data, judged / "validation", "validation")
    if not (judged / "train").exists():
        (judged / "train").mkdir()
        for path in faces.iterdir():
            (judged / "train" / path.name).hardlink_to(path)
    return faces, judged


def as_flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    return [f"--{name}={value}"]


def train(arm: dict[str, Any], settings: argparse.Namespace, faces: Path, output: Path) -> Path:
    """Train an arm as a user would; the folder of the model that the user would keep."""
    final = output / "chosen" if arm.get("defaults") else output
    if (final / "model_index.json").is_file() and (output / TOOK).is_file():
        return final
    shutil.rmtree(output, ignore_errors=True)  # what was interrupted has no time that could be compared
    start = "pretrained_model_name_or_path" if arm.get("start") else "model_config_name_or_path"
    images = round(settings.images * arm.get("share", 1.0) / 16) * 16
    flags = {
        "train_data_dir": faces, "max_train_images": images, "report_to": "none", "output_dir": output,
        start: settings.model if arm.get("start") else settings.model / "unet",
    } | arm.get("flags", {})  # fmt: skip
    if not arm.get("start"):
        flags["resolution"] = settings.resolution
    begin = time.monotonic()
    run("train", *(flag for name, value in flags.items() for flag in as_flag(name, value)))
    if arm.get("defaults"):
        run("ema", str(output), "--choose")
    (output / TOOK).write_text(json.dumps({"minutes": (time.monotonic() - begin) / 60, "images": images}))
    return final


def run(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pipeline_anime_ddpm", *words], cwd=ROOT, check=True)


def judge(name: str, settings: argparse.Namespace, pictures: int, judged: Path, model: Path) -> list[dict[str, Any]]:
    """One row for each judge."""
    output = settings.work / str(pictures) / name
    folder = settings.work / str(pictures) / f"eval_{name}"
    record = measured(folder, settings.num_images) or evaluate(
        EvaluationConfig(
            model=str(model), dataset=str(judged), metrics=f"kid,fid,{COPIES}", extractor=settings.extractor,
            extractor_label=settings.label, num_images=settings.num_images, output_dir=str(folder),
            validation_fraction=0, seed=1,
        ),
        show_progress=False,
    )  # fmt: skip
    copies, took = record["metrics"][COPIES], json.loads((output / TOOK).read_text())
    shared = {
        "arm": name, "what": ARMS[name]["what"], "pictures": pictures, **took, "n": record["judged"]["n"],
        "real_n": record["real"]["n"], "memorised_share": copies["memorised_share"],
        "held_out_share": copies["held_out"]["memorised_share"], "suspicious": copies["suspicious"],
    }  # fmt: skip
    return [
        shared | {
            "judge": judge.name, "kid": judge.metrics["kid"]["value"], "kid_std": judge.metrics["kid"]["std"],
            "fd": judge.metrics["fid"]["value"], "floor_kid": judge.floor.get("kid", {}).get("value"),
        }
        for judge in judges(record)
    ]  # fmt: skip


def summary_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Ratios of the fewest pictures, by the first judge, for each pair that was measured."""
    fewest = min(row["pictures"] for row in rows)
    first = rows[0]["judge"]
    by_arm = {row["arm"]: row for row in rows if row["pictures"] == fewest and row["judge"] == first}
    found: dict[str, Any] = {}
    with contextlib.suppress(KeyError):  # of arms that are not measured yet
        ours = by_arm["ours_tuned"]
        found |= {"minutes": ours["minutes"], "memorised_share": ours["memorised_share"]}
        found["kid_over_peer_equal_time"] = ours["kid"] / by_arm["peer_tuned"]["kid"]
        found["kid_over_from_scratch_equal_time"] = ours["kid"] / by_arm["peer_scratch"]["kid"]
    return found


def draw_grids(settings: argparse.Namespace, pictures: int) -> None:
    """The first 32 samples of each of the four arms, none left out."""
    figure = new_figure(5.4)
    with styled():
        for axes, name in zip(figure.subplots(2, 2).flat, COMPARED, strict=True):
            with Image.open(settings.work / str(pictures) / f"eval_{name}" / "grid.png") as grid:
                axes.imshow(grid.convert("RGB").crop((0, 0, grid.width, grid.height // 2)))
            axes.set_axis_off()
            axes.set_title(ARMS[name]["what"], loc="left", fontsize=LABEL)
    save(figure, settings.figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=FACES.with_name("anime_faces_128"))
    parser.add_argument("--model", type=Path, default=ROOT / "hub_model", help="the pre-trained model")
    parser.add_argument("--resolution", type=int, default=64, help="of the pre-trained model")
    parser.add_argument("--arms", nargs="+", default=list(COMPARED), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--pictures", type=int, nargs="+", default=[300], help="sizes of the training set")
    parser.add_argument("--images", type=int, default=24_000, help="that an arm sees")
    parser.add_argument("--num_images", type=int, default=400, help="drawn for each arm")
    parser.add_argument("--extractor", default="efficientnet-lite0")
    parser.add_argument("--label", help="what to call a vision model in results")
    parser.add_argument("--work", type=Path, default=Path("runs/small_data"))
    parser.add_argument("--output", type=Path, default=RESULTS / "small_data.json")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    settings = parser.parse_args()
    settings.work = settings.work.resolve()
    rows = json.loads(settings.output.read_text())["rows"] if settings.output.is_file() else []
    command = (
        f"python benchmarks/small_data.py --images {settings.images} --num_images {settings.num_images} --extractor "
        f"VIT/,efficientnet-lite0 --label {shlex.quote(settings.label or 'NAME')}"
    )
    for pictures in settings.pictures:
        faces, judged = prepare(settings, pictures)
        for name in settings.arms:
            model = train(ARMS[name], settings, faces, settings.work / str(pictures) / name)
            rows = [row for row in rows if (row["arm"], row["pictures"]) != (name, pictures)]
            rows += judge(name, settings, pictures, judged, model)
            rows.sort(key=lambda row: (row["pictures"], list(ARMS).index(row["arm"])))
            what = f"Pictures of another style than {settings.model.name} knows, at {settings.resolution} pixels"
            write_result(settings.output, what, command, PACKAGES, rows=rows, summary=summary_of(rows))
        if set(COMPARED) <= {row["arm"] for row in rows if row["pictures"] == pictures}:
            draw_grids(settings, pictures)
    print(render_small_data(json.loads(settings.output.read_text())))


if __name__ == "__main__":
    main()
