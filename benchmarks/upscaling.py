#!/usr/bin/env python
"""Does an upscaler learn more from crops than from whole images, and is it better than bicubic and Lanczos?

    python benchmarks/upscaling.py --dataset FACES_128/ --extractor NAMES --label NAME

Each arm of upscaling.yaml is trained for the same processor time on one core: `speed` measures a step of each kind,
which gives the number of images. `judge` enlarges held-out faces after reducing them, and `figure` those that hub_model
draws. Run the same command again to go on.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from common import RESULTS, ROOT, spread, write_result
from diffusers.utils import make_image_grid
from judging import BATCH, slug
from PIL import Image
from sampling_figures import seeded

from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.data import Batch
from pipeline_anime_ddpm.evaluation.image_sets import DataSet
from pipeline_anime_ddpm.evaluation.metrics.distances import kernel_distance
from pipeline_anime_ddpm.evaluation.networks.extractors import FeatureExtractor, load_extractor
from pipeline_anime_ddpm.evaluation.networks.perceptual import load_distance
from pipeline_anime_ddpm.planning.plan import plan_step
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.training.execution import prepare_unet
from pipeline_anime_ddpm.training.models import build_model
from pipeline_anime_ddpm.training.objective import diffusion_loss, draw_step
from pipeline_anime_ddpm.training.optimizers import build_optimizer
from pipeline_anime_ddpm.training.patches import space_to_depth
from pipeline_anime_ddpm.training.upscaling.crops import UpscalingCrops

ARMS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
KERNELS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
FIGURE = ROOT / "model_card" / "figures" / "upscaling.png"
PACKAGES = ["torch", "diffusers", "transformers", "torch-fidelity", "stlpips-pytorch", "efficientnet-lite-pytorch"]
SHARED = {
    "resolution": 128,
    "upscale_from": 64,
    "random_flip": True,
    "train_batch_size": 16,
    "optimizer": "muon",
    "learning_rate": 1e-3,
    "checkpointing_steps": 20,
    "checkpoints_total_limit": 1,
    "save_images_epochs": 10000,
    "save_model_epochs": 10000,
    "validation_images": 1,
    "report_to": "none",
    "logging_steps": 5,
}
SIDES = {"crops": 32, "full": 128}
ROUNDS = 3
SHOWN, COLUMNS = 32, 8  # faces of the figure


def settings_of(arm: dict[str, Any], settings: argparse.Namespace) -> dict[str, Any]:
    own = {name: value for name, value in arm.items() if name not in ("what", "images")}
    return SHARED | {"dataset_name": settings.dataset, "model_config_name_or_path": settings.network} | own


def train(arm: str, settings: argparse.Namespace, images: int) -> None:
    values = settings_of(ARMS[arm], settings)
    values |= {"output_dir": settings.work / arm, "max_train_images": images, "cache_dir": settings.cache_dir}
    flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items() if value]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # an arm is trained on one core
    subprocess.run([sys.executable, str(ROOT / "train_anime_ddpm.py"), *flags], env=environment, check=True)


def step_seconds(settings: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Processor seconds of a step on crops and on whole images, in turns: other work on the machine does not count."""
    config = TrainingConfig(**settings_of(ARMS["crops"], settings))
    unet, scheduler = build_model(config)
    prepare_unet(unet, config, torch.device("cpu"), "no")
    crops, optimizer = UpscalingCrops(unet, config.upscale_from, list(SIDES.values())), build_optimizer(config, unet)
    batch = Batch(torch.randint(0, 256, (config.train_batch_size, 3, 128, 128), dtype=torch.uint8))
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    for step, name in enumerate([*SIDES] * (ROUNDS + 1)):
        begin = time.process_time()
        drawn = draw_step(batch, scheduler, flip=True, seed=0, step=step, patches=crops, side=SIDES[name])
        diffusion_loss(unet, scheduler, drawn, space_to_depth(unet))[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds[name].append(time.process_time() - begin)
    return {name: spread(values[1:]) for name, values in seconds.items()}


def trained_images(folder: Path) -> int:
    """As the last row of the arm's log has it."""
    return int((folder / "metrics.csv").read_text().splitlines()[-1].split(",")[0])


def images_of(arm: str, settings: argparse.Namespace, speed: dict[str, Any]) -> int:
    """How many images an arm sees."""
    kind = ARMS[arm]["images"]
    seconds = speed[arm if kind == "time" else kind]["median"]
    return round(60 * settings.minutes / seconds) * SHARED["train_batch_size"]


def reduced(faces: np.ndarray, side: int) -> torch.Tensor:
    """`(n, 3, side, side)` in [0, 1] of `(n, 3, R, R)` uint8, with the filter of the trainer."""
    small = F.interpolate(torch.from_numpy(faces).float() / 255, side, mode="bilinear", antialias=True)
    return small.clamp(0, 1)


def enlarged(name: str, small: torch.Tensor, settings: argparse.Namespace) -> np.ndarray:
    """`(n, 3, R, R)` uint8 by a kernel or an arm."""
    if name in KERNELS:
        pictures = [to_picture(one) for one in small]
        return np.stack([to_array(one.resize((2 * one.width, 2 * one.height), KERNELS[name])) for one in pictures])

    def by_network() -> np.ndarray:
        pipe, parts = loaded(settings.work / name), []
        for start in range(0, len(small), BATCH):
            part = small[start : start + BATCH]
            generators = seeded(*range(start, start + len(part)))
            parts.append(pipe.upscale(part, generator=generators, output_type="pt").images)
        return (torch.cat(parts) * 255).round().byte().numpy()

    return once(settings, name, by_network)


def once(settings: argparse.Namespace, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array that an earlier run left in the work folder, or a new one."""
    kept = settings.work / f"{slug(name).replace('/', '-')}-{settings.num_images}.npy"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, make())
    return np.load(kept)


def loaded(folder: Path) -> AnimeDDPMPipeline:
    pipe = AnimeDDPMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def to_picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def to_array(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).transpose(2, 0, 1)


def unpaired_kid(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """KID of one half's enlarged faces against the other half's real ones, both ways: no face meets its original."""
    half = len(first) // 2
    pairs = [
        kernel_distance(first[:half], second[half:], half // 2, 100),
        kernel_distance(first[half:], second[:half], half // 2, 100),
    ]
    return statistics.mean(kid for kid, _ in pairs), statistics.mean(std for _, std in pairs)


def judge(names: list[str], settings: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way to enlarge: PSNR and LPIPS to the original, KID by each judge."""
    real = DataSet(str(settings.dataset), cache_dir=settings.cache_dir).open("validation", SHARED["resolution"])
    faces = np.asarray(real.take(settings.num_images).pixels)
    small = reduced(faces, SHARED["upscale_from"])
    perceptual = load_distance("st-alex")
    extractors = [
        load_extractor(name, label=settings.label if "/" in name else None) for name in settings.extractor.split(",")
    ]

    def features(name: str, pictures: np.ndarray, extractor: FeatureExtractor) -> np.ndarray:
        return once(settings, f"{name}-{extractor.label}", lambda: extractor.extract(pictures, BATCH))

    rows = []
    for name in names:
        pictures = enlarged(name, small, settings)
        error = ((pictures.astype(np.float32) - faces) ** 2).mean((1, 2, 3))
        pairs = zip(perceptual.batches(pictures, BATCH), perceptual.batches(faces, BATCH), strict=True)
        row = {"arm": name, "what": ARMS[name]["what"] if name in ARMS else name, "n": len(faces)}
        row["psnr"] = float((10 * np.log10(255**2 / error)).mean())
        row["lpips"] = float(torch.cat([(one - other).square().sum(1) for one, other in pairs]).mean())
        for extractor in extractors:
            kid, std = unpaired_kid(features(name, pictures, extractor), features("real", faces, extractor))
            row |= {f"kid {extractor.label}": kid, f"kid_std {extractor.label}": std}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def seconds_per_face(settings: argparse.Namespace) -> dict[str, float]:
    """Of `--upscaler` at its default steps on all cores, for a batch of 8."""
    pipe, small, seconds = loaded(settings.upscaler), torch.rand(8, 3, 64, 64), []
    for _ in range(ROUNDS + 1):
        begin = time.perf_counter()
        pipe.upscale(small)
        seconds.append((time.perf_counter() - begin) / len(small))
    return spread(seconds[1:])


def memory(settings: argparse.Namespace) -> dict[str, int]:
    """Bytes that a step of each kind keeps for its backward pass."""
    unet = loaded(settings.upscaler).unet
    return {
        name: plan_step(unet.config, side=side, batch=SHARED["train_batch_size"]).saved_activation_bytes
        for name, side in SIDES.items()
    }


def draw_figure(settings: argparse.Namespace) -> None:
    """Faces that hub_model draws, each row twice: by Lanczos, and by the upscaler."""
    pipe = loaded(ROOT / "hub_model")
    small = pipe(
        SHOWN, generator=seeded(*range(SHOWN)), output_type="pt", **({"upscale": False} if pipe.upscaler_unet else {})
    ).images
    ours = loaded(settings.upscaler).upscale(small, generator=seeded(*range(SHOWN))).images
    plain = [to_picture(one).resize(ours[0].size, KERNELS["lanczos"]) for one in small]
    pictures: list[Image.Image] = []
    for start in range(0, SHOWN, COLUMNS):
        pictures += plain[start : start + COLUMNS] + ours[start : start + COLUMNS]
    make_image_grid(pictures, len(pictures) // COLUMNS, COLUMNS).save(FIGURE, optimize=True)


def ratios(rows: list[dict[str, Any]], speed: dict[str, Any]) -> dict[str, float]:
    """The keys of the summary: KIDs are the geometric mean of the judges' ratios."""
    by_arm = {row["arm"]: row for row in rows}

    def kid_ratio(first: str, second: str) -> float | None:
        both = [(by_arm[first][key], by_arm[second][key]) for key in by_arm[first] if key.startswith("kid ")]
        return statistics.geometric_mean(one / other for one, other in both) if min(map(min, both)) > 0 else None

    found = {}
    if {"crops", "full", "crops_images"} <= by_arm.keys():
        for name, arm in (("equal_time", "crops"), ("equal_images", "crops_images")):
            found[f"crops_over_full_kid_{name}"] = kid_ratio(arm, "full")
            found[f"crops_over_full_lpips_{name}"] = by_arm[arm]["lpips"] / by_arm["full"]["lpips"]
    for kernel in KERNELS:
        found[f"kid_over_{kernel}"] = kid_ratio("crops", kernel)
        found[f"lpips_over_{kernel}"] = by_arm["crops"]["lpips"] / by_arm[kernel]["lpips"]
    if "memory" in speed:
        found["crops_over_full_memory"] = speed["memory"]["crops"] / speed["memory"]["full"]
        found["seconds_per_face"] = speed["face"]["min"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="faces of 128 pixels with the splits train and validation")
    parser.add_argument(
        "--network", default=str(ROOT / "hub_model" / "upscaler" / "unet"), help="config of the network"
    )
    parser.add_argument(
        "--upscaler", type=Path, default=ROOT / "hub_model" / "upscaler", help="that is timed and shown"
    )
    parser.add_argument("--stages", nargs="+", default=["speed", "train", "judge", "figure"], metavar="STAGE")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--minutes", type=float, default=4.3, help="of one core that an arm trains")
    parser.add_argument("--num_images", type=int, default=400, help="held-out faces")
    parser.add_argument("--extractor", default="efficientnet-lite0")
    parser.add_argument("--label", help="what to call a vision model in results")
    parser.add_argument("--cache_dir")
    parser.add_argument("--work", type=Path, default=Path("runs/upscaling"))
    parser.add_argument("--output", type=Path, default=RESULTS / "upscaling.json")
    settings = parser.parse_args()
    before = json.loads(settings.output.read_text()) if settings.output.is_file() else {"rows": [], "speed": {}}
    speed, rows = before["speed"], before["rows"]
    if "speed" in settings.stages:
        speed = step_seconds(settings) | {"face": seconds_per_face(settings), "memory": memory(settings)}
    for name in settings.arms if "train" in settings.stages else ():
        train(name, settings, images_of(name, settings, speed))
    if "judge" in settings.stages:
        rows = judge([*KERNELS, *settings.arms], settings)
    if "figure" in settings.stages:
        draw_figure(settings)
    command = (
        "python benchmarks/upscaling.py --dataset FACES_128/ --extractor VIT/,efficientnet-lite0 --label "
        f"{shlex.quote(settings.label or 'NAME')} --minutes {settings.minutes:g}"
    )
    images = {name: trained_images(settings.work / name) for name in settings.arms}
    write_result(
        settings.output, "faces of 64 pixels enlarged to 128, against the held-out faces that they were reduced from",
        command, PACKAGES, rows=rows, speed=speed, images=images, minutes=settings.minutes, summary=ratios(rows, speed),
    )  # fmt: skip


if __name__ == "__main__":
    main()
