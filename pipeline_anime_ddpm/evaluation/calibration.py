"""`anime-ddpm calibrate`: at which noise a data set's structure is lost, and the noise schedule that follows from it.

Two things are measured over the noise level, of x_0 + σ ε, which is x_t over √ᾱ (log SNR = -2 log σ):

- the power P of the mean and of each octave of spatial frequency. Noise hides a band where σ² exceeds P; of a Wiener
  filter's estimate the share P / (P + σ²) is left. The octaves' mean is the density that the scheduler calls `"anime"`.
- the structural similarity with the clean image (SSIM, Wang et al. 2004). It looks through windows of 11 pixels and so
  sees lines and flat colour, not the layout of a face; it is there to be compared.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..common.errors import UserError, needs_extra
from ..common.settings import set_help
from ..schedulers import AnimeNoiseScheduler
from ..schedulers.scheduling_anime_noise import share_lost
from ..training.noise_levels import RECORD, octaves
from .image_sets import DataSet, ImageSet

FIGURE, SCHEDULER = "calibration.png", "scheduler"  # what a calibration's folder holds beside the numbers
LOGSNR = np.linspace(-12.0, 12.0, 25)
FEWEST, SMALLEST = 64, 16  # images, and pixels: SSIM's window needs 11
ENOUGH = 1_000  # images
BATCH = 100
IMAGE_RANGE = 2.0  # images are in [-1, 1]
EXAMPLE = """\
Measure at which noise level a data set loses its structure, for --noise_calibration of a training.

  anime-ddpm calibrate --dataset faces/ --resolution 64"""


@dataclass(frozen=True)
class Band:
    """An octave of spatial frequency, or the mean colour: cycles an image, the greater of the two directions.

    Attributes:
        lowest, highest: of its frequencies, both included.
        log_sigma: log σ at which noise is as strong as the band: half the logarithm of its power per mode, in a unitary
            transform of images in [-1, 1] from which the data set's mean image was taken away.
    """

    lowest: int
    highest: int
    log_sigma: float

    @property
    def name(self) -> str:
        if self.highest == 0:
            return "mean colour"
        return "1 cycle an image" if self.highest == 1 else f"{self.lowest} to {self.highest} cycles an image"


@dataclass(frozen=True)
class Calibration:
    """The measurements of one data set.

    Attributes:
        images: facts of the images: source, split, n, resolution, fingerprint.
        seed: of the noise.
        bands: from the mean colour to the finest octave.
        logsnr: where the similarity was measured, rising.
        ssim, ssim_deviation: mean and standard deviation over images, at each of `logsnr`.
    """

    images: dict[str, Any]
    seed: int
    bands: list[Band]
    logsnr: list[float]
    ssim: list[float]
    ssim_deviation: list[float]

    @property
    def log_sigmas(self) -> list[float]:
        """What `AnimeNoiseScheduler` takes as `anime_log_sigmas`: to more digits than can be known."""
        return [round(band.log_sigma, 4) for band in self.bands]


def calibrate(images: ImageSet, seed: int = 0) -> Calibration:
    """Measure `images`; the same images and seed give the same numbers.

    Raises:
        UserError: if they are too few or too small.
    """
    if len(images) < FEWEST:
        raise UserError(f"{images.source} has {len(images)} images, too few for a calibration; give {FEWEST} or more.")
    _check_resolution(images.resolution)
    bands = measure_bands(images.pixels)
    ssim = _similarities(images, seed)
    return Calibration(
        images=images.facts,
        seed=seed,
        bands=bands,
        logsnr=LOGSNR.tolist(),
        ssim=ssim.mean(1).tolist(),
        ssim_deviation=ssim.std(1).tolist(),
    )


def _check_resolution(resolution: int) -> None:
    if resolution < SMALLEST:
        raise UserError(f"--resolution is {resolution}; SSIM needs {SMALLEST} pixels or more.")


def measure_bands(pixels: np.ndarray) -> list[Band]:
    """The bands of `(n, 3, R, R)` uint8 images.

    Raises:
        UserError: if a band has no power at all: images that are all alike, or enlarged without any detail.
    """
    side = pixels.shape[-1]
    chunks = [pixels[i : i + BATCH] for i in range(0, len(pixels), BATCH)]
    zero = torch.zeros((), dtype=torch.float64)
    mean = sum((_floats(chunk).double().sum(0) for chunk in chunks), zero) / len(pixels)
    power = torch.zeros(side, side, dtype=torch.float64)
    for chunk in chunks:
        power += torch.fft.fft2(_floats(chunk) - mean.float(), norm="ortho").abs().square().double().sum((0, 1))
    power /= len(pixels) * pixels.shape[1]
    cycles = (torch.fft.fftfreq(side) * side).abs().round()
    frequency = torch.maximum(cycles[:, None], cycles)
    bands = []
    for low, high in octaves(side):
        of_band = power[(frequency >= low) & (frequency <= high)].mean().item()
        if of_band < 1e-12:
            raise UserError(
                f"The images have no detail at {low} to {high} cycles an image; give varied images with detail."
            )
        bands.append(Band(low, high, 0.5 * math.log(of_band)))
    return bands


def _floats(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).float() / 127.5 - 1.0


def _similarities(images: ImageSet, seed: int) -> np.ndarray:
    """SSIM of each image with itself under noise, (levels, n)."""
    with needs_extra("eval"):
        from torchmetrics.functional.image import structural_similarity_index_measure as similarity
    generator = torch.Generator().manual_seed(seed)
    columns = []
    for first in range(0, len(images), BATCH):
        clean = _floats(images.pixels[first : first + BATCH])
        rows: list[Any] = []  # tensors: torchmetrics declares them, or pairs of them
        for logsnr in LOGSNR:
            noisy = clean + math.exp(-logsnr / 2) * torch.randn(clean.shape, generator=generator)
            rows.append(similarity(noisy, clean, data_range=IMAGE_RANGE, reduction="none"))
        columns.append(torch.stack(rows))
    return torch.cat(columns, 1).double().numpy()


def write_calibration(folder: Path, measured: Calibration, other: Calibration | None = None) -> None:
    """Write the numbers, the plot and the scheduler's config into `folder`; `other` is plotted beside."""
    folder.mkdir(parents=True, exist_ok=True)
    scheduler = AnimeNoiseScheduler(timestep_sampling="anime", anime_log_sigmas=measured.log_sigmas)
    scheduler.save_pretrained(folder / SCHEDULER)
    plot_calibration(folder / FIGURE, measured, other)
    record = asdict(measured) | {"anime_log_sigmas": measured.log_sigmas}
    record["beside"] = other and asdict(other)
    partial = folder / f".{RECORD}.partial"
    partial.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(partial, folder / RECORD)


