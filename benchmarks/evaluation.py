#!/usr/bin/env python
"""Do the metrics see what they should? Damage of three kinds and strengths, copies of training images, and the floor.

python benchmarks/evaluation.py --extractor FOLDER --label NAME
"""

from __future__ import annotations

import argparse
import io
import json
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import FACES, RESULTS, drawn_faces, gpu_name, write_result
from PIL import Image, ImageFilter
from render import render_evaluation

from pipeline_anime_ddpm.common.errors import one_sentence_errors
from pipeline_anime_ddpm.evaluation import ReferenceConfig
from pipeline_anime_ddpm.evaluation.metrics.distances import frechet_distance, kernel_distance
from pipeline_anime_ddpm.evaluation.metrics.memorisation import find_nearest
from pipeline_anime_ddpm.evaluation.reference import (
    Reference,
    chance_limit,
    copy_threshold,
    feature_metrics,
    held_out_distances,
    measure_floor,
    open_reference,
)

PACKAGES = ["torch", "transformers", "torch-fidelity", "numpy"]
DAMAGE = {"blur": (0.5, 1, 2), "JPEG": (50, 20, 5), "noise": (8, 16, 30)}
COPIES = {  # what a generator without any imagination might do
    "mirrored": lambda pixels: pixels[..., ::-1],
    "noise of 4": lambda pixels: damaged(pixels, "noise", 4),
    "noise of 8": lambda pixels: damaged(pixels, "noise", 8),
    "mirrored, noise of 8": lambda pixels: damaged(pixels, "noise", 8)[..., ::-1],
    "JPEG at quality 50": lambda pixels: damaged(pixels, "JPEG", 50),
    "one pixel to the right": lambda pixels: np.roll(pixels, 1, -1),
    "blur of 0.5 pixels": lambda pixels: damaged(pixels, "blur", 0.5),
    "blur of 1 pixel": lambda pixels: damaged(pixels, "blur", 1),
}


def damaged(pixels: np.ndarray, kind: str, strength: float) -> np.ndarray:
    """`(n, 3, R, R)` uint8 after blur, JPEG or Gaussian noise."""
    if kind == "noise":
        noise = np.random.default_rng(0).normal(0, strength, pixels.shape)
        return (pixels + noise).round().clip(0, 255).astype(np.uint8)
    return np.stack([_damaged(image.transpose(1, 2, 0), kind, strength).transpose(2, 0, 1) for image in pixels])


def _damaged(image: np.ndarray, kind: str, strength: float) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(image))
    if kind == "blur":
        return np.asarray(picture.filter(ImageFilter.GaussianBlur(strength)))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=int(strength))
    return np.asarray(Image.open(file).convert("RGB"))


def measure_damage(reference: Reference, count: int) -> list[dict]:
    """The metrics of `count` training images after each damage, against as many real ones."""
    config, (extractor,) = reference.config, reference.extractors
    real = reference.features(reference.real.take(count), extractor)
    source = reference.training.take(count).pixels
    rows = []
    for kind, strengths in {"none": (0,), **DAMAGE}.items():
        for strength in strengths:
            images = source if kind == "none" else damaged(source, kind, strength)
            features = extractor.extract(images, config.extractor_batch_size)
            metrics = feature_metrics(config, extractor, features, real)
            rows.append({"kind": "damage", "damage": kind, "strength": strength, "n": count, "metrics": metrics})
            print(f"{kind} {strength}: " + ", ".join(f"{k} {m['value']:.4g}" for k, m in metrics.items()), flush=True)
    return rows


