"""Provenance of a run, without local paths."""

import json

import pytest
from accelerate import Accelerator

from pipeline_anime_ddpm.runs import provenance
from pipeline_anime_ddpm.runs.provenance import read_provenance, write_provenance
from pipeline_anime_ddpm.training.config import TrainingConfig


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def test_names_are_kept_and_places_are_not(tmp_path, accelerator):
    (tmp_path / "secret" / "faces").mkdir(parents=True)
    config = TrainingConfig(
        dataset_name=str(tmp_path / "secret" / "faces"), pretrained_model_name_or_path="google/ddpm-cat-256"
    )
    write_provenance(tmp_path, config, 123, accelerator, 0)
    record = read_provenance(tmp_path)
    assert record["data"] == {"name": "faces", "local": True, "num_images": 123}
    assert record["went_on_from"] == {"name": "google/ddpm-cat-256", "local": False}
    assert "secret" not in json.dumps(record)


def test_data_set_of_the_hub_and_drawn_faces(tmp_path, accelerator):
    write_provenance(tmp_path, TrainingConfig(dataset_name="me/faces"), None, accelerator, 0)
    assert read_provenance(tmp_path)["data"] == {"name": "me/faces", "local": False, "num_images": None}
    write_provenance(tmp_path, TrainingConfig(), 10, accelerator, 0)
    assert read_provenance(tmp_path)["data"]["name"] == "synthetic faces"


def test_run_that_goes_on_elsewhere_has_two_machines_and_on_the_same_one(tmp_path, accelerator, monkeypatch):
    config = TrainingConfig()
    for images in (0, 500):
        write_provenance(tmp_path, config, 10, accelerator, images)
    assert [machine["from_images"] for machine in read_provenance(tmp_path)["machines"]] == [0]
    monkeypatch.setattr(provenance, "device_name", lambda device: "a GPU")
    write_provenance(tmp_path, config, 10, accelerator, 800)
    machines = read_provenance(tmp_path)["machines"]
    assert [(machine["from_images"], machine["device"] == "a GPU") for machine in machines] == [(0, False), (800, True)]
    assert machines[0]["versions"]["torch"] and machines[0]["processes"] == 1


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_damaged_record_counts_for_none(tmp_path, content):
    (tmp_path / "provenance.json").write_text(content)
    assert read_provenance(tmp_path) == {}
