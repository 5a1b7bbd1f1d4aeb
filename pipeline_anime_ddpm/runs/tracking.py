"""Monitoring of a run: metrics.csv, loss.png, sample grids, trackers."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import logging
import math
import os
import resource
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image

from ..common.atomic import write_whole
from ..common.errors import UserError, first_line

QUARTERS = 4
WORDS = frozenset({"conditions"})  # the columns of tables that hold no numbers
SECONDS_FOR_LAST_UPLOAD = 60  # to W&B, when a run ends: nobody waits longer for a server that has gone
COPIES_STAND_OUT = "copies_stand_out"  # 1 in an evaluation whose samples repeat more training images than chance would
CSV_NAME, CURVE_NAME, SAMPLES_NAME, EVALUATION_NAME = "metrics.csv", "loss.png", "samples", "evaluation.csv"


class LossMeter:
    """Adds up losses on their own device, so that nothing waits for them until they are read.

    Attributes:
        sums: `(2 + 2 * QUARTERS,)` float64: weighted loss, images, then for each quarter of the noise table, from
            the least noise to the most, the sum of the unweighted errors and how many they are. What is not finite
            is left out, like the optimiser's step.
    """

    def __init__(self, num_train_timesteps: int, device: torch.device | str):
        self.num_train_timesteps = num_train_timesteps
        # MPS has no float64; float32 sums over ten steps lose nothing that a plot shows
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self.sums = torch.zeros(2 + 2 * QUARTERS, dtype=dtype, device=device)

    def add(self, loss: torch.Tensor, error: torch.Tensor, timesteps: torch.Tensor) -> None:
        """Args: the scalar loss of a micro-batch, and the error and timestep of each image in it, `(B,)`."""
        quarter = (timesteps * QUARTERS // self.num_train_timesteps).long()
        loss, error = loss.detach(), error.to(self.sums.dtype)
        self.sums[0] += loss.nan_to_num(0, 0, 0) * len(error)
        self.sums[1] += loss.isfinite() * len(error)
        self.sums[2 : 2 + QUARTERS].index_add_(0, quarter, error.nan_to_num(0, 0, 0))
        self.sums[2 + QUARTERS :].index_add_(0, quarter, error.isfinite().to(error.dtype))

    def gather(self, accelerator: Accelerator) -> None:
        """Bring the sums of all ranks to the first, which is the one that is saved; their total stays the same."""
        self.sums = accelerator.reduce(self.sums, reduction="sum")
        self.keep_on_first(accelerator)

    def keep_on_first(self, accelerator: Accelerator) -> None:
        """Forget what the first rank has as well."""
        if not accelerator.is_main_process:
            self.sums = torch.zeros_like(self.sums)

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over all ranks since the last reading; NaN for what nothing was added to."""
        total = accelerator.reduce(self.sums, reduction="sum").tolist()
        self.sums.zero_()
        errors, counts = total[2 : 2 + QUARTERS], total[2 + QUARTERS :]
        means = [e / c if c else math.nan for e, c in zip(errors, counts, strict=True)]
        loss = total[0] / total[1] if total[1] else math.nan
        return {"loss": loss} | {f"mse_noise_q{i + 1}": mean for i, mean in enumerate(means)}


class CsvTable:
    """A table of numbers that grows by rows and goes on when a run is resumed.

    Args:
        first_images: images seen when this process starts; later rows, of before an interruption, are dropped.
    """

    def __init__(self, path: Path, first_images: int, writes: bool):
        self.path, self.writes = path, writes
        self.rows = self._read(first_images) if writes else []
        self.rows_before = len(self.rows)
        self.fields: list[str] = []
        if writes:
            self._write_all()

    def _read(self, first_images: int) -> list[dict[str, Any]]:
        """Read the rows of earlier processes of this run, without rows that are cut off or damaged."""
        if not self.path.exists():
            return []
        rows = []
        try:
            with open(self.path, newline="", errors="replace") as file:
                for row in csv.DictReader(file):
                    with contextlib.suppress(ValueError, TypeError, LookupError):
                        rows.append(self._parsed(row))
        except csv.Error as error:
            logging.warning("%s is damaged (%s); the rows after the damage are lost.", self.path, error)
        return [row for row in rows if row["images"] <= first_images]

    def _parsed(self, row: dict[str, str]) -> dict[str, Any]:
        """Raises an error if a value is missing or no number where it should be one."""
        numbers = {name: float(value) for name, value in row.items() if name not in WORDS}
        return numbers | {name: int(row[name]) for name in ("images", "step")} | {n: row[n] for n in WORDS & row.keys()}

    def _write_all(self) -> None:
        """Rewrite the file beside and rename it, so that a kill never leaves half a table."""
        if not self.rows:
            self.path.unlink(missing_ok=True)
            return
        self.fields = list(dict.fromkeys(name for row in self.rows for name in row))
        partial = self.path.with_name(f".{self.path.name}.partial")
        with open(partial, "w", newline="") as file:
            writer = csv.DictWriter(file, self.fields, restval="nan")
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(partial, self.path)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if not self.writes:
            return
        if not set(row) <= set(self.fields):
            self._write_all()
            return
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, self.fields, restval="nan").writerow(row)