def measure_halves(reference: Reference, config: ReferenceConfig) -> dict:
    """KID of two disjoint halves of the real split, and the Fréchet distance of it to itself: both should be 0."""
    features = reference.features(reference.real, reference.extractors[0])
    order = np.random.default_rng(0).permutation(len(features))
    first, second = features[order[: len(order) // 2]], features[order[len(order) // 2 :]]
    subset = len(order) // 4
    mean, std = kernel_distance(first, second, subset, config.kid_subsets)
    return {
        "kind": "halves",
        "n": len(first),
        "kid": mean,
        "kid_std": std,
        "kid_subset_size": subset,
        "distance_to_itself": frechet_distance(features, features),
    }


def measure_copies(reference: Reference, count: int) -> list[dict]:
    """The share that is flagged as copies, of images that are copies, and of images that no model has seen."""
    distances, what = held_out_distances(reference, reference.distance)
    held_out, judged = distances[::2], distances[1::2]  # no image is judged by a threshold that it has helped to set
    threshold = copy_threshold(held_out)
    training, distance = reference.training, reference.distance
    source = training.take(count).pixels
    images = np.concatenate([np.ascontiguousarray(change(source)) for change in COPIES.values()])
    nearest = find_nearest(images, training.pixels, distance, show_progress=reference.show_progress).distances[:, 0]
    unseen = int((held_out <= threshold).sum())
    sets = {what: judged} | dict(zip(COPIES, np.split(nearest, len(COPIES)), strict=True))
    rows = []
    for name, distances in sets.items():
        copies = int((distances <= threshold).sum())
        rows.append({
            "kind": "copies",
            "images": name,
            "distance": distance.name,
            "n": len(distances),
            "threshold": threshold,
            "memorised_share": copies / len(distances),
            "suspicious": copies > chance_limit(len(distances), unseen, len(held_out)),
        })  # fmt: skip
        print(f"{name}: {copies / len(distances):.1%} flagged as copies", flush=True)
    return rows


def drawn_reference(folder: str, images: int, resolution: int) -> str:
    """A stand-in with two splits, for where the real faces are missing."""
    drawn_faces(folder, images, resolution)
    for part, path in enumerate(sorted(Path(folder, "data").glob("*.parquet"))):
        if part % 2:
            path.rename(path.with_name(path.name.replace("train", "validation")))
    return folder


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawn", type=int, metavar="N", help="N faces that the project draws, instead of real ones")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--extractor", default="inception", help="as for `anime-ddpm evaluate`")
    parser.add_argument("--label", help="what to call it")
    parser.add_argument("--lpips", default="st-alex")
    parser.add_argument("--images", type=int, default=1000, help="in each damaged set")
    parser.add_argument("--floor_images", type=int, default=2000)
    parser.add_argument("--copies", type=int, default=250, help="in each set of copies")
    parser.add_argument("--kid_subset_size", type=int, default=500)
    parser.add_argument("--cache_dir", help="to go on where an interrupted run has stopped")
    parser.add_argument("--output", type=Path, default=RESULTS / "evaluation.json")
    settings = parser.parse_args()
    settings.real = settings.drawn is None and FACES.is_dir()
    return settings


def measure(settings: argparse.Namespace, folder: str) -> tuple[Reference, list[dict]]:
    dataset = str(FACES) if settings.real else drawn_reference(folder, settings.drawn or 8000, settings.resolution)
    config = ReferenceConfig(
        dataset=dataset,
        metrics="fid,kid,prc,mind,lpips",
        num_images=settings.floor_images,
        extractor=settings.extractor,
        extractor_label=settings.label,
        lpips=settings.lpips,
        kid_subset_size=settings.kid_subset_size,
        cache_dir=settings.cache_dir or folder,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reference = open_reference(config, settings.resolution, device)
    floor = {"kind": "floor", **measure_floor(reference, reference.extractors[0], settings.floor_images)}
    floor["of"]["source"] = Path(dataset).name  # not where it lies
    return reference, [
        floor,
        measure_halves(reference, config),
        *measure_damage(reference, settings.images),
        *measure_copies(reference, settings.copies),
    ]


def summary_of(rows: list[dict]) -> dict[str, float]:
    floor = next(row for row in rows if row["kind"] == "floor")["metrics"]
    copies = [row["memorised_share"] for row in rows if row["kind"] == "copies"]
    return {
        "floor_fd": floor["fid"]["value"],
        "floor_kid": floor["kid"]["value"],
        "held_out_told_for_copies": copies[0],
        "least_copies_caught": min(copies[1:]),
    }


def main() -> None:
    settings = parse()
    flags = sys.argv[1:]
    if settings.cache_dir is not None:  # where something is kept changes nothing
        flags = flags[: flags.index("--cache_dir")] + flags[flags.index("--cache_dir") + 2 :]
    command = shlex.join(["python", "benchmarks/evaluation.py", *flags])
    with tempfile.TemporaryDirectory() as folder, one_sentence_errors():
        reference, rows = measure(settings, folder)
        real, training, extractor = reference.real, reference.training, reference.extractors[0]
        what = (
            f"Metrics of {'real' if settings.real else 'drawn'} faces of {real.resolution} px, {len(training):,} for "
            f"training and {len(real):,} held out; features: {extractor.label or 'inception'}, {extractor.resize}"
        )
    write_result(settings.output, what, command, PACKAGES, gpu_name(), rows=rows, summary=summary_of(rows))
    print(render_evaluation(json.loads(settings.output.read_text())))
    print(f"\nTo reproduce: {command}")


if __name__ == "__main__":
    main()
