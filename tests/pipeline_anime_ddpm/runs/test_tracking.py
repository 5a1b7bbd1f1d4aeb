"""Metrics are means over what was seen, tables survive a kill, and W&B never asks."""

import csv
import math
import subprocess
import sys
import time

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.runs.tracking import LossMeter, RunLog, check_trackers, make_grid, smooth


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def test_meter_gives_means_by_quarter_of_the_table(accelerator):
    meter = LossMeter(1000, "cpu")
    meter.add(torch.tensor(2.0), torch.tensor([1.0, 3.0]), torch.tensor([0, 249]))
    meter.add(torch.tensor(5.0), torch.tensor([7.0]), torch.tensor([999]))
    values = meter.read(accelerator)
    assert values["loss"] == pytest.approx((2 * 2 + 5) / 3)
    assert values["mse_noise_q1"] == 2.0
    assert values["mse_noise_q4"] == 7.0
    assert math.isnan(values["mse_noise_q2"])
    meter.add(torch.tensor(1.0), torch.tensor([1.0]), torch.tensor([250]))
    assert meter.read(accelerator)["loss"] == 1.0, "reading starts anew"


def row(log, images):
    values = {"loss": 1.0} | {f"mse_noise_q{i}": 1.0 for i in range(1, 5)}
    log.metrics(values, step=images // 10, images=images)


def test_resumed_run_drops_the_rows_it_will_write_again(accelerator, tmp_path):
    log = RunLog(tmp_path, accelerator, 0)
    for images in (10, 20, 30):
        row(log, images)
    resumed = RunLog(tmp_path, accelerator, 20)
    row(resumed, 30)
    with open(tmp_path / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [r["images"] for r in rows] == ["10", "20", "30"]
    assert {"images_per_second", "peak_memory_mb", "step"} <= rows[0].keys()


@pytest.mark.parametrize(
    "rest",
    [b"20,2,1.0", b"20,2,1,1,1,1,1,1,", b"2", b"20,2" + 7 * b",\xff", b"x,2" + 7 * b",1", b"20,2" + 99 * b",1"],
)
def test_row_cut_off_by_a_kill_or_spoilt_by_a_disk_is_dropped(accelerator, tmp_path, rest):
    row(RunLog(tmp_path, accelerator, 0), 10)
    with open(tmp_path / "metrics.csv", "ab") as file:
        file.write(rest)
    assert [r["images"] for r in RunLog(tmp_path, accelerator, 100).rows] == [10]


def test_model_that_repeats_its_images_is_never_the_best(tmp_path):
    log = RunLog(tmp_path, Accelerator(cpu=True), 0)
    values = [(0.5, 0), (0.1, 1), (0.3, 0), (0.4, 0)]
    best = [
        log.evaluation({"kid": kid, "copies_stand_out": float(copies)}, "c", step=step, images=step)
        for step, (kid, copies) in enumerate(values, 1)
    ]
    assert best == [True, False, True, False]


def test_pictures_leave_a_grid_and_a_curve(accelerator, tmp_path):
    log = RunLog(tmp_path, accelerator, 0)
    for images in (10, 20):
        row(log, images)
    path = log.pictures([Image.new("RGB", (4, 4), "red")] * 3, images=20)
    assert Image.open(path).size == (8, 8)
    assert Image.open(tmp_path / "loss.png").width > 500


def test_drawing_and_saving_do_not_count_as_training(accelerator, tmp_path):
    log = RunLog(tmp_path, accelerator, 0)
    with log.pause():
        time.sleep(0.5)
    row(log, 10)
    assert log.rows[0]["images_per_second"] > 10 / 0.5


def test_grid_keeps_the_order_row_by_row():
    colours = [(10 * i, 0, 0) for i in range(5)]
    grid = make_grid([Image.new("RGB", (2, 2), c) for c in colours])
    assert grid.size == (6, 4)
    assert [grid.getpixel((x, y)) for y in (0, 2) for x in (0, 2, 4)][:5] == colours


def test_smoothing_is_unbiased_and_passes_over_nan():
    assert smooth([3.0, math.nan, 3.0]) == pytest.approx([3.0, 3.0, 3.0])


def test_tracker_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        check_trackers(["wandb"])


def test_wandb_without_a_login_stays_offline_and_never_asks(tmp_path):
    code = (
        "from pathlib import Path; from accelerate import Accelerator\n"
        "from pipeline_anime_ddpm.runs.tracking import start_trackers\n"
        "accelerator = Accelerator(cpu=True, log_with='wandb')\n"
        "start_trackers(accelerator, ['wandb'], {'seed': 1, 'cache_dir': None}, Path('.'))\n"
        "accelerator.log({'loss': 1.0}, step=1); accelerator.end_training()\n"
    )
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "WANDB_SILENT": "true"}
    python = [sys.executable, "-c", code]
    done = subprocess.run(python, cwd=tmp_path, env=environment, input="", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("logged offline") == 1
    assert list((tmp_path / "wandb").glob("offline-run-*"))
