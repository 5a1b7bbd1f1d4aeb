#!/usr/bin/env python
"""Data loading: the path of diffusers' `train_unconditional.py` against ours, cached and streaming.

    python benchmarks/data_loading.py

Every contender runs in a process of its own; one epoch of each in turn, so that whatever else slows the machine slows
all of them. All end with the same: float32 batches `(B, 3, R, R)` in [-1, 1], half of the images mirrored.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import numpy as np
import torch
from common import FACES, RESULTS, ROOT, drawn_faces, spread, write_result
from render_speed import render_data_loading

PACKAGES = ["torch", "torchvision", "datasets", "pillow", "simplejpeg", "numpy"]


class Peer:
    """The data path of `train_unconditional.py`: decode and transform each image, each epoch, in DataLoader workers."""

    def __init__(self, settings: argparse.Namespace, folder: str):
        from torchvision import transforms

        side = settings.resolution
        bilinear = transforms.InterpolationMode.BILINEAR
        self.transform = transforms.Compose([
            transforms.Resize(side, interpolation=bilinear), transforms.RandomCrop(side),
            transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize([0.5], [0.5]),
        ])  # fmt: skip
        self.data = datasets.load_dataset(settings.data, cache_dir=folder, split="train")
        self.data.set_transform(self._transform)
        self.settings = settings

    def _transform(self, rows: dict) -> dict:
        return {"input": [self.transform(image.convert("RGB")) for image in rows["image"]]}

    def epoch(self, workers: int) -> Iterator[torch.Tensor]:
        batch = self.settings.batch
        loader = torch.utils.data.DataLoader(self.data, batch_size=batch, shuffle=True, num_workers=workers)
        for rows in loader:
            if len(rows["input"]) == batch:
                yield rows["input"]


class Ours:
    """Cached or streaming, through the interface that training uses."""

    def __init__(self, settings: argparse.Namespace, folder: str, streaming: bool):
        from pipeline_anime_ddpm.data import open_data
        from pipeline_anime_ddpm.training.config import TrainingConfig

        config = TrainingConfig(
            dataset_name=settings.data, cache_dir=folder, output_dir=f"{folder}/run", streaming=streaming
        )
        self.data = open_data(config, settings.resolution, show_progress=False)
        self.settings, self.step, self.state = settings, 0, None

    def epoch(self, workers: int) -> Iterator[torch.Tensor]:
        from pipeline_anime_ddpm.data import FeedPlan, prepare_batch

        last = self.step + self.data.num_images // self.settings.batch
        feed = self.data.feed(FeedPlan(self.settings.batch, self.step, last, num_workers=workers, state=self.state))
        for step, batch in enumerate(feed, start=self.step):
            coins = torch.rand(len(batch.images), generator=torch.Generator().manual_seed(step))
            yield prepare_batch(batch.images, coins < 0.5)
        self.step, self.state = last, feed.state()
        feed.close()


CONTENDERS: dict[str, Callable] = {
    "peer": Peer,
    "cached": lambda settings, folder: Ours(settings, folder, streaming=False),
    "streaming": lambda settings, folder: Ours(settings, folder, streaming=True),
}


def cpu_seconds() -> float:
    """Of this process and all its children that have ended, user and system."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure_epoch(batches: Iterator[torch.Tensor]) -> dict[str, float]:
    """Consume one epoch. Workers end with it, so that their time is in the children's."""
    times, images = [], 0
    cpu, begin = cpu_seconds(), time.perf_counter()
    previous = begin
    for batch in batches:
        now = time.perf_counter()
        times.append(now - previous)
        previous, images = now, images + len(batch)
    wait_for_workers()
    wall, cpu = time.perf_counter() - begin, cpu_seconds() - cpu
    return {
        "images": images, "seconds": wall, "batch_mean_ms": 1e3 * float(np.mean(times)),
        "batch_max_ms": 1e3 * max(times), "batch_min_ms": 1e3 * min(times),
        "cpu_seconds_per_1000": 1e3 * cpu / images, "cpu_percent": 100 * cpu / wall,
    }  # fmt: skip


def wait_for_workers() -> None:
    """Ended ones are counted only when they are waited for; the DataLoader does that a moment after its last batch."""
    deadline = time.perf_counter() + 5
    while multiprocessing.active_children() and time.perf_counter() < deadline:
        time.sleep(0.001)


