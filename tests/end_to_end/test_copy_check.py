"""The benchmark of the copy check, on small pictures and without downloads."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from evaluation_data import colour_extractor, pictures, save

from pipeline_anime_ddpm.evaluation.networks import extractors

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SIDE = 32


@pytest.fixture
def copy_check(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import copy_check

    return copy_check


def test_each_alteration_changes_a_picture_as_it_says(copy_check):
    images = pictures(8, seed=0, side=SIDE)
    changed = {name: copy_check.on_pictures(change)(images) for name, change in copy_check.ALTERATIONS.items()}
    for name, copies in changed.items():
        assert copies.shape == images.shape and copies.dtype == np.uint8, name
        assert (copies != images).any(axis=(1, 2, 3)).all(), name
    assert (changed["mirrored"] == images[..., ::-1]).all()
    inner = (slice(None), slice(2, -2), slice(2, -2))
    for image, copy in zip(images, changed["shifted by 1 or 2 px"], strict=True):
        moved = [(d, r) for d in (-2, -1, 1, 2) for r in (-2, -1, 1, 2)
                 if (np.roll(image, (d, r), (1, 2))[inner] == copy[inner]).all()]  # fmt: skip
        assert len(moved) == 1
    grey = np.ptp(changed["recoloured"].astype(int), axis=1).mean(axis=(1, 2))
    assert (grey < 0.7 * np.ptp(images.astype(int), axis=1).mean(axis=(1, 2))).any()  # half of the saturation
    edges = [np.abs(np.diff(part.astype(int), axis=-1)).mean() for part in (images, changed["blurred by 1 px"])]
    assert edges[1] < 0.7 * edges[0]


def test_it_measures_each_feature_from_end_to_end(copy_check, monkeypatch, tmp_path):
    save(tmp_path / "faces" / "train", pictures(40, seed=0, side=SIDE))
    save(tmp_path / "faces" / "validation", pictures(30, seed=1, side=SIDE))
    monkeypatch.setattr(extractors, "EfficientNetExtractor", colour_extractor())
    flags = {"dataset": tmp_path / "faces", "resolution": SIDE, "training": 20, "copies": 6, "held_out": 30,
             "cache_dir": tmp_path / "cache", "output": tmp_path / "results.json"}  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["copy_check.py", *(f"--{name}={value}" for name, value in flags.items())])
    copy_check.main()
    result = json.loads((tmp_path / "results.json").read_text())
    assert {"what", "command", "date", "machine", "versions", "rows", "summary"} <= result.keys()
    assert len(result["rows"]) == 2 * len(copy_check.ALTERATIONS)
    for row in result["rows"]:
        assert row["n"] == 6 and row["false_alarms"] <= 0.04
        if row["alteration"] == "mirrored":
            assert row["top1"] == row["flagged"] == 1
    features = {row["feature"] for row in result["rows"]}
    assert result["summary"]["best"] in features
    assert "1%" in result["what"]