def plot_calibration(path: Path, measured: Calibration, other: Calibration | None) -> None:
    """Left: what noise leaves of the images, by band and by SSIM. Right: the densities that schedules train."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    log_sigma = -np.array(measured.logsnr) / 2
    for index, band in enumerate(measured.bands):
        left_share = 1 - share_lost(log_sigma, np.array([band.log_sigma]))
        left.plot(measured.logsnr, left_share, color=f"C{index}", lw=1, label=band.name)
        if other and index < len(other.bands):
            beside = 1 - share_lost(log_sigma, np.array([other.bands[index].log_sigma]))
            left.plot(measured.logsnr, beside, color=f"C{index}", lw=1, ls=":")
    for data, style in ((measured, "-"), (other, ":")):
        if data:
            left.plot(data.logsnr, data.ssim, "k" + style, lw=2, label=f"SSIM, {Path(data.images['source']).name}")
    left.set(
        xlabel="log SNR",
        ylabel="share that remains visible",
        title=f"Structure that noise hides at {measured.images['resolution']} pixels",
    )
    left.legend(fontsize=7, frameon=False)
    tables: dict[str, dict[str, Any]] = {
        "linear table": {"beta_schedule": "linear", "prediction_type": "epsilon"},
        "cosine table": {},
        "log-normal (-0.8, 1.6)": {"timestep_sampling": "lognormal"},
        "anime (these octaves)": {"beta_schedule": "anime", "anime_log_sigmas": measured.log_sigmas},
    }
    for name, knobs in tables.items():
        scheduler = AnimeNoiseScheduler(**knobs)
        x = scheduler.logsnr(torch.arange(len(scheduler))).double().numpy()
        density = scheduler.timestep_density().numpy() / np.abs(np.gradient(x))
        right.plot(x, density, label=name, lw=2 if name.startswith("anime") else 1)
    slope = np.gradient(measured.ssim, measured.logsnr)
    right.plot(measured.logsnr, slope / np.trapezoid(slope, measured.logsnr), "k-", lw=1, label="slope of SSIM")
    right.set(xlabel="log SNR", ylabel="density", title="What schedules train", xlim=(-12, 12), ylim=(0, None))
    right.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)


def add_calibrate(command: argparse.ArgumentParser) -> None:
    """Add the flags of `anime-ddpm calibrate`."""
    set_help(command, "--dataset DATASET [flags]", EXAMPLE)
    command.add_argument("--dataset", required=True, help="data set on the Hub, or a local folder of images")
    command.add_argument("--dataset_config_name", help="configuration of the data set; needed only if it has several")
    command.add_argument("--image_column", help="column that holds the images (default: found by its type)")
    command.add_argument("--split", default="train", help="split to measure (default: train)")
    command.add_argument("--resolution", type=int, default=64, help="side of the images in pixels (default: 64)")
    command.add_argument("--num_images", type=int, default=1_000, help="images, chosen by a fixed seed (default: 1000)")
    command.add_argument("--compare", metavar="DATASET", help="other images to plot for comparison, such as photos")
    command.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    command.add_argument("--cache_dir", help="folder for decoded images (default: as in training)")
    command.add_argument(
        "--output_dir",
        type=Path,
        default=Path("calibration"),
        help="folder for the numbers, the plot and the scheduler (default: calibration)",
    )
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.num_images < FEWEST:
        raise UserError(f"--num_images is {arguments.num_images}; give {FEWEST} or more, better {ENOUGH:,}.")
    _check_resolution(arguments.resolution)
    if arguments.output_dir.exists() and not arguments.output_dir.is_dir():
        raise UserError(f"--output_dir {arguments.output_dir} is a file; choose another.")
    measured = _measure(arguments, arguments.dataset, arguments.dataset_config_name, arguments.image_column)
    other = _measure(arguments, arguments.compare) if arguments.compare else None
    write_calibration(arguments.output_dir, measured, other)
    print(f"Written to {arguments.output_dir}. To train with it, give --noise_calibration {arguments.output_dir}")


def _measure(
    arguments: argparse.Namespace, name: str, config_name: str | None = None, column: str | None = None
) -> Calibration:
    data = DataSet(name, config_name, column, arguments.cache_dir)
    if arguments.split not in data.splits:
        raise UserError(f"--split {arguments.split} is not one of {', '.join(data.splits)} of {name}.")
    images = data.open(arguments.split, arguments.resolution, show_progress=True).take(arguments.num_images)
    measured = calibrate(images, arguments.seed)
    print(f"{len(images):,} images of {name} ({arguments.split}) at {arguments.resolution} pixels:")
    for band in measured.bands:
        print(f"  noise is as strong as {band.name} at log σ = {band.log_sigma:.2f}")
    print(f"  SSIM is a half at log σ = {np.interp(0.5, measured.ssim, measured.logsnr) / -2:.2f}")
    if len(images) < ENOUGH:
        print(f"  These are few images: {ENOUGH:,} or more give reliable numbers.")
    return measured
