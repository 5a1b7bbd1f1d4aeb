"""Statistics are computed once, and again when anything that decides them changes."""

import json

import numpy as np
import pytest
from evaluation_data import pictures

from pipeline_anime_ddpm.evaluation.image_sets import ImageSet
from pipeline_anime_ddpm.evaluation.metrics.statistics import (
    ARRAYS,
    FACTS,
    kept,
    list_statistics,
    real_features,
)
from pipeline_anime_ddpm.evaluation.networks.extractors import load_extractor


@pytest.fixture
def extractor(tiny_vit):
    return load_extractor(str(tiny_vit))


@pytest.fixture
def counted(extractor, monkeypatch):
    """How often features were really computed."""
    calls, extract = [], extractor.extract
    monkeypatch.setattr(extractor, "extract", lambda *args: calls.append(1) or extract(*args))
    return calls


def test_second_run_finds_what_the_first_has_computed(extractor, counted, tmp_path):
    images = ImageSet(pictures(10, seed=0), "blobs", "validation")
    first, second = (real_features(images, extractor, tmp_path, 4) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(counted) == 1
    (entry,) = list_statistics(tmp_path)
    assert entry.facts["n"] == 10
    assert entry.facts["split"] == "validation"
    assert entry.facts["weights"] == extractor.digest
    assert entry.facts["resize"] == extractor.resize
    assert entry.facts["fingerprint"] == images.fingerprint


def test_other_pixels_split_number_weights_or_resize_are_recomputed(extractor, counted, tmp_path, monkeypatch):
    images = ImageSet(pictures(10, seed=0), "blobs", "validation")
    real_features(images, extractor, tmp_path, 4)
    real_features(ImageSet(pictures(10, seed=1), "blobs", "validation"), extractor, tmp_path, 4)
    real_features(ImageSet(images.pixels, "blobs", "train"), extractor, tmp_path, 4)
    real_features(images.take(9), extractor, tmp_path, 4)
    monkeypatch.setattr(extractor, "digest", "other weights")
    real_features(images, extractor, tmp_path, 4)
    monkeypatch.setattr(extractor, "resize", "another way")
    real_features(images, extractor, tmp_path, 4)
    monkeypatch.setattr(extractor, "settings", "another normalisation")
    real_features(images, extractor, tmp_path, 4)
    assert len(counted) == 7


@pytest.mark.parametrize("damage", ["cut", "gone", "no facts"])
def test_damaged_result_is_recomputed(tmp_path, damage):
    values = iter([np.arange(3), np.arange(4)])

    def compute():
        return {"x": next(values)}

    kept(tmp_path, "something", {"a": 1}, compute)
    (folder,) = tmp_path.glob("something-*")
    if damage == "cut":
        (folder / ARRAYS).write_bytes((folder / ARRAYS).read_bytes()[:50])
    else:
        (folder / (ARRAYS if damage == "gone" else FACTS)).unlink()
    assert len(kept(tmp_path, "something", {"a": 1}, compute)["x"]) == 4
    assert len(kept(tmp_path, "something", {"a": 1}, compute)["x"]) == 4


def test_facts_are_json_that_people_can_read(extractor, tmp_path):
    real_features(ImageSet(pictures(4, seed=0), "some/blobs", "train"), extractor, tmp_path, 4)
    (path,) = tmp_path.glob(f"blobs-train-4-tiny-vit-*/{FACTS}")
    assert json.loads(path.read_text())["kind"] == "features"
