#!/usr/bin/env python
"""How many images a second each network of the evaluation takes, how long the search for copies is, and a cached run.

python benchmarks/evaluation_speed.py --extractor FOLDER --label NAME
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torchvision
from common import RESULTS, gpu_name, spread, write_result
from render import render_evaluation_speed
from torch_fidelity import feature_extractor_inceptionv3

from pipeline_anime_ddpm.common.errors import one_sentence_errors
from pipeline_anime_ddpm.evaluation.image_sets import ImageSet
from pipeline_anime_ddpm.evaluation.metrics.memorisation import find_nearest
from pipeline_anime_ddpm.evaluation.metrics.statistics import real_features
from pipeline_anime_ddpm.evaluation.networks.extractors import FeatureExtractor, InceptionExtractor, load_extractor
from pipeline_anime_ddpm.evaluation.networks.perceptual import PerceptualDistance, load_distance
from pipeline_anime_ddpm.synthetic.drawn_faces import draw_faces

PACKAGES = ["torch", "torchvision", "transformers", "torch-fidelity", "lpips"]


def untrained_inception(device: torch.device) -> InceptionExtractor:
    """FID's network without its weights, for where they cannot be fetched: it takes the same time."""
    with (
        mock.patch.object(feature_extractor_inceptionv3, "load_state_dict_from_url", return_value={}),
        mock.patch.object(torch.nn.Module, "load_state_dict"),
    ):
        return InceptionExtractor(device=device)


def untrained_distance(key: str, device: torch.device) -> PerceptualDistance:
    """LPIPS without its backbone's weights, likewise; ST-LPIPS has its own."""
    if key not in ("alex", "vgg"):
        return load_distance(key, device=device)
    network = {"alex": torchvision.models.alexnet, "vgg": torchvision.models.vgg16}[key](weights=None)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(network.state_dict(), Path(folder) / "weights.pth")
        return load_distance(key, str(Path(folder) / "weights.pth"), device)


def contenders(settings: argparse.Namespace, device: torch.device) -> dict[str, Callable[[np.ndarray], object]]:
    """What takes a batch of images, by name."""
    extractors: list[FeatureExtractor] = [untrained_inception(device)]
    if settings.extractor != "inception":
        extractors.append(load_extractor(settings.extractor, label=settings.label, device=device))
    calls = {e.label or "inception": lambda images, e=e: e.extract(images, settings.batch) for e in extractors}
    distances = [untrained_distance(key, device) for key in settings.lpips]
    return calls | {d.name: lambda images, d=d: list(d.batches(images, settings.batch)) for d in distances}


def measure_networks(settings: argparse.Namespace, images: np.ndarray, device: torch.device) -> list[dict]:
    """Images a second of each network, one round of each in turn."""
    calls = contenders(settings, device)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(settings.rounds + 1):  # the first warms up
        for name, call in calls.items():
            begin = time.perf_counter()
            call(images)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return [
        {"kind": "network", "name": name, "images_per_second": spread([len(images) / s for s in values])}
        for name, values in seconds.items()
    ]


def measure_cache(settings: argparse.Namespace, images: np.ndarray, device: torch.device) -> dict:
    """Features of the real images in a first run, which computes them, and in a second, which finds them."""
    extractor = untrained_inception(device)
    if settings.extractor != "inception":
        extractor = load_extractor(settings.extractor, label=settings.label, device=device)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            begin = time.perf_counter()
            real_features(ImageSet(images, "faces", "validation"), extractor, Path(folder), settings.batch)
            seconds.append(time.perf_counter() - begin)
    return {"kind": "cache", "name": extractor.label or "inception", "n": len(images), "seconds": seconds}


def measure_search(settings: argparse.Namespace, images: np.ndarray, device: torch.device) -> dict:
    """The search for the nearest of `images` to each of a quarter of them."""
    distance = load_distance(settings.lpips[-1], device=device)
    queries = images[: len(images) // 4]
    begin = time.perf_counter()
    find_nearest(queries, images, distance, count=3)
    seconds = time.perf_counter() - begin
    return {"kind": "search", "name": distance.name, "n": len(queries), "among": len(images), "seconds": seconds}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extractor", default="inception", help="as for `anime-ddpm evaluate`")
    parser.add_argument("--label", help="what to call it")
    parser.add_argument("--lpips", nargs="+", default=["alex", "st-vgg", "st-alex"], help="the last one is searched by")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--images", type=int, default=128, help="in each round")
    parser.add_argument("--search_images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "evaluation_speed.json")
    return parser.parse_args()


def main() -> None:
    settings = parse()
    command = shlex.join(["python", "benchmarks/evaluation_speed.py", *sys.argv[1:]])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    faces = draw_faces(max(settings.images, settings.search_images), settings.resolution).transpose(0, 3, 1, 2)
    with one_sentence_errors():
        rows = [
            *measure_networks(settings, faces[: settings.images], device),
            measure_cache(settings, faces[: settings.images], device),
            measure_search(settings, faces[: settings.search_images], device),
        ]
    what = (
        f"Evaluation of images of {settings.resolution} px in batches of {settings.batch}, {settings.images} images a "
        f"round, {settings.rounds} rounds, {torch.get_num_threads()} threads; inception, AlexNet and VGG with random "
        "weights"
    )
    summary = {
        f"images_per_second {r['name']}": r["images_per_second"]["median"] for r in rows if r["kind"] == "network"
    }
    gpu = gpu_name() if device.type == "cuda" else None
    write_result(settings.output, what, command, PACKAGES, gpu, rows=rows, summary=summary)
    print(render_evaluation_speed(json.loads(settings.output.read_text())))
    print(f"\nTo reproduce: {command}")


if __name__ == "__main__":
    main()