class RunLog:
    """Writes metrics and pictures of one run to its folder and to the trackers; only the main process writes.

    Args:
        first_images: images seen when this process starts.
    """

    def __init__(self, output_dir: Path, accelerator: Accelerator, first_images: int):
        self.output_dir, self.accelerator = output_dir, accelerator
        writes = accelerator.is_main_process
        self.table = CsvTable(output_dir / CSV_NAME, first_images, writes)
        self.evaluations = CsvTable(output_dir / EVALUATION_NAME, first_images, writes)
        self._last = (time.perf_counter(), first_images)
        self._waited = 0.0

    @property
    def rows(self) -> list[dict[str, float]]:
        """Columns of metrics.csv."""
        return self.table.rows

    @property
    def is_first(self) -> bool:
        """Whether this process has added one row so far."""
        return len(self.table.rows) == self.table.rows_before + 1

    def metrics(
        self, values: dict[str, float], *, step: int, images: int, seconds_waited: float = 0.0
    ) -> dict[str, float]:
        """Add one row: `values`, images/s and the share of time waiting for data since the last row, and peak memory.

        Args:
            seconds_waited: for data, since this process began to train.

        Returns the whole row.
        """
        now = time.perf_counter()
        elapsed, seen = now - self._last[0], images - self._last[1]
        row = {"images": images, "step": step, **values}
        row["images_per_second"] = seen / elapsed
        row["data_wait"] = (seconds_waited - self._waited) / elapsed
        self._last, self._waited = (now, images), seconds_waited
        row["peak_memory_mb"] = peak_memory_mb(self.accelerator.device)
        self.table.add(row)
        self.accelerator.log(row, step=images)
        return row

    def evaluation(self, values: dict[str, float], conditions: str, *, step: int, images: int) -> bool:
        """Add what was measured of the images that the run draws now; whether their KID is the least so far.

        A model that repeats its training images is never the best.

        Args:
            conditions: names what else the values depend on; only rows that share it are compared.
        """
        rows = [row for row in self.evaluations.rows if row["conditions"] == conditions]
        rows = [row for row in rows if row.get(COPIES_STAND_OUT) != 1]
        before = [row["kid"] for row in rows if not math.isnan(row.get("kid", math.nan))]
        self.evaluations.add({"images": images, "step": step, **values, "conditions": conditions})
        self.accelerator.log({f"eval/{name}": value for name, value in values.items()}, step=images)
        is_better = values.get("kid", math.nan) < min(before, default=math.inf)
        return is_better and not values.get(COPIES_STAND_OUT)

    def pictures(self, pictures: list[Image.Image], *, images: int) -> Path:
        """Save a grid of samples, hand it to the trackers and redraw the loss curve. Main process only."""
        path = self.output_dir / SAMPLES_NAME / f"{images:09d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grid = make_grid(pictures)
        grid.save(path)
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                array = torch.frombuffer(bytearray(grid.tobytes()), dtype=torch.uint8).view(grid.height, grid.width, 3)
                tracker.log_images({"samples": array[None].numpy()}, step=images, dataformats="NHWC")
            else:
                tracker.log_images({"samples": [grid]}, step=images)
        self.curve()
        return path

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Keep what is done inside, drawing and saving, out of images/s."""
        start = time.perf_counter()
        yield
        self._last = (self._last[0] + time.perf_counter() - start, self._last[1])

    def curve(self) -> None:
        """Draw the loss over images, and the error of each quarter of the noise table, to `loss.png`."""
        if self.rows:
            draw_loss_curve(self.rows, self.output_dir / CURVE_NAME)


def make_grid(pictures: list[Image.Image]) -> Image.Image:
    """Paste equal-sized RGB pictures into the squarest grid, row by row."""
    columns = math.ceil(math.sqrt(len(pictures)))
    width, height = pictures[0].size
    grid = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height), "white")
    for i, picture in enumerate(pictures):
        grid.paste(picture, (i % columns * width, i // columns * height))
    return grid


def draw_loss_curve(rows: list[dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    images = [row["images"] for row in rows]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(images, [row["loss"] for row in rows], lw=0.8, alpha=0.4)
    left.plot(images, smooth([row["loss"] for row in rows]), lw=1.6, color="C0")
    left.set(xlabel="images", ylabel="weighted loss", yscale="log", title="training loss")
    for i in range(1, QUARTERS + 1):
        label = f"{(i - 1) * 25}–{i * 25} %"
        right.plot(images, smooth([row[f"mse_noise_q{i}"] for row in rows]), lw=1.4, label=label)
    right.set(xlabel="images", ylabel="mean squared error", yscale="log", title="by part of the noise table")
    right.legend(title="least to most noise", fontsize="small")
    figure.savefig(path, dpi=120)


def smooth(values: list[float], decay: float = 0.9) -> list[float]:
    """Exponential moving average without bias at the start, passing over NaN."""
    mean = weight = 0.0
    smoothed = []
    for value in values:
        if not math.isnan(value):
            mean, weight = decay * mean + (1 - decay) * value, decay * weight + 1 - decay
        smoothed.append(mean / weight if weight else math.nan)
    return smoothed


def peak_memory_mb(device: torch.device) -> float:
    """Peak of CUDA's allocator, or on other devices the peak resident size of the process, in MB (1e6 bytes)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6  # bytes on macOS, KiB elsewhere


