"""Train the classifier of hair and eye colours, label faces with it, and measure it."""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch
from common import ROOT
from PIL import Image

from pipeline_anime_ddpm.evaluation.attribute_training import (
    AttributeTraining,
    calibrate,
    set_thresholds,
    train_attributes,
)
from pipeline_anime_ddpm.evaluation.attributes import AttributeClassifier

TAGGED = ROOT.parent / "shared" / "data" / "anime_tagged_64"
CALIBRATION = 1_488  # the last tagged training faces, kept for temperatures and thresholds
PRECISION = {"eyes": 0.97, "hair": 0.99}


def read_images(files: list[Path]) -> torch.Tensor:
    """`(N, 3, H, W)` uint8 of parquet files in the Hub's layout."""
    images = []
    for file in files:
        for row in pyarrow.parquet.read_table(file, columns=["image"])["image"].to_pylist():
            images.append(np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def read_labels(files: list[Path]) -> tuple[dict[str, torch.Tensor], dict[str, list[str]]]:
    """The `ClassLabel` columns, attribute -> `(N,)` int64, and the names of their values."""
    features = json.loads(pyarrow.parquet.read_schema(files[0]).metadata[b"huggingface"])["info"]["features"]
    names = {name: facts["names"] for name, facts in sorted(features.items()) if facts["_type"] == "ClassLabel"}
    tables = [pyarrow.parquet.read_table(file, columns=list(names)) for file in files]
    return {
        name: torch.from_numpy(np.concatenate([table[name].to_numpy() for table in tables])) for name in names
    }, names


def split_files(data: Path, split: str) -> list[Path]:
    return sorted((data / "data").glob(f"{split}-*.parquet"))


def train(options: argparse.Namespace) -> None:
    files = split_files(options.data, "train")
    images, (targets, labels) = read_images(files), read_labels(files)
    settings = AttributeTraining(images=options.images, bfloat16=options.bfloat16, seed=options.seed)
    print(f"{len(images)} faces", flush=True)
    start = time.perf_counter()

    def report(step: int, loss: float) -> None:
        if step % 50 == 49:
            seen = (step + 1) * settings.batch_size
            print(f"{seen} images, loss {loss:.3f}, {seen / (time.perf_counter() - start):.0f} images/s", flush=True)

    kept = slice(None, -CALIBRATION)
    classifier = train_attributes(images[kept], _part(targets, kept), labels, settings, report)
    held_out = slice(-CALIBRATION, None)
    calibrate(classifier, images[held_out], _part(targets, held_out))
    set_thresholds(classifier, images[held_out], _part(targets, held_out), PRECISION)
    classifier.save_pretrained(options.output)
    print(f"{time.perf_counter() - start:.0f} s", measure_tagged(classifier, options.data))


def _part(targets: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    return {name: values[rows] for name, values in targets.items()}


def measure_tagged(classifier: AttributeClassifier, data: Path) -> dict[str, Any]:
    files = split_files(data, "validation")
    return classifier.accuracy(read_images(files), read_labels(files)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train", help="train a classifier on tagged faces")
    command.add_argument("--data", type=Path, default=TAGGED)
    command.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "models" / "attributes")
    command.add_argument("--images", type=int, default=AttributeTraining.images)
    command.add_argument("--bfloat16", action="store_true", help="train under autocast")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=train)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
