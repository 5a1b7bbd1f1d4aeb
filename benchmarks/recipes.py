#!/usr/bin/env python
"""Which way to train is best in the same time: pre-training on tagged faces, labels, Muon, immiscible noise.

    python benchmarks/recipes.py --real LABELLED/ --tagged TAGGED/ --mixed MIXED/ --extractor NAMES --label NAME

An arm of 43,000 images takes 25 minutes on one core at 28 images/s; with 16,000 none draws more than smears.
`benchmarks/attributes.py label` makes LABELLED out of faces without labels, and `--make_mixed` makes MIXED out of the
two others. The arms are in recipes.yaml. Run the same command again to go on: what is trained or judged already is not
done again. An arm whose steps take longer sees fewer images, by the ratio that `--stages speed` measures.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from common import FACES, RESULTS, ROOT, spread, write_result
from figure_style import LABEL, new_figure, save, styled
from judging import measured
from PIL import Image

from pipeline_anime_ddpm.evaluation import EvaluationConfig, evaluate
from pipeline_anime_ddpm.evaluation.metrics.judges import judges

ARMS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
PACKAGES = ["torch", "diffusers", "transformers", "torch-fidelity", "efficientnet-lite-pytorch", "numpy"]
BASELINE = "real_plain"
FIGURE = ROOT / "model_card" / "figures" / "recipes.png"
SHARED = {
    "resolution": 64,
    "random_flip": True,
    "train_batch_size": 16,
    "lr_warmup_steps": 200,
    "learning_rate": 6e-4,
    "checkpointing_steps": 250,
    "save_images_epochs": 1000,
    "save_model_epochs": 1000,
    "report_to": "none",
    "logging_steps": 50,
}
TIMED_STEPS, ROUNDS = 30, 3


def make_mixed(real: Path, tagged: Path, folder: Path) -> None:
    """Both data sets in one, shuffled, with a column `domain` that says which an image is of."""
    import datasets
    import pyarrow

    names, parts = ["real", "tagged"], []
    for number, data in enumerate((real, tagged)):
        part = datasets.load_dataset(str(data), split="train")
        table = part.with_format("arrow")[:].select(["image", "eyes", "hair"])
        parts.append(table.append_column("domain", pyarrow.array([number] * len(part), pyarrow.int64())))
        features = part.features
    kinds = {name: features[name] for name in ("image", "eyes", "hair")} | {"domain": datasets.ClassLabel(names=names)}
    schema = datasets.Features(kinds).arrow_schema
    bare = [part.replace_schema_metadata(None).cast(schema.remove_metadata()) for part in parts]
    whole = pyarrow.concat_tables(bare).replace_schema_metadata(schema.metadata)
    mixed = datasets.Dataset(whole).shuffle(seed=0).flatten_indices()
    (folder / "data").mkdir(parents=True)
    for part in range(8):
        mixed.shard(8, part, contiguous=True).to_parquet(folder / "data" / f"train-{part:05d}-of-00008.parquet")


def flags_of(stage: dict[str, Any], settings: argparse.Namespace, output: Path, start: Path | None) -> list[str]:
    own = {name: value for name, value in stage.items() if name not in ("data", "images")}
    network = {"pretrained_model_name_or_path": start} if start else {"model_config_name_or_path": settings.network}
    values = SHARED | network | {"dataset_name": getattr(settings, stage["data"]), "output_dir": output} | own
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items()]


def train(name: str, settings: argparse.Namespace, images: int) -> None:
    """All stages of an arm; the last one's folder has its name."""
    start, stages = None, ARMS[name]["stages"]
    for number, stage in enumerate(stages):
        output = settings.work / (name if stage is stages[-1] else f"{name}-{number}")
        if not (output / "model_index.json").is_file():
            share = int(images * stage["images"]) // 16 * 16
            run([*flags_of(stage, settings, output, start), f"--max_train_images={share}"])
        start = output


def run(flags: list[str]) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # an arm is trained on one core
    subprocess.run([sys.executable, str(ROOT / "train_anime_ddpm.py"), *flags], env=environment, check=True)


