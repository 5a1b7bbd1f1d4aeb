"""The content of a metrics.json, of one judge or several."""

import pytest

from pipeline_anime_ddpm.evaluation.metrics.judges import cautions, copy_check, judges, other_metrics


@pytest.fixture
def record():
    return {
        "judged": {"n": 2000},
        "real": {"n": 1500, "is_held_out": True},
        "extractor": {"name": "inception"},
        "metrics": {"fid": {"value": 1.0}, "precision": {"value": 0.5}, "lpips_nearest": {"value": 0.2}},
        "floor": {"metrics": {"fid": {"value": 0.5}}},
        "other_judges": [{"extractor": {"name": "tiny"}, "metrics": {"kid": {"value": 2.0}}}],
    }


def test_first_judge_has_the_records_own_results(record):
    first, second = judges(record)
    assert first.is_fid and set(first.metrics) == {"fid", "precision"} and first.floor["fid"]["value"] == 0.5
    assert (second.name, second.is_fid, second.floor) == ("tiny", False, {})
    assert set(other_metrics(record)) == {"lpips_nearest"}


def test_record_without_features_has_no_judge(record):
    assert judges({"metrics": {"lpips_nearest": {}}}) == []
    del record["extractor"]
    assert judges(record)[0].name == ""


def test_few_images_and_training_images_are_cautioned_of(record):
    assert cautions(record) == []
    record["judged"]["n"], record["real"]["is_held_out"] = 499, False
    few, trained = cautions(record)
    assert "499 generated and 1,500 real images are too few" in few and "a training split" in trained


def test_copies_are_told_by_the_best_feature(record):
    assert copy_check(record) == {"value": 0.2}
    record["metrics"]["copies"] = {"value": 0.1}
    assert copy_check(record) == {"value": 0.1}
