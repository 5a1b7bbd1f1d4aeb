"""Fixtures of this folder."""

import pickle

import pytest
from security_parts import ROOT, Trap

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.evaluation.drawing import load_pipeline
from pipeline_anime_ddpm.publishing.bundle import load_source
from pipeline_anime_ddpm.runs.ema_command import load_run
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.training.models import build_model


@pytest.fixture
def trap(tmp_path):
    """Code that must not run; the test fails if it did."""
    trap = Trap(tmp_path / "sprung")
    with pytest.raises(FileExistsError):  # the trap works
        pickle.loads(pickle.dumps(Trap(tmp_path)))
    yield trap
    assert not trap.path.exists(), "foreign code was run"


@pytest.fixture
def model(tmp_path, tiny_unet):
    """The folder of a small pipeline, to be spoilt."""
    AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(num_train_timesteps=20)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def every_loader(model, monkeypatch):
    """What `train`, `plan`, `evaluate`, `publish`, `ema` and the demo load a model with, which must all refuse it."""
    monkeypatch.syspath_prepend(str(ROOT))
    from pipeline_anime_ddpm.demo import model as demo_model

    name = str(model)
    loaders = {
        "train": lambda: build_model(TrainingConfig(pretrained_model_name_or_path=name)),
        "evaluate": lambda: load_pipeline(name),
        "publish": lambda: load_source(model),
        "ema": lambda: load_run(model),
        "demo": lambda: demo_model.load_pipeline(name),
    }

    def refuse(says=""):
        for loader, load in loaders.items():
            with pytest.raises((UserError, SystemExit), match=says or None) as raised:
                load()
            assert "\n" not in str(raised.value) and str(raised.value).endswith("."), loader

    return refuse
