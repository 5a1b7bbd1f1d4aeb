#!/usr/bin/env python
"""Weak scaling: what a step costs when every rank brings its own batch, and what the gradients' way costs beyond.

    python benchmarks/scaling.py

Each number of ranks is started anew in every round, in turn, by torchrun, with as many threads for each rank. Measured
are whole steps of the recipe, the same steps without sharing gradients, and sharing alone, for buffers of several
sizes. From the last follow the two constants of the cost of a ring all-reduce among N ranks,

    t(N, bytes) = 2 (N - 1) latency + 2 (N - 1) / N · bytes / bandwidth,

for each rank sends its N-th part on 2 (N - 1) times (Patarasu & Yuan, 2009). With N = 2 and the step without sharing it
predicts the measured step; for links that are not here it is evaluated on paper.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import RESULTS, ROOT, spread, write_result

PACKAGES = ["torch", "diffusers", "accelerate", "numpy"]
# Latency of a message in seconds, assumed, and bytes a second in one direction, as the standards name them.
LINKS = {
    "10 Gbit/s Ethernet": (50e-6, 1.25e9),
    "100 Gbit/s InfiniBand": (5e-6, 12.5e9),
    "NVLink 4 of an H100": (5e-6, 450e9),
}
PAPER_RANKS = (2, 8, 64)
PAPER_NETWORK = ROOT / "benchmarks" / "architectures" / "ddpm-celebahq-256"
EFFICIENT = 0.9


def ring_seconds(ranks: int, num_bytes: float, latency: float, bandwidth: float) -> float:
    """Seconds of a ring all-reduce of `num_bytes` on each of `ranks`."""
    return 2 * (ranks - 1) * latency + 2 * (ranks - 1) / ranks * num_bytes / bandwidth


def fit_link(ranks: int, seconds: dict[int, float]) -> tuple[float, float]:
    """Latency and bandwidth for which `ring_seconds` is nearest, relatively, to the `seconds` of each size in bytes."""
    terms = np.array([[2 * (ranks - 1), 2 * (ranks - 1) / ranks * size] for size in seconds])
    measured = np.array([*seconds.values()])
    (latency, inverse), *_ = np.linalg.lstsq(terms / measured[:, None], np.ones(len(measured)), rcond=None)
    return max(float(latency), 0.0), 1 / float(inverse)


def serve(settings: argparse.Namespace) -> None:
    """One rank of one round: the first writes what it has measured to `settings.worker`."""
    sys.path.insert(0, str(ROOT))
    import torch
    import torch.distributed as dist

    from pipeline_anime_ddpm.data import Batch
    from pipeline_anime_ddpm.recipe.run import build_denoiser, build_run
    from pipeline_anime_ddpm.recipe.schedule import RunSchedule
    from pipeline_anime_ddpm.training.config import TrainingConfig
    from pipeline_anime_ddpm.training.hardware import build_accelerator
    from train_anime_ddpm import train_step

    config = TrainingConfig(
        model_config_name_or_path=settings.model, resolution=settings.resolution, train_batch_size=settings.batch,
        max_train_steps=10_000, report_to="none", output_dir=f"{settings.worker}.run",
    )  # fmt: skip
    accelerator = build_accelerator(config, "no")
    torch.set_num_threads(settings.threads)
    schedule, data = RunSchedule.plan(config, None, accelerator.num_processes), types.SimpleNamespace(facts={})
    run = build_run(config, accelerator, build_denoiser(config), schedule, data)
    images = torch.randint(0, 256, (settings.batch, 3, settings.resolution, settings.resolution), dtype=torch.uint8)

    def timed(what: Callable[[], object]) -> float:
        accelerator.wait_for_everyone()
        begin = time.perf_counter()
        what()
        accelerator.wait_for_everyone()
        return time.perf_counter() - begin

    shared, times = run.model, {"step": [], "compute": [], "reduce": {}}
    for number in range(settings.warm_up + settings.steps):
        for name, model in (("step", shared), ("compute", run.unet)):
            run.model = model
            seconds = timed(lambda: train_step(run, Batch(images)))
            if number >= settings.warm_up:
                times[name].append(seconds)
    gradients = sum(p.numel() * p.element_size() for p in run.unet.parameters())
    for size in sizes(gradients) if accelerator.num_processes > 1 else []:
        buffer = torch.ones(size // 4)
        times["reduce"][size] = [timed(lambda b=buffer: dist.all_reduce(b)) for _ in range(settings.reductions)]
    if accelerator.is_main_process:
        Path(settings.worker).write_text(json.dumps(times | {"gradient_bytes": gradients}))
    accelerator.end_training()


def sizes(gradient_bytes: int) -> list[int]:
    """From 4 KB in steps of eight, and the gradients themselves."""
    return [4096 * 8**power for power in range(5) if 4096 * 8**power < gradient_bytes] + [gradient_bytes]


def measure(settings: argparse.Namespace) -> dict[int, list[dict]]:
    """What `serve` has written, by number of ranks, for each round."""
    results: dict[int, list[dict]] = {ranks: [] for ranks in settings.ranks}
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(settings.threads)}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(settings.rounds):
            for ranks in settings.ranks:
                output = f"{folder}/{number}-{ranks}.json"
                launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", __file__]
                command = [sys.executable, *launch, *settings.given, "--worker", output]
                subprocess.run(command, env=environment, check=True)
                results[ranks].append(json.loads(Path(output).read_text()))
    return results


def measured_rows(results: dict[int, list[dict]], batch: int) -> list[dict]:
    """For each number of ranks one row, then one for each size that was shared by the most ranks."""
    rows = []
    for ranks, rounds in results.items():
        step, compute = (spread([float(np.median(r[name])) for r in rounds]) for name in ("step", "compute"))
        speed = ranks * batch / step["median"]
        rows.append({"kind": "ranks", "ranks": ranks, "step_seconds": step, "compute_seconds": compute,
                     "images_per_second": speed})  # fmt: skip
    most = max(results)
    for size in results[most][0]["reduce"]:
        seconds = spread([float(np.median(r["reduce"][size])) for r in results[most]])
        rows.append({"kind": "all-reduce", "ranks": most, "bytes": int(size), "seconds": seconds})
    return rows


def paper_rows() -> list[dict]:
    """The cost model for a network of the usual size, on links and numbers of ranks that are not here."""
    import torch
    from diffusers import UNet2DModel

    with torch.device("meta"):
        unet = UNet2DModel.from_config(UNet2DModel.load_config(PAPER_NETWORK))
    num_bytes = 4 * sum(p.numel() for p in unet.parameters())
    rows = []
    for link, (latency, bandwidth) in LINKS.items():
        for ranks in PAPER_RANKS:
            seconds = ring_seconds(ranks, num_bytes, latency, bandwidth)
            rows.append({"kind": "paper", "link": link, "latency": latency, "bandwidth": bandwidth, "ranks": ranks,
                         "bytes": num_bytes, "seconds": seconds,
                         "step_seconds": seconds * EFFICIENT / (1 - EFFICIENT)})  # fmt: skip
    return rows


def summary_of(rows: list[dict]) -> dict[str, float]:
    """Weak scaling from the fewest to the most ranks, and how far the model is off."""
    by_ranks = {row["ranks"]: row for row in rows if row["kind"] == "ranks"}
    few, many = by_ranks[min(by_ranks)], by_ranks[max(by_ranks)]
    reduced = {row["bytes"]: row["seconds"]["median"] for row in rows if row["kind"] == "all-reduce"}
    latency, bandwidth = fit_link(many["ranks"], reduced)
    predicted = many["compute_seconds"]["median"] + ring_seconds(many["ranks"], max(reduced), latency, bandwidth)
    return {
        "weak_scaling_efficiency": few["step_seconds"]["median"] / many["step_seconds"]["median"],
        "compute_slowdown": many["compute_seconds"]["median"] / few["compute_seconds"]["median"],
        "latency_seconds": latency,
        "bandwidth_bytes_per_second": bandwidth,
        "model_relative_error": predicted / many["step_seconds"]["median"] - 1,
    }


def render_scaling(result: dict) -> str:
    """The tables of `scaling.json`, as Markdown."""

    def milliseconds(values: dict) -> str:
        return f"{1e3 * values['median']:.0f} ({1e3 * values['min']:.0f} to {1e3 * values['max']:.0f})"

    summary, rows = result["summary"], result["rows"]
    lines = ["| ranks | step, ms (least to most) | without sharing gradients | images/s |", "|---|---|---|---|"]
    for row in (row for row in rows if row["kind"] == "ranks"):
        cells = [milliseconds(row["step_seconds"]), milliseconds(row["compute_seconds"])]
        lines.append(f"| {row['ranks']} | {' | '.join(cells)} | {row['images_per_second']:.1f} |")
    paper = [row for row in rows if row["kind"] == "paper"]
    lines += [
        "",
        f"Weak scaling {summary['weak_scaling_efficiency']:.0%}; computing alone takes "
        f"{summary['compute_slowdown']:.2f}× as long when all ranks do it, on one memory. The ring's constants, fitted "
        f"to all-reduces of several sizes: {1e6 * summary['latency_seconds']:.0f} µs and "
        f"{summary['bandwidth_bytes_per_second'] / 1e9:.2f} GB/s. With them the model is off the measured step by "
        f"{summary['model_relative_error']:+.1%}.",
        "",
        f"On paper, without any overlap of computing and sending, for {paper[0]['bytes'] / 1e6:.0f} MB of gradients:",
        "",
        "| link | ranks | all-reduce, ms | step that keeps 90 %, s |",
        "|---|---|---|---|",
    ]
    for row in paper:
        cells = [f"{1e3 * row['seconds']:.1f}", f"{row['step_seconds']:.3f}"]
        lines.append(f"| {row['link']} | {row['ranks']} | {' | '.join(cells)} |")
    return "\n".join([
        *lines,
        "",
        f"{result['what']}; medians. {result['machine']}; torch {result['versions']['torch']}; {result['date']}. "
        f"Again: `{result['command']}`.",
    ])  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="on this machine; two numbers or more")
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument("--model", default="small", help="as --model_config_name_or_path of the recipe")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16, help="images of each rank")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm_up", type=int, default=2, help="steps that are not counted")
    parser.add_argument("--steps", type=int, default=8, help="of each kind in a round")
    parser.add_argument("--reductions", type=int, default=20, help="of each size in a round")
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    settings = parser.parse_args()
    settings.given = sys.argv[1:]
    if min(settings.ranks) == max(settings.ranks):
        parser.error("--ranks needs two numbers or more, such as 1 2")
    return settings


def main() -> None:
    settings = parse()
    if settings.worker:
        return serve(settings)
    rows = measured_rows(measure(settings), settings.batch)
    what = (
        f"Training steps of the network `{settings.model}` on {settings.batch} images of {settings.resolution} px a "
        f"rank, float32, {settings.threads} thread(s) a rank, gloo, {settings.rounds} rounds of {settings.steps} steps"
    )
    given = [part for part in settings.given if part not in ("--output", str(settings.output))]
    command = " ".join(["python benchmarks/scaling.py", *given])
    write_result(settings.output, what, command, PACKAGES, rows=rows + paper_rows(), summary=summary_of(rows))
    print(render_scaling(json.loads(settings.output.read_text())))
    print(f"To reproduce: {command}")
    return None


if __name__ == "__main__":
    main()
