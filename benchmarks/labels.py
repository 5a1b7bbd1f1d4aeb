#!/usr/bin/env python
"""Does a labelled model generate what it is asked for, and what do labels cost?

    python benchmarks/labels.py --model MODEL --labelled METRICS.JSON --unlabelled METRICS.JSON

Each face is asked for a hair and an eye colour; every combination comes equally often, in an order drawn from the seed.
The classifier of benchmarks/attributes.py says what was generated. The two records are of `anime-ddpm evaluate`: the
labelled model asked for any, and an unlabelled one. Their trainings may differ: the ratio compares two models.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, ROOT, write_result
from PIL import Image

from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.evaluation.attributes.classifier import AttributeClassifier
from pipeline_anime_ddpm.evaluation.metrics.judges import judges

PACKAGES = ["torch", "diffusers", "numpy"]
BATCH = 32
ASKED = ("hair", "eyes")
FIGURE = ROOT / "model_card" / "figures" / "labels.png"


def combinations(names: dict[str, list[str]], count: int, seed: int) -> dict[str, list[int]]:
    """Values of hair and eyes of `count` faces: all combinations in turn, in an order that follows from the seed."""
    sizes = [len(names[attribute]) for attribute in ASKED]
    numbers = np.random.default_rng(seed).permutation(np.resize(np.arange(np.prod(sizes)), count))
    return {
        attribute: values.tolist() for attribute, values in zip(ASKED, np.unravel_index(numbers, sizes), strict=True)
    }


def draw(
    pipeline: AnimeDDPMPipeline, asked: dict[str, list[int]], seeds: list[int], scale: float, steps: int | None
) -> torch.Tensor:
    """`(B, 3, R, R)` float32 in [0, 1], image i by the i-th label and seed."""
    images = []
    for start in range(0, len(seeds), BATCH):
        part = slice(start, start + BATCH)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
        labels = {name: values[part] for name, values in asked.items()}
        drawn = pipeline(
            len(generators), generator=generators, labels=labels, guidance_scale=scale, num_inference_steps=steps,
            output_type="pt",
        )  # fmt: skip
        images.append(drawn.images.cpu())
    return torch.cat(images)


def measure(
    pipeline: AnimeDDPMPipeline, classifier: AttributeClassifier, settings: argparse.Namespace
) -> list[dict[str, Any]]:
    """For each guidance scale, the share of faces with the hair and with the eyes that they were asked for."""
    asked = combinations(pipeline.labels, settings.num_images, settings.seed)
    wanted = {
        name: [classifier.labels[name].index(pipeline.labels[name][value]) for value in values]
        for name, values in asked.items()
    }
    seeds = [settings.seed * 1_000_000 + number for number in range(settings.num_images)]
    rows = []
    for scale in settings.guidance_scale:
        images = (draw(pipeline, asked, seeds, scale, settings.num_inference_steps) * 255).round().to(torch.uint8)
        shares = classifier.accuracy(images, wanted)
        predicted = classifier.label(images, sure=0.0)
        both = torch.stack([predicted[name] == torch.tensor(values) for name, values in wanted.items()]).all(dim=0)
        rows.append({"guidance_scale": scale, "n": settings.num_images, **shares, "both": both.float().mean().item()})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def draw_grid(pipeline: AnimeDDPMPipeline, scale: float, steps: int | None, seed: int, path: Path) -> None:
    """Hair down, eyes across, the same seed in every place."""
    rows, columns = (len(pipeline.labels[name]) for name in ASKED)
    asked = {"hair": np.repeat(np.arange(rows), columns).tolist(), "eyes": [*range(columns)] * rows}
    images = draw(pipeline, asked, [seed] * (rows * columns), scale, steps)
    side = images.shape[-1]
    grid = images.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).reshape(rows * side, columns * side, 3)
    Image.fromarray((grid * 255).round().to(torch.uint8).numpy()).save(path)


def kid_ratios(labelled: Path, unlabelled: Path) -> dict[str, float]:
    """KID of the labelled model over that of the unlabelled one, by each judge."""
    first, second = (
        {judge.name: judge.metrics["kid"]["value"] for judge in judges(json.loads(path.read_text()))}
        for path in (labelled, unlabelled)
    )
    return {name: first[name] / second[name] for name in first if name in second}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "hub_model")
    parser.add_argument("--classifier", type=Path, default=ROOT / "benchmarks" / "models" / "attributes")
    parser.add_argument("--labelled", type=Path, help="metrics.json of the labelled model, asked for any")
    parser.add_argument("--unlabelled", type=Path, help="metrics.json of an unlabelled model")
    parser.add_argument("--num_images", type=int, default=1000)
    parser.add_argument("--guidance_scale", type=float, nargs="+", default=[1.0, 1.5, 2.0])
    parser.add_argument("--num_inference_steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid_scale", type=float, default=1.5, help="guidance of the grid")
    parser.add_argument("--grid_seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--output", type=Path, default=RESULTS / "labels.json")
    settings = parser.parse_args()
    pipeline = AnimeDDPMPipeline.from_pretrained(settings.model)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.to(memory_format=torch.channels_last)
    classifier = AttributeClassifier.from_pretrained(settings.classifier)
    settings.figure.parent.mkdir(parents=True, exist_ok=True)
    draw_grid(pipeline, settings.grid_scale, settings.num_inference_steps, settings.grid_seed, settings.figure)
    rows = measure(pipeline, classifier, settings)
    best = max(rows, key=lambda row: row["hair"] + row["eyes"])
    summary = {f"{name}_accuracy": best[name] for name in ASKED} | {"guidance_scale": best["guidance_scale"]}
    own = RESULTS / "attributes.json"
    if own.is_file():
        found = json.loads(own.read_text())["summary"]
        summary |= {key: found[key] for key in ("classifier_hair_accuracy", "classifier_eyes_accuracy")}
    ratios = {}
    if settings.labelled and settings.unlabelled:
        ratios = kid_ratios(settings.labelled, settings.unlabelled)
        summary["kid_over_unlabelled"] = max(ratios.values())
    scales = " ".join(f"{scale:g}" for scale in settings.guidance_scale)
    command = (
        f"python benchmarks/labels.py --model MODEL --guidance_scale {scales} --num_images {settings.num_images} "
        "--labelled METRICS.JSON --unlabelled METRICS.JSON"
    )
    write_result(
        settings.output, "hair and eyes as they were asked for", command, PACKAGES, rows=rows,
        kid_over_unlabelled=ratios, summary=summary,
    )  # fmt: skip


if __name__ == "__main__":
    main()
