"""Shared by the benchmarks of image quality: an evaluation that runs once, and its numbers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.evaluation import EvaluationConfig, evaluate
from pipeline_anime_ddpm.evaluation.settings import parse_sampler_options

BATCH = 500 if torch.cuda.is_available() else 32  # images drawn at a time; two cores are fastest with 32


def measured(folder: Path, count: int | None = None) -> dict[str, Any] | None:
    """What an evaluation has left in `folder`; one of another number of images is refused."""
    path = folder / "metrics.json"
    record = json.loads(path.read_text()) if path.is_file() else None
    if record and count not in (None, record["judged"]["n"]):
        raise UserError(f"{folder} was measured with {record['judged']['n']} images, not {count}; give another --work.")
    return record


def judge(
    settings: argparse.Namespace,
    folder: Path,
    model: Path,
    sampler: tuple[str, int, str],
    count: int,
    seed: int,
    floor: bool = False,
    lpips: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """One evaluation by FID or FD, KID, precision and recall, or what an earlier one has found.

    Args:
        settings: with `dataset`, `extractor`, `label` and `cache_dir`.
        sampler: its name, steps and options, as `anime-ddpm evaluate` takes them.
        lpips: also measure LPIPS, by ST-LPIPS, whose weights come with its package.
        more: other settings of `EvaluationConfig`.
    """
    solver, steps, options = sampler
    if found := measured(folder, count):
        _check_same(found, folder, sampler, seed, settings.label)
        return found
    return evaluate(
        EvaluationConfig(
            model=str(model), dataset=str(settings.dataset), lpips="st-alex",
            metrics="fid,kid,prc" + ",lpips" * lpips, extractor=settings.extractor,
            extractor_label=settings.label, num_images=count, kid_subset_size=min(count // 2, 1000), seed=seed,
            sampler=solver, num_inference_steps=steps, sampler_options=options or None, floor=floor,
            output_dir=str(folder), cache_dir=settings.cache_dir, batch_size=BATCH, extractor_batch_size=BATCH, **more,
        ),
        show_progress=False,
    )  # fmt: skip


def _check_same(found: dict[str, Any], folder: Path, sampler: tuple[str, int, str], seed: int, label: str | None):
    """Refuse an evaluation of other settings: it would stand in the table as one of these."""
    solver, steps, options = sampler
    drawn = found["drawn"]
    has = {"num_inference_steps": drawn["num_inference_steps"], "seed": drawn["seed"]} | drawn["sampler"]
    wanted = {"num_inference_steps": steps, "seed": seed} | parse_sampler_options(options)
    if has["class"] == "AnimeNoiseScheduler":
        wanted["solver"] = solver
    other = [name for name, value in wanted.items() if name in has and has[name] != value]
    if label is not None and label not in found["metrics"]["kid"]["name"]:
        other.append("extractor")
    if other:
        raise UserError(f"{folder} was measured with another {other[0]}; give another --work, or delete that folder.")


def values(record: dict[str, Any]) -> dict[str, Any]:
    """The numbers of an evaluation that the tables show."""
    metrics = record["metrics"]
    found = {"kid": metrics["kid"]["value"], "kid_std": metrics["kid"]["std"], "fd": metrics["fid"]["value"]}
    found |= {name: metrics[name]["value"] for name in ("precision", "recall")}
    return found | {"n": record["judged"]["n"]}


def slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "_")


def line(record: dict[str, Any]) -> str:
    kid, distance = record["metrics"]["kid"], record["metrics"]["fid"]
    return f"KID {kid['value']:.3f} ± {kid['std']:.3f}, {distance['name']} {distance['value']:.1f}"


def add_flags(parser: argparse.ArgumentParser, faces: Path) -> None:
    """What `judge` needs."""
    parser.add_argument("--dataset", default=str(faces))
    parser.add_argument("--extractor", default="inception")
    parser.add_argument("--label", help="what to call another extractor")
    parser.add_argument("--cache_dir")
