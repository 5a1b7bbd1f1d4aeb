"""The noise that is called `anime`: what a calibration has measured, or what the scheduler ships, at a resolution."""

from __future__ import annotations

import math
import os
from pathlib import Path

from ..common.errors import UserError
from ..common.parsing import parse_json
from ..schedulers.scheduling_anime_noise import ANIME_LOG_SIGMAS

RECORD = "calibration.json"  # in the folder that `anime-ddpm calibrate` leaves
SHIPPED_RESOLUTION = 64  # of the images that ANIME_LOG_SIGMAS was measured on


def octaves(resolution: int) -> list[tuple[int, int]]:
    """Lowest and highest frequency of each band: 0, 1, 2-3, 4-7, …; the last ends at the highest, R/2."""
    lows = [2**k for k in range((resolution // 2).bit_length()) if 2**k < resolution // 2]
    return [(0, 0), *zip(lows, [*(low - 1 for low in lows[1:]), resolution // 2], strict=True)]


def log_sigmas_at(resolution: int) -> list[float]:
    """`ANIME_LOG_SIGMAS` for the same drawings at another resolution.

    An octave keeps its cycles an image, and its power per mode grows with the number of pixels: log σ grows with the
    logarithm of the side. Octaves that the resolution cannot hold are left out; finer ones than were measured go on
    evenly.
    """
    bands = list(ANIME_LOG_SIGMAS)
    while len(bands) < len(octaves(resolution)):
        bands.append(2 * bands[-1] - bands[-2])
    return [band + math.log(resolution / SHIPPED_RESOLUTION) for band in bands[: len(octaves(resolution))]]


def read_log_sigmas(path: str, resolution: int) -> list[float]:
    """The `anime_log_sigmas` of a calibration's folder, for training at `resolution`.

    Raises:
        UserError: if there is none, it is damaged, or it was made at another resolution.
    """
    file = Path(path) / RECORD if os.path.isdir(path) else Path(path)
    try:
        record = parse_json(file.read_text())
        values, side = [float(value) for value in record["anime_log_sigmas"]], int(record["images"]["resolution"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--noise_calibration {path} is not a calibration; give the --output_dir of `anime-ddpm calibrate`."
        ) from error
    if side != resolution:
        raise UserError(
            f"--noise_calibration {path} was measured at {side} pixels but the training is at {resolution}; run "
            f"`anime-ddpm calibrate --resolution {resolution}`."
        )
    return values
