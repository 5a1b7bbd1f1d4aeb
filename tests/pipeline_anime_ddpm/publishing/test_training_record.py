"""The record of a training tells nothing of its maker's machine."""

import json

import pytest

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.publishing.training_record import read_training


@pytest.fixture
def run(tmp_path):
    (tmp_path / "training_config.yaml").write_text(
        "train_data_dir: /home/me/faces\nresolution: 64\noutput_dir: /home/me/run\nhub_model_id: me/faces\n"
    )
    return tmp_path


def test_places_and_accounts_are_left_out(run):
    record = read_training(run)
    assert record.config["train_data_dir"] == "faces" and record.config["resolution"] == 64
    assert not {"output_dir", "hub_model_id"} & record.config.keys() and "/home" not in str(record.config)
    assert (record.images, record.hours, record.has_curve) == (None, None, False)
    assert record.provenance == {"data": None, "machines": []}


def test_hours_are_those_of_whole_rows(run):
    rows = "images,images_per_second\n7200,2\n14400,1\n20000,"
    (run / "metrics.csv").write_text(rows)  # a kill has cut the last row off
    (run / "loss.png").write_bytes(b"")
    record = read_training(run)
    assert (record.images, record.hours, record.has_curve) == (14400, 3.0, True)


def test_names_are_those_of_when_the_run_began(run):
    (run / "training_config.yaml").write_text("dataset_name: /gone/faces\n")
    (run / "provenance.json").write_text(json.dumps({"data": {"name": "faces", "local": True, "num_images": 3}}))
    assert read_training(run).config["dataset_name"] == "faces"


@pytest.mark.parametrize("text", [None, "- 1\n", "a: ["])
def test_damaged_settings_are_refused(run, text):
    if text is None:
        (run / "training_config.yaml").unlink()
    else:
        (run / "training_config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"training_config\.yaml is damaged; restore the file"):
        read_training(run)