def serve(name: str, workers: int, settings: argparse.Namespace, folder: str, start_method: str, pipe) -> None:
    """One contender: opens its data, then runs an epoch whenever it is told to."""
    multiprocessing.set_start_method(start_method, force=True)  # workers start as they do in a training script
    torch.set_num_threads(1)  # for all: threads that wait for each other between short operations would count as work
    importlib.import_module("torchvision.transforms" if name == "peer" else "pipeline_anime_ddpm.data")
    begin, cpu = time.perf_counter(), cpu_seconds()
    contender = CONTENDERS[name](settings, folder)
    pipe.send({"seconds": time.perf_counter() - begin, "cpu_seconds": cpu_seconds() - cpu})
    while pipe.recv() == "epoch":
        pipe.send(measure_epoch(contender.epoch(workers)))


def run_contenders(settings: argparse.Namespace, workers: int) -> dict[str, dict]:
    """For each contender: how long opening took with empty caches, its first epoch, and the ones to be compared."""
    context, results, pipes, processes = multiprocessing.get_context("spawn"), {}, {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in CONTENDERS:
            pipes[name], theirs = context.Pipe()
            arguments = (name, workers, settings, f"{folder}/{name}", multiprocessing.get_start_method(), theirs)
            processes.append(context.Process(target=serve, args=arguments))
            processes[-1].start()
            theirs.close()  # so that a contender that fails ends the benchmark
            opening = pipes[name].recv()
            pipes[name].send("epoch")
            results[name] = {"opening": opening, "first": pipes[name].recv(), "epochs": []}
        for _ in range(settings.epochs):
            for name, pipe in pipes.items():
                pipe.send("epoch")
                results[name]["epochs"].append(pipe.recv())
        for pipe, process in zip(pipes.values(), processes, strict=True):
            pipe.send("end")
            process.join()
    return results


def profile(settings: argparse.Namespace) -> list[dict]:
    """Microseconds an image in one thread, for each thing that the two paths do, and the machine's copying speed."""
    from pipeline_anime_ddpm.data import FeedPlan, open_data, prepare_batch
    from pipeline_anime_ddpm.data.decoding import decode_image
    from pipeline_anime_ddpm.data.reading import read_unit
    from pipeline_anime_ddpm.data.sources import open_source
    from pipeline_anime_ddpm.training.config import TrainingConfig

    torch.set_num_threads(1)
    batch, generator = settings.batch, torch.Generator()
    with tempfile.TemporaryDirectory() as folder:
        config = TrainingConfig(dataset_name=settings.data, cache_dir=folder, output_dir=f"{folder}/run")
        source, data = open_source(config), open_data(config, settings.resolution, show_progress=False)
        rows = [row for unit in range(source.num_units) for row in read_unit(source, unit)][:2000]
        steps = min(len(rows), data.num_images) // batch
        uint8 = next(data.feed(FeedPlan(batch, 0, 1))).images
        big = np.ones(2**28, np.uint8)
        stages = {
            "read encoded": (lambda: [*source.read(0)], sum(1 for _ in source.read(0))),
            "decode": (lambda: [decode_image(row.content, settings.resolution).size for row in rows], len(rows)),
            "gather from cache": (lambda: [None for _ in data.feed(FeedPlan(batch, 0, steps))], steps * batch),
            "scale and mirror": (
                lambda: [
                    prepare_batch(uint8, torch.rand(batch, generator=generator) < 0.5) is None for _ in range(steps)
                ],
                steps * batch,
            ),
        }  # fmt: skip
        result = [
            {"kind": "profile", "stage": stage, "microseconds_per_image": 1e6 * best_of(work) / images}
            for stage, (work, images) in stages.items()
        ]
        result.append({"kind": "profile", "stage": "copy", "gigabytes_per_second": 2**28 / best_of(big.copy) / 1e9})
    return result


def best_of(work: Callable, times: int = 3) -> float:
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def data_wait(settings: argparse.Namespace, streaming: bool) -> float:
    """Share of a training run spent waiting for data, its first logged interval (start-up) left out."""
    with tempfile.TemporaryDirectory() as folder:
        flags = {
            "dataset_name": settings.data, "resolution": settings.resolution, "model_config_name_or_path": "small",
            "train_batch_size": settings.batch, "max_train_steps": settings.train_steps, "cache_dir": folder,
            "logging_steps": max(1, settings.train_steps // 4), "lr_warmup_steps": 1, "validation_images": 1,
            "eval_batch_size": 1, "ddpm_num_inference_steps": 1, "report_to": "none", "output_dir": f"{folder}/run",
        }  # fmt: skip
        command = [sys.executable, str(ROOT / "train_anime_ddpm.py"), "--streaming" if streaming else "--no-streaming"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        subprocess.run(command, check=True, capture_output=True)
        with open(f"{folder}/run/metrics.csv") as file:
            rows = list(csv.DictReader(file))[1:]
    return float(np.mean([float(row["data_wait"]) for row in rows]))


def medians(epochs: list[dict]) -> dict[str, float]:
    return {key: spread([epoch[key] for epoch in epochs])["median"] for key in epochs[0]}


def rows_and_summary(measured: dict[int, dict], waits: dict[str, float]) -> tuple[list[dict], dict[str, float]]:
    """One row for each contender and number of workers; the summary takes the worse ratio of these numbers."""
    rows, ratios = [], {}
    for workers, contenders in measured.items():
        for name, result in contenders.items():
            figures = {key: spread([e[key] for e in result["epochs"]]) for key in result["epochs"][0]}
            rows.append({"kind": "epoch", "contender": name, "workers": workers, **figures})
            first = {"opening_seconds": result["opening"]["seconds"], "first_epoch_seconds": result["first"]["seconds"]}
            rows.append({"kind": "first epoch", "contender": name, "workers": workers, **first})
        peer, cached, streaming = (medians(contenders[name]["epochs"]) for name in ("peer", "cached", "streaming"))
        built = contenders["cached"]["opening"]["seconds"] + contenders["cached"]["first"]["seconds"]
        for key, value in {
            "cached_epoch_time_ratio": cached["seconds"] / peer["seconds"],
            "cached_cpu_ratio": cached["cpu_seconds_per_1000"] / peer["cpu_seconds_per_1000"],
            "cached_first_epoch_ratio": built / peer["seconds"],
            "streaming_epoch_time_ratio": streaming["seconds"] / peer["seconds"],
            "streaming_cpu_ratio": streaming["cpu_seconds_per_1000"] / peer["cpu_seconds_per_1000"],
        }.items():
            ratios.setdefault(key, {})[workers] = value
    rows += [
        {"kind": "ratio", "ratio": key, "workers": w, "value": v} for key, by in ratios.items() for w, v in by.items()
    ]
    rows += [{"kind": "data wait", "contender": name, "fraction": value} for name, value in waits.items()]
    summary = {key: max(by.values()) for key, by in ratios.items()}
    return rows, summary | {"data_wait_fraction": max(waits.values())} if waits else summary


NOTES = [
    "The summary takes the larger ratio of the numbers of workers; the rows hold all of them.",
    "cached_first_epoch_ratio: opening with an empty cache (decode and write everything) plus the first epoch, over "
    "the peer's median epoch, whose own preparation (opening_seconds) is not counted.",
    "Every contender's main process has one torch thread; decoding threads and workers come on top.",
    "A worker's start is part of the epoch, for the peer as for ours.",
    "data wait: share of the time of a training run (small network, the given resolution and batch), without its "
    "first quarter, which holds the start.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder or name of a data set; by default the real faces, else drawn ones")
    parser.add_argument("--drawn", action="store_true", help="take drawn faces even where the real ones are")
    parser.add_argument("--images", type=int, default=10_000, help="drawn faces, if they are needed")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--train_steps", type=int, default=40, help="of the runs that measure data wait; 0 for none")
    parser.add_argument("--output", type=Path, default=RESULTS / "data_loading.json")
    settings = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    command = " ".join(["python benchmarks/data_loading.py", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        real = settings.data is None and not settings.drawn and FACES.is_dir()
        what = "10,000 real faces, JPEG of 64 px" if real else settings.data or f"{settings.images:,} drawn faces, JPEG"
        settings.data = (
            str(FACES) if real else settings.data or drawn_faces(folder, settings.images, settings.resolution)
        )
        measured = {workers: run_contenders(settings, workers) for workers in settings.workers}
        waits = {}
        if settings.train_steps:
            waits = {name: data_wait(settings, name == "streaming") for name in ("cached", "streaming")}
        rows, summary = rows_and_summary(measured, waits)
        rows += profile(settings)
    what = (
        f"Data loading: {what}, batches of {settings.batch} at {settings.resolution} px, {settings.epochs} epochs each"
    )
    write_result(settings.output, what, command, PACKAGES, rows=rows, summary=summary, notes=NOTES)
    print(render_data_loading(json.loads(settings.output.read_text())))
    print(f"\nTo reproduce: {command}")


if __name__ == "__main__":
    main()
