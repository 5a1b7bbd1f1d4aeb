#!/usr/bin/env python
"""Whether a long training stays as it was: memory, open files, threads and speed, looked at once a minute.

    python benchmarks/long_run.py --hours 2
    python benchmarks/long_run.py --hours 2 --data faces/ --model hub_model --resolution 64 -- --learning_rate 3e-4

A network trains, half of the time from the cache and half of it, from what it has learned by then, streaming; meanwhile
it measures itself, saves checkpoints, and pushes its pipeline to a Hub on loopback, which this process serves. By
default it is a small one on drawn faces of 32 pixels; what stands behind `--` are flags of the training. The result is
written anew after every look, so that whatever ends this program leaves what was measured until then.

Beside other work the speed by the clock says little; images for each second of processor time still do.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from common import RESULTS, ROOT, drawn_faces, write_result
from render_long_run import render_long_run

sys.path.insert(0, str(ROOT / "tests" / "support"))
from hub_server import HubServer

PACKAGES = ["torch", "diffusers", "datasets", "huggingface-hub"]
PARTS = {"cached": ["--no-streaming"], "streaming": ["--streaming"]}
REPOSITORY = "tester/long-run"
WARM_UP = 0.15  # at least of a part's time: until every page of the cache was read; and the first of each kind of pause
TENTH = 0.1  # of the part, whose median is compared at the beginning and at the end of what follows
PAUSES = ("evaluations", "pushes")


def vision_model(folder: Path) -> Path:
    """A small vision model with random weights: evaluation takes its way, whatever the numbers are worth."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    Dinov2Model(Dinov2Config(**sizes, image_size=28, patch_size=14)).save_pretrained(folder)
    BitImageProcessor(crop_size={"height": 28, "width": 28}, size={"shortest_edge": 32}).save_pretrained(folder)
    return folder


def flags(part: str, work: Path, settings: argparse.Namespace) -> list[str]:
    """Of a training that does not end by itself, and does at intervals all that a training can do."""
    often = settings.steps_between_saves
    epochs = max(1, often * settings.batch // settings.images)
    data = f"--dataset_name={settings.data}" if settings.data else f"--train_data_dir={work / 'data'}"
    before = settings.parts[: settings.parts.index(part)]
    start = work / before[-1] if before else settings.model
    model = f"--pretrained_model_name_or_path={start}" if start else "--model_config_name_or_path=tiny"
    return [
        data, model, f"--cache_dir={work / 'cache'}", f"--output_dir={work / part}",
        f"--resolution={settings.resolution}", "--random_flip", f"--train_batch_size={settings.batch}",
        "--max_train_images=1000000000", "--lr_warmup_steps=100", f"--checkpointing_steps={often}",
        f"--eval_steps={often}", "--eval_images=64", "--eval_batch_size=16", f"--eval_extractor={work / 'vision'}",
        "--save_best", f"--save_model_epochs={epochs}", f"--save_images_epochs={epochs}", "--push_to_hub",
        f"--hub_model_id={REPOSITORY}-{part}", *PARTS[part], *settings.training,
    ]  # fmt: skip


@contextlib.contextmanager
def training(part: str, work: Path, settings: argparse.Namespace, hub: HubServer) -> Iterator[subprocess.Popen]:
    """A training in a process of its own, ended by Ctrl-C, as a user would.

    Raises:
        RuntimeError: if it ended before, or not as Ctrl-C should end it.
    """
    own = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HOME": str(work / "home")}
    command = [sys.executable, str(ROOT / "train_anime_ddpm.py"), *flags(part, work, settings)]
    with open(work / f"{part}.log", "w") as log:
        process = subprocess.Popen(command, env=os.environ | hub.env | own, stdout=log, stderr=log)
        if settings.cpu is not None:
            psutil.Process(process.pid).cpu_affinity([settings.cpu])
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=300)
            except subprocess.TimeoutExpired:
                process.kill()
    if process.returncode != 130:
        raise RuntimeError(f"It ended with {process.returncode}:\n{(work / f'{part}.log').read_text()[-3000:]}")


def look(process: subprocess.Popen, folder: Path, seen: int) -> dict[str, Any] | None:
    """What the training holds now, with its workers, and how fast it was since `seen` images; None before it trains."""
    rows = [row for row in _rows(folder / "metrics.csv") if int(float(row["images"])) > seen]
    if not rows:
        return None
    with contextlib.suppress(psutil.NoSuchProcess):  # a worker that has just ended; the next look will do
        own = psutil.Process(process.pid)
        processes = [own, *own.children(recursive=True)]
        times = [p.cpu_times() for p in processes]
        return {
            "memory": sum(p.memory_info().rss for p in processes),
            "processor": sum(t.user + t.system for t in times) + times[0].children_user + times[0].children_system,
            "files": sum(p.num_fds() for p in processes),
            "threads": sum(p.num_threads() for p in processes),
            "images": int(float(rows[-1]["images"])),
            "images_per_second": statistics.median(float(row["images_per_second"]) for row in rows),
        }


