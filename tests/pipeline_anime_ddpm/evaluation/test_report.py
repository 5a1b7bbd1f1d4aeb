"""Files and lines of an evaluation."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline_anime_ddpm.evaluation.metrics.memorisation import Nearest
from pipeline_anime_ddpm.evaluation.report import environment, line, summary, write_grid, write_metrics, write_sheet


def test_summary_has_each_judge_beside_its_floor_and_copies():
    record = {
        "judged": {"n": 2000, "source": "model"},
        "real": {"n": 1500, "source": "faces", "split": "test"},
        "extractor": {"name": "tiny"},
        "metrics": {
            "fid": {"name": "FD", "value": 12.5},
            "copies": {
                "name": "nearest", "value": 0.25, "n": 2000, "threshold": 0.0625, "memorised": 26,
                "memorised_share": 0.013, "suspicious": True, "held_out": {"what": "held-out", "memorised_share": 0.01},
            },
        },
        "floor": {"metrics": {"fid": {"value": 6.25}}},
    }  # fmt: skip
    first, metric, nearest, copies = summary(record).splitlines()
    assert first == "2,000 images of model against 1,500 of faces (test):"
    assert metric == "  FD: 12.5   [floor 6.25]" and nearest.startswith("  nearest: 0.25")
    assert "26 of 2,000 images are nearer than 0.0625" in copies
    assert copies.endswith("(1.3%; of held-out, 1.0%): SUSPICIOUS")
    assert summary(record | {"judged": {"n": 10, "source": "model"}}).splitlines()[-1].startswith("  Caution: 10 gen")


def test_deviation_stands_behind_the_value():
    metric = {"name": "KID", "value": 0.75, "std": 0.125, "subsets": 10, "subset_size": 12}
    assert line(metric) == "KID: 0.75 ± 0.12 (10 subsets of 12)"


def test_record_is_json_that_people_can_read(tmp_path):
    path = write_metrics(tmp_path, {"source": "青髪", "n": 1})
    assert json.loads(path.read_text()) == {"source": "青髪", "n": 1} and "青髪" in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_environment_names_versions_and_hardware():
    found = environment(torch.device("cpu"))
    assert torch.__version__.startswith(found["versions"]["torch"]) and found["device"].endswith("CPU cores")


def test_grid_begins_with_the_first_image(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (70, 3, 16, 16), dtype=np.uint8)
    grid = np.asarray(Image.open(write_grid(tmp_path, images)).convert("RGB"))
    assert np.array_equal(grid[:16, :16], images[0].transpose(1, 2, 0))


@pytest.mark.parametrize("mirrored", [False, True])
def test_sheet_puts_the_closest_images_beside_their_training_images(tmp_path, mirrored):
    images, others = (np.random.default_rng(n).integers(0, 256, (3, 3, 64, 64), dtype=np.uint8) for n in (0, 1))
    distances = np.array([[0.5], [0.1], [0.3]])
    nearest = Nearest(distances, np.array([[0], [2], [1]]), np.full((3, 1), mirrored))
    sheet = np.asarray(Image.open(write_sheet(tmp_path, images, others, nearest, "LPIPS")))
    first = sheet[20:84]  # the top row, of image 1, which is the closest
    assert np.array_equal(first[:, 6:70], images[1].transpose(1, 2, 0))
    expected = others[2][..., ::-1] if mirrored else others[2]
    assert np.array_equal(first[:, 82:146], expected.transpose(1, 2, 0))