def check_trackers(names: list[str]) -> None:
    """Raise a UserError for a tracker that is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--report_to {name} needs the package {name}; run `pip install {name}` or omit it.")


def _wandb_mode() -> str | None:
    """`offline` if nobody is logged in, so that W&B never asks; None leaves the choice to WANDB_MODE."""
    import wandb

    if "WANDB_MODE" in os.environ or wandb.login(prompt=False, verify=False):
        return None
    print("W&B: not logged in, so this run is logged offline; upload it later with `wandb sync`.", flush=True)
    return "offline"


def start_trackers(accelerator: Accelerator, trackers: list[str], settings: dict[str, Any], output_dir: Path) -> None:
    """Start the accelerator's trackers; a resumed run goes on in the same W&B run, and offline if W&B is away."""
    identifier = output_dir / ".wandb_run"
    if accelerator.is_main_process and not identifier.exists():
        write_whole(identifier, uuid.uuid4().hex[:8])
    accelerator.wait_for_everyone()
    wandb_settings: dict[str, Any] = {
        "mode": _wandb_mode() if "wandb" in trackers and accelerator.is_main_process else None,
        "id": identifier.read_text(),
        "resume": "allow",
        "dir": str(output_dir),
        "name": output_dir.name,
    }
    away: tuple[type[Exception], ...] = ()
    if "wandb" in trackers:
        import wandb

        away = (wandb.Error,)
        wandb_settings["settings"] = wandb.Settings(finish_timeout=SECONDS_FOR_LAST_UPLOAD, finish_timeout_raises=True)
    loggable = {k: v for k, v in settings.items() if v is not None}
    kwargs = {"wandb": wandb_settings}
    try:
        accelerator.init_trackers("anime-ddpm", config=loggable, init_kwargs=kwargs)
    except away as error:
        logging.warning(
            "W&B does not respond (%s), so this run is logged offline; upload it later with `wandb sync`.",
            first_line(error),
        )
        wandb.teardown()  # which still holds the run's id
        wandb_settings["mode"] = "offline"
        accelerator.trackers.clear()
        accelerator.init_trackers("anime-ddpm", config=loggable, init_kwargs=kwargs)


def end_training(accelerator: Accelerator) -> None:
    """Close the accelerator's trackers, and say what becomes of what W&B, which may have gone, does not take."""
    try:
        accelerator.end_training()
    except TimeoutError:
        logging.warning(
            "W&B did not receive everything in %g seconds, so the rest is offline; upload it with `wandb sync %s`.",
            SECONDS_FOR_LAST_UPLOAD,
            accelerator.get_tracker("wandb", unwrap=True).settings.sync_dir,
        )
        accelerator.end_training()  # of the other trackers; this one is closed