def step_seconds(settings: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds a step of each kind of training, taken in turns; median, least and most of the rounds."""
    wanted = {BASELINE: {}, "real_lab": {"label_columns": "hair,eyes"}}
    wanted |= {"real_muon": {"optimizer": "muon"}, "real_knn": {"noise_candidates": 4}}
    seconds: dict[str, list[float]] = {name: [] for name in wanted}
    for turn in range(ROUNDS):
        for name, own in wanted.items():
            folder = settings.work / "speed" / f"{name}-{turn}"
            stage = {"data": "real", "images": 1.0} | own
            steps = {"max_train_steps": TIMED_STEPS, "logging_steps": 10, "validation_images": 1, "use_ema": True}
            flags = flags_of(stage | steps, settings, folder, None)
            begin = time.perf_counter()
            run([*flags, "--lr_warmup_steps=1"])
            rows = (folder / "metrics.csv").read_text().splitlines()
            header, last = rows[0].split(","), rows[-1].split(",")
            seconds[name].append(16 / float(last[header.index("images_per_second")]))
            print(f"{name}: {seconds[name][-1]:.3f} s a step ({time.perf_counter() - begin:.0f} s in all)", flush=True)
    return {name: spread(values) for name, values in seconds.items()}


def judge(name: str, settings: argparse.Namespace) -> list[dict[str, Any]]:
    """The arm's images by each judge: rows of KID and FD."""
    folder = settings.work / f"eval_{name}"
    record = measured(folder, settings.num_images) or evaluate(
        EvaluationConfig(
            model=str(settings.work / name), dataset=str(settings.dataset), extractor=settings.extractor,
            extractor_label=settings.label, metrics="fid,kid,prc", num_images=settings.num_images, floor=False,
            kid_subset_size=min(1000, settings.num_images // 2), num_inference_steps=10,
            labels=ARMS[name].get("labels"), output_dir=str(folder), cache_dir=settings.cache_dir,
        ),
        show_progress=False,
    )  # fmt: skip
    rows = []
    for one in judges(record):
        metrics = {key: metric["value"] for key, metric in one.metrics.items()}
        facts = {"arm": name, "what": ARMS[name]["what"], "judge": one.name, "n": record["judged"]["n"]}
        rows.append(facts | metrics | {"kid_std": one.metrics["kid"]["std"]})
    return rows


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """KID of each arm over the baseline's, the geometric mean of the judges."""
    base = {row["judge"]: row["kid"] for row in rows if row["arm"] == BASELINE}
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["judge"] in base:
            found.setdefault(row["arm"], []).append(row["kid"] / base[row["judge"]])
    return {f"{arm}_kid_ratio": statistics.geometric_mean(values) for arm, values in found.items() if min(values) > 0}


def draw_strips(settings: argparse.Namespace) -> None:
    """A row of faces of the same seeds for each arm: the first row of its evaluation's grid."""
    figure = new_figure(0.41 * len(ARMS))
    with styled():
        for axes, (name, arm) in zip(figure.subplots(len(ARMS) // 2, 2).flat, ARMS.items(), strict=True):
            with Image.open(settings.work / f"eval_{name}" / "grid.png") as grid:
                axes.imshow(grid.convert("RGB").crop((0, 0, grid.width, grid.width // 8)))  # of 8 columns
            axes.set_axis_off()
            axes.set_title(arm["what"], loc="left", fontsize=LABEL)
    save(figure, FIGURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("real", "tagged", "mixed"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"data set of the {name} faces, with labels")
    parser.add_argument("--network", default=str(ROOT / "hub_model" / "unet"), help="config of the network")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--stages", nargs="+", default=["train", "judge"], choices=("speed", "train", "judge"))
    parser.add_argument("--images", type=int, default=43_000, help="that an arm of plain speed sees")
    parser.add_argument("--num_images", type=int, default=1000, help="drawn for each arm")
    parser.add_argument("--dataset", default=str(FACES), help="real faces to compare with")
    parser.add_argument("--extractor", default="efficientnet-lite0")
    parser.add_argument("--label", help="what to call a vision model in results")
    parser.add_argument("--cache_dir")
    parser.add_argument("--make_mixed", action="store_true", help="make --mixed out of the two others first")
    parser.add_argument("--work", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--output", type=Path, default=RESULTS / "recipes.json")
    settings = parser.parse_args()
    if settings.make_mixed and not settings.mixed.exists():
        make_mixed(settings.real, settings.tagged, settings.mixed)
    before = json.loads(settings.output.read_text()) if settings.output.is_file() else {"rows": [], "speed": {}}
    speed = step_seconds(settings) if "speed" in settings.stages else before["speed"]
    for name in settings.arms if "train" in settings.stages else ():
        slower = speed.get(name, {}).get("median", 1) / speed[BASELINE]["median"] if name in speed else 1.0
        train(name, settings, round(settings.images / max(1.0, slower)))
    rows = [row for row in before["rows"] if row["arm"] not in settings.arms or "judge" not in settings.stages]
    if "judge" in settings.stages:
        for name in settings.arms:
            rows += judge(name, settings)
            print(json.dumps(rows[-1]), flush=True)
        if all((settings.work / f"eval_{name}" / "grid.png").is_file() for name in ARMS):
            draw_strips(settings)
    rows.sort(key=lambda row: (list(ARMS).index(row["arm"]), row["judge"]))
    command = (
        "python benchmarks/recipes.py --real LABELLED/ --tagged TAGGED/ --mixed MIXED/ --make_mixed --stages speed "
        f"train judge --images {settings.images} --num_images {settings.num_images} "
        f"--extractor VIT/,efficientnet-lite0 --label {shlex.quote(settings.label or 'NAME')}"
    )
    write_result(
        settings.output, "ways to train at equal time, by two judges", command, PACKAGES, rows=rows, speed=speed,
        images=settings.images, summary=ratios(rows),
    )  # fmt: skip


if __name__ == "__main__":
    main()