def _rows(table: Path) -> list[dict[str, str]]:
    if not table.is_file():
        return []
    with open(table, newline="") as file:
        return [row for row in csv.DictReader(file) if all(row.values())]


def measure(part: str, seconds: float, work: Path, settings: argparse.Namespace, report: Report) -> None:
    """Train for so long from the first look on, and look at intervals."""
    with HubServer() as hub, training(part, work, settings, hub) as process:
        begin, last = None, None
        while begin is None or time.monotonic() - begin < seconds:
            time.sleep(settings.every)
            if process.poll() is not None:
                break
            row = look(process, work / part, last["images"] if last else 0)
            if row is None:
                continue
            begin, before, last = begin or time.monotonic(), last, row
            if before is None:  # what came before the first image is not the training's pace
                continue
            done = {
                "images_per_processor_second": (row["images"] - before["images"])
                / (row["processor"] - before["processor"]),
                "evaluations": len(_rows(work / part / "evaluation.csv")),
                "pushes": len(hub.repos[f"models/{REPOSITORY}-{part}"].commits) - 1,  # the first is of its making
            }
            report.add({"part": part, "minutes": round((time.monotonic() - begin) / 60, 2), **row, **done})


class Report:
    """The result so far, on disk after every look.

    Args:
        path: of the JSON file.
        what: is measured.
        command: that measures it again.
    """

    def __init__(self, path: Path, what: str, command: str):
        self.path, self.what, self.command = path, what, command
        self.rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Write everything anew beside, then rename it, so that there is always a whole file."""
        self.rows.append(row)
        partial = self.path.with_name(f".{self.path.name}.partial")
        parts = {part: [row for row in self.rows if row["part"] == part] for part in PARTS}
        summary = {part: changes(rows) for part, rows in parts.items() if rows}
        write_result(partial, self.what, self.command, PACKAGES, rows=self.rows, summary=summary)
        os.replace(partial, self.path)
        print(f"{row['part']}, minute {row['minutes']:.1f}: {row}", flush=True)


def changes(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """From a tenth of the time at the warm-up's end to the last tenth, by medians: ratios, of files and threads counts.

    Both an evaluation and a push load code and open connections that stay; the look right after them is left out.
    """
    paused = [row for row in rows if all(row[pause] for pause in PAUSES if rows[-1][pause])]
    warm = [row for row in paused[1:] or rows if row["minutes"] >= WARM_UP * rows[-1]["minutes"]]
    count = max(1, round(TENTH * len(rows)))
    before, after = (
        {name: statistics.median(row[name] for row in tenth) for name in rows[0] if name != "part"}
        for tenth in (warm[:count], warm[-count:])
    )
    return {
        "minutes": rows[-1]["minutes"],
        "warm_up": warm[0]["minutes"],
        "looks": len(rows),
        "memory_growth": after["memory"] / before["memory"] - 1,
        "speed_growth": after["images_per_second"] / before["images_per_second"] - 1,
        "work_growth": after["images_per_processor_second"] / before["images_per_processor_second"] - 1,
        "files": [before["files"], after["files"]],
        "threads": [before["threads"], after["threads"]],
        "evaluations": rows[-1]["evaluations"],
        "pushes": rows[-1]["pushes"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0, help="of training, shared by the parts")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two looks")
    parser.add_argument("--data", help="a local data set, such as one of parquet files; by default faces are drawn")
    parser.add_argument("--images", type=int, default=2048, help="faces of the data set")
    parser.add_argument("--model", help="a pipeline to train on; by default a new `tiny` network")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps_between_saves", type=int, default=512, help="between evaluations, checkpoints, pushes")
    parser.add_argument("--cpu", type=int, help="number of the only core that the training may use")
    parser.add_argument("--work", type=Path, help="keep the trainings there; by default nothing is kept")
    parser.add_argument("--output", type=Path, default=RESULTS / "long_run.json")
    parser.add_argument("training", nargs="*", metavar="-- FLAG", help="flags of train_anime_ddpm.py, which win")
    settings = parser.parse_args()
    command = shlex.join(["python", "benchmarks/long_run.py", *sys.argv[1:]])
    model, faces = settings.model or "the `tiny` network", "faces" if settings.data else "drawn faces"
    what = f"Trainings of {model} at {settings.resolution} pixels on {settings.images:,} {faces}"
    report = Report(settings.output, what, command)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: the training is stopped as well
    with tempfile.TemporaryDirectory(prefix="long-run-") as folder, contextlib.suppress(KeyboardInterrupt):
        work = settings.work or Path(folder)
        if not settings.data:
            (work / "data").mkdir(parents=True, exist_ok=True)
            drawn_faces(str(work / "data"), settings.images, settings.resolution)
        vision_model(work / "vision")
        for part in settings.parts:
            measure(part, settings.hours * 3600 / len(settings.parts), work, settings, report)
    if report.rows:
        print(render_long_run(json.loads(settings.output.read_text())))


if __name__ == "__main__":
    main()
