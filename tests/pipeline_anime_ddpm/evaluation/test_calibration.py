"""Where a data set loses its structure to noise, and the schedule that follows."""

import json
import math

import numpy as np
import pytest
from evaluation_data import pictures, save

from pipeline_anime_ddpm.cli import main
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.evaluation.calibration import calibrate, measure_bands
from pipeline_anime_ddpm.evaluation.image_sets import DataSet, ImageSet
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.schedulers.scheduling_anime_noise import ANIME_LOG_SIGMAS
from pipeline_anime_ddpm.training.noise_levels import log_sigmas_at, read_log_sigmas


def as_pixels(values):
    """uint8 of `(n, 3, R, R)` in [-1, 1]."""
    return ((values + 1) * 127.5).round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("side", [16, 32])
def test_white_noise_is_as_strong_as_itself_in_every_octave(side):
    noise = np.random.default_rng(0).normal(0, 0.2, (400, 3, side, side))
    for band in measure_bands(as_pixels(noise)):
        # of an octave of m modes the power is known to sqrt(2 / (n m)); the mean colour has one
        assert band.log_sigma == pytest.approx(math.log(0.2), abs=0.1 if band.highest == 0 else 0.03)


def test_wave_is_found_in_its_octave_with_its_power():
    """By Parseval the modes of a wave of amplitude a have R² a² / 2 together."""
    random, side = np.random.default_rng(0), 32
    x = np.arange(side) / side
    phase = random.uniform(0, 2 * np.pi, (300, 3, 1, 1))
    waves = 0.5 * np.cos(2 * np.pi * 5 * x + phase) * np.ones((1, 1, side, 1))
    bands = measure_bands(as_pixels(waves + random.normal(0, 0.01, waves.shape)))
    modes = 15**2 - 7**2  # of 4 to 7 cycles, both signs
    assert bands[3].log_sigma == pytest.approx(0.5 * math.log(side**2 * 0.5**2 / 2 / modes), abs=0.02)
    assert all(band.log_sigma < -4 for band in (*bands[:3], bands[4]))


def test_calibration_subtracts_the_mean_image():
    noise = np.random.default_rng(0).normal(0, 0.1, (200, 3, 16, 16))
    shared = 0.5 * np.sin(np.arange(16) / 3)
    alone, together = (measure_bands(as_pixels(images)) for images in (noise, noise + shared))
    for before, after in zip(alone, together, strict=True):
        assert after.log_sigma == pytest.approx(before.log_sigma, abs=0.02)


def test_similarity_falls_with_noise_and_follows_the_seed():
    images = ImageSet(pictures(80, 0), "pictures")
    measured = calibrate(images, seed=3)
    assert np.all(np.diff(measured.ssim) > -0.01) and measured.ssim[0] < 0.02 and measured.ssim[-1] > 0.99
    assert calibrate(images, seed=3) == measured
    other = calibrate(images, seed=4)
    assert other.ssim != measured.ssim and other.bands == measured.bands
    assert measured.images["n"] == 80 and len(measured.images["fingerprint"]) > 8


@pytest.mark.parametrize(
    "pixels, says",
    [
        (pictures(20, 0), "20 images, too few"),
        (pictures(64, 0, side=8), "SSIM needs 16 pixels"),
        (np.full((64, 3, 16, 16), 100, np.uint8), "have no detail at 0 to 0"),
    ],
)
def test_images_that_tell_nothing_are_refused(pixels, says):
    with pytest.raises(UserError, match=says):
        calibrate(ImageSet(pixels, "pictures"))


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration")
    save(folder / "faces" / "train", pictures(70, 0))
    save(folder / "others" / "train", pictures(70, 1))
    flags = ["--resolution", "16", "--output_dir", str(folder / "out"), "--cache_dir", str(folder / "cache")]
    main(["calibrate", "--dataset", str(folder / "faces"), "--compare", str(folder / "others"), *flags])
    return folder


def test_command_leaves_numbers_a_plot_and_a_scheduler(calibrated):
    out = calibrated / "out"
    record = json.loads((out / "calibration.json").read_text())
    direct = calibrate(DataSet(str(calibrated / "faces"), cache_dir=str(calibrated / "cache")).open("train", 16))
    assert record["bands"] == [vars(band) for band in direct.bands] and record["ssim"] == direct.ssim
    assert record["beside"]["images"]["source"].endswith("others") and record["beside"]["ssim"] != record["ssim"]
    assert (out / "calibration.png").stat().st_size > 10_000
    scheduler = AnimeNoiseScheduler.from_pretrained(out / "scheduler")
    assert scheduler.config.timestep_sampling == "anime" and scheduler.spaces_by_octaves
    assert scheduler.config.anime_log_sigmas == pytest.approx([band.log_sigma for band in direct.bands], abs=1e-4)
    assert read_log_sigmas(str(out), 16) == scheduler.config.anime_log_sigmas


def test_calibration_that_is_invalid_is_refused(calibrated, tmp_path):
    with pytest.raises(UserError, match="measured at 16 pixels but the training is at 32"):
        read_log_sigmas(str(calibrated / "out"), 32)
    for content in ("", "[]", "{}", '{"anime_log_sigmas": ["a"], "images": {"resolution": 16}}'):
        (tmp_path / "calibration.json").write_text(content)
        with pytest.raises(UserError, match="is not a calibration"):
            read_log_sigmas(str(tmp_path), 16)
    with pytest.raises(UserError, match="is not a calibration"):
        read_log_sigmas(str(tmp_path / "nothing"), 16)


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--num_images", "3"], "--num_images is 3; give 64 or more"),
        (["--split", "validation"], "--split validation is not one of train"),
        (["--output_dir", __file__], "is a file"),
        (["--resolution", "8"], "SSIM needs 16"),
    ],
)
def test_wrong_flags_are_refused(calibrated, flags, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["calibrate", "--dataset", str(calibrated / "faces"), "--cache_dir", str(calibrated / "cache"), *flags])
    assert stopped.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.realdata
def test_shipped_octaves_are_those_of_real_faces(realdata, tmp_path):
    data = DataSet(str(realdata), cache_dir=str(tmp_path))
    measured = [band.log_sigma for band in measure_bands(data.open("train", 64).take(1000).pixels)]
    assert measured == pytest.approx(ANIME_LOG_SIGMAS, abs=0.01)
    smaller = [band.log_sigma for band in measure_bands(data.open("train", 32).take(1000).pixels)]
    assert smaller[:-1] == pytest.approx(log_sigmas_at(32)[:-1], abs=0.12)
    assert smaller[-1] == pytest.approx(log_sigmas_at(32)[-1], abs=0.5)  # where resizing takes the finest detail away
