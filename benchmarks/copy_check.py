#!/usr/bin/env python
"""Which feature finds altered copies of training images? ST-LPIPS, a ViT and EfficientNet-Lite0, on real faces.

python benchmarks/copy_check.py --extractor FOLDER --label NAME
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import FACES, RESULTS, gpu_name, write_result
from PIL import Image, ImageFilter

from pipeline_anime_ddpm.common.errors import one_sentence_errors
from pipeline_anime_ddpm.evaluation.image_sets import DataSet
from pipeline_anime_ddpm.evaluation.metrics.memorisation import FeatureDistance, find_nearest
from pipeline_anime_ddpm.evaluation.networks.extractors import load_extractor
from pipeline_anime_ddpm.evaluation.networks.perceptual import PerceptualDistance, load_distance
from pipeline_anime_ddpm.evaluation.reference import copy_threshold
from pipeline_anime_ddpm.evaluation.settings import EFFICIENTNET

PACKAGES = ["torch", "transformers", "stlpips-pytorch", "efficientnet-lite-pytorch", "numpy", "Pillow"]
Distance = PerceptualDistance | FeatureDistance
FALSE_ALARMS = 0.01  # of held-out faces that the fixed threshold flags
HUE = 32  # of 256: 45 degrees
CROP = 56 / 64  # of the side


def on_pictures(change: Callable[[Image.Image, np.random.Generator], Image.Image]) -> Callable[..., np.ndarray]:
    """A change of one picture as one of `(n, 3, R, R)` uint8, with a generator that is the same every time."""

    def apply(pixels: np.ndarray) -> np.ndarray:
        random = np.random.default_rng(0)
        pictures = [Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))) for image in pixels]
        return np.stack([np.asarray(change(picture, random)).transpose(2, 0, 1) for picture in pictures])

    return apply


def cropped(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """A square of 7/8 of the side at a random place, resized back."""
    side = round(picture.width * CROP)
    left, top = random.integers(0, picture.width - side + 1, 2).tolist()
    return picture.resize(picture.size, Image.Resampling.BICUBIC, (left, top, left + side, top + side))


def recoloured(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """Hue turned by 45 degrees one way or the other for half of the pictures, saturation halved for the others."""
    hue, saturation, value = picture.convert("HSV").split()
    kind = random.integers(0, 4)
    if kind < 2:
        hue = hue.point(lambda level: (level + (HUE if kind else -HUE)) % 256)
    else:
        saturation = saturation.point(lambda level: level // 2)
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def blurred(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(1))


def shifted(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """By 1 or 2 pixels along both axes, the border repeated."""
    right, down = (random.integers(1, 3, 2) * random.choice([-1, 1], 2)).tolist()
    padded = np.pad(np.asarray(picture), ((2, 2), (2, 2), (0, 0)), mode="edge")
    height, width = picture.height, picture.width
    return Image.fromarray(padded[2 - down : 2 - down + height, 2 - right : 2 - right + width])


def mirrored(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def all_together(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    for change in (mirrored, cropped, recoloured, blurred, shifted):
        picture = change(picture, random)
    return picture


ALTERATIONS = {
    "mirrored": mirrored,
    "cropped to 7/8": cropped,
    "recoloured": recoloured,
    "blurred by 1 px": blurred,
    "shifted by 1 or 2 px": shifted,
    "all together": all_together,
}


def measure(
    distance: Distance, training: np.ndarray, held_out: np.ndarray, originals: np.ndarray
) -> list[dict[str, object]]:
    """A row for each alteration: how often the original is found, and how often the copy is flagged.

    Args:
        training, held_out: `(n, 3, R, R)` uint8.
        originals: indices in `training` of the images that are altered.
    """
    embedded = torch.cat(list(distance.batches(training, 64)))
    nearest = {"held out": find_nearest(held_out, training, distance, embedded=embedded)}
    for name, change in ALTERATIONS.items():
        copies = on_pictures(change)(training[originals])
        nearest[name] = find_nearest(copies, training, distance, embedded=embedded)
    unseen = nearest.pop("held out").distances[:, 0]
    fixed = float(np.quantile(unseen, FALSE_ALARMS, method="lower"))
    derived = copy_threshold(unseen)
    facts = {"feature": distance.name, "n": len(originals)}
    facts |= {"threshold": fixed, "false_alarms": float((unseen <= fixed).mean())}
    facts |= {"derived_threshold": derived, "derived_false_alarms": float((unseen <= derived).mean())}
    rows = []
    for name, found in nearest.items():
        distances = found.distances[:, 0]
        rows.append({
            "alteration": name,
            "top1": float((found.indices[:, 0] == originals).mean()),
            "flagged": float((distances <= fixed).mean()),
            "derived_flagged": float((distances <= derived).mean()),
            **facts,
        })  # fmt: skip
        print(f"{distance.name}, {name}: " + ", ".join(f"{k} {rows[-1][k]:.3f}" for k in ("top1", "flagged",
              "derived_flagged")), flush=True)  # fmt: skip
    print(f"  {facts}", flush=True)
    return rows


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=FACES, help="with the splits train and validation")
    parser.add_argument("--extractor", help="a vision model to compare with, as for `anime-ddpm evaluate`")
    parser.add_argument("--label", help="what to call it")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--training", type=int, default=2000, help="training images among which is searched")
    parser.add_argument("--copies", type=int, default=200, help="training images that are altered")
    parser.add_argument("--held_out", type=int, default=500, help="images that set the threshold")
    parser.add_argument("--cache_dir")
    parser.add_argument("--output", type=Path, default=RESULTS / "copy_check.json")
    return parser.parse_args()


def distances(settings: argparse.Namespace, device: torch.device) -> list[Distance]:
    """Those to compare."""
    extractors = [load_extractor(EFFICIENTNET, device=device)]
    if settings.extractor:
        extractors.insert(0, load_extractor(settings.extractor, label=settings.label, device=device))
    return [load_distance("st-alex", None, device), *map(FeatureDistance, extractors)]


def summary_of(rows: list[dict]) -> dict[str, float | str]:
    """Mean over alterations for each feature, and which one is best."""
    names = list(dict.fromkeys(row["feature"] for row in rows))
    summary: dict[str, float | str] = {}
    for name in names:
        of_it = [row for row in rows if row["feature"] == name]
        for key in ("top1", "flagged", "derived_flagged"):
            summary[f"{name}: {key}"] = float(np.mean([row[key] for row in of_it]))
    return summary | {"best": max(names, key=lambda name: summary[f"{name}: flagged"])}


def main() -> None:
    settings = parse()
    flags = sys.argv[1:]
    for flag in ("--cache_dir", "--output"):  # where something is kept changes nothing
        if flag in flags:
            del flags[flags.index(flag) : flags.index(flag) + 2]
    command = shlex.join(["python", "benchmarks/copy_check.py", *flags])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with one_sentence_errors():
        data = DataSet(str(settings.dataset), cache_dir=settings.cache_dir)
        training = data.open("train", settings.resolution).take(settings.training).pixels
        held_out = data.open("validation", settings.resolution).take(settings.held_out).pixels
        chosen = np.random.default_rng(0).permutation(len(training))
        originals = np.sort(chosen[: settings.copies])
        rows = [row for d in distances(settings, device) for row in measure(d, training, held_out, originals)]
    what = (
        f"Altered copies of {len(originals)} of {len(training):,} real training faces of {settings.resolution} px: how "
        f"often the nearest training face is the original (top1), and how often the copy is flagged, by a threshold "
        f"that flags {FALSE_ALARMS:.0%} of {len(held_out):,} held-out faces, and by the one that evaluations derive"
    )
    write_result(settings.output, what, command, PACKAGES, gpu_name(), rows=rows, summary=summary_of(rows))
    print(f"\nTo reproduce: {command}")


if __name__ == "__main__":
    main()
