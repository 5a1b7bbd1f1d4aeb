"""A finished run, an evaluation of it, and a Hub that this process itself talks to."""

import json
import shutil

import huggingface_hub.constants as hub_constants
import numpy as np
import pytest
from hub_server import TOKEN, HubServer
from PIL import Image
from recipe_runs import flags
from recipe_runs import run as train

from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.cli import main
from pipeline_anime_ddpm.evaluation.metrics.digests import state_digest
from pipeline_anime_ddpm.publishing import hub as hub_module


@pytest.fixture(scope="module")
def trained(work):
    """The output folder of a run of 20 steps."""
    train(*flags(work, work / "trained", max_train_steps=20, num_epochs=4, save_images_epochs=2))
    return work / "trained"


@pytest.fixture
def finished(trained, tmp_path):
    """A copy of it, to be spoilt."""
    return shutil.copytree(trained, tmp_path / "runs" / "finished")


@pytest.fixture
def evaluated(finished):
    """A folder as `anime-ddpm evaluate` leaves it for that pipeline, with round numbers."""
    folder = finished.parent / "evaluation"
    folder.mkdir()
    write_evaluation(folder, finished)
    return folder


@pytest.fixture
def evaluation_of():
    """The function below, for tests of other folders."""
    return write_evaluation


def write_evaluation(folder, model, **changed):
    weights = state_digest(AnimeDDPMPipeline.from_pretrained(model).unet.state_dict())
    metric = {"n": 2000, "real_n": 1500}
    record = {
        "judged": {"source": str(model), "n": 2000, "resolution": 16},
        "drawn": {"weights": weights, "sampler": {"class": "AnimeNoiseScheduler", "solver": "ddim"}}
        | {"num_inference_steps": 7, "seed": 3, "batch_size": 8},
        "real": {"source": str(folder / "secret place" / "faces"), "split": "validation", "n": 1500, "resolution": 16},
        "extractor": {"name": "tiny-vit", "weights": "1", "settings": "2", "resize": "to 28x28"},
        "metrics": {
            "fid": {"name": "FD-tiny-vit", "value": 12.5, **metric},
            "kid": {"name": "KID-tiny-vit", "value": 0.75, "std": 0.125, "subset_size": 1000, "subsets": 10, **metric},
            "lpips_nearest": {
                "name": "ST-LPIPS to the nearest training image", "value": 0.2, "n": 2000, "threshold": 0.0625,
                "training": {"source": "/home/somebody/faces"}, "memorised": 26, "memorised_share": 0.013,
                "suspicious": False, "held_out": {"memorised_share": 0.011},
            },
        },
        "floor": {
            "of": {"source": "/home/somebody/faces", "split": "train", "n": 1500},
            "metrics": {"fid": {"name": "FD-tiny-vit", "value": 6.25, "n": 1500}},
        },
        "date": "2026-01-02",
        "device": "2 CPU cores",
    } | changed  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(record))
    Image.fromarray(np.full((32, 32, 3), 77, np.uint8)).save(folder / "grid.png")


@pytest.fixture
def near_hub(monkeypatch, tmp_path):
    """A `HubServer` that this very process uses: no waiting between tries, a cache and a login of its own."""
    with HubServer() as server:
        monkeypatch.setattr(hub_constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(hub_module, "WAIT", 0.0)
        yield server


@pytest.fixture
def publish(capsys):
    """Run `anime-ddpm publish` here: what it printed; what it refused is in `SystemExit`'s place as text."""

    def call(*arguments):
        capsys.readouterr()
        try:
            main(["publish", *map(str, arguments)])
        except SystemExit as ended:
            assert ended.code == 2
            return capsys.readouterr().err
        return capsys.readouterr().out

    return call
