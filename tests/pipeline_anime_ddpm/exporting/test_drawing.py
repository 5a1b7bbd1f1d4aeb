"""`AnimeONNX` draws without torch, by labels, and says what it cannot read."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from export_parts import LABELS

from pipeline_anime_ddpm import AnimeONNX
from pipeline_anime_ddpm.exporting.drawing import joint_class
from pipeline_anime_ddpm.pipeline_anime_ddpm import joint_class as joint_class_of_pipeline

DRAW = """
import sys
sys.modules["torch"] = sys.modules["diffusers"] = None
from pipeline_anime_ddpm import AnimeONNX
model = AnimeONNX(sys.argv[1])
model.face("Ada", {"hair": "blue"}).save(sys.argv[2])
"""


def test_classes_are_those_of_the_pipeline():
    choices = [[None, *names] for names in LABELS.values()]
    for number, values in enumerate(itertools.product(*choices)):
        places = [options.index(value) for options, value in zip(choices, values, strict=True)]
        expected = joint_class_of_pipeline(torch.tensor([places]), [len(names) for names in LABELS.values()])
        assert joint_class(dict(zip(LABELS, values, strict=True)), LABELS) == int(expected) == number
    assert joint_class({"Hair ": " BLUE"}, LABELS) == 2 and joint_class({"eyes": "any"}, LABELS) == 0
    with pytest.raises(ValueError, match="There is no hair 'red'; choose one of blonde, blue, mint, or any"):
        joint_class({"hair": "red"}, LABELS)
    with pytest.raises(ValueError, match="no label 'hat'; it has eyes, hair"):
        joint_class({"hat": "red"}, LABELS)


def test_folders_that_are_no_export_are_refused(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    with pytest.raises(ValueError, match=r"holds no recipe\.json; make it with `anime-ddpm export"):
        AnimeONNX(tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(ValueError, match="has format 2, not 1; export the model again"):
        AnimeONNX(tmp_path)


@pytest.mark.slow
def test_it_draws_without_torch(exported, run_python, tmp_path):
    from PIL import Image

    run_python(DRAW, exported, tmp_path / "face.png")
    face = AnimeONNX(exported).face("Ada", {"hair": "blue"})
    assert np.array_equal(np.asarray(Image.open(tmp_path / "face.png")), np.asarray(face))
    other = AnimeONNX(exported).face("Ada", {"hair": "mint"})
    assert np.abs(np.asarray(face, int) - np.asarray(other, int)).max() > 2
    with pytest.raises(ValueError, match="no upscaler: omit `upscale`, or export the model with --upscaler"):
        AnimeONNX(exported).face("Ada", upscale=True)


@pytest.mark.slow
def test_labels_of_a_model_without_are_refused(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "model")
    recipe = json.loads((exported / "recipe.json").read_text()) | {"labels": {}}
    (tmp_path / "model" / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match="This model has no labels, so hair cannot be chosen"):
        AnimeONNX(tmp_path / "model").face("Ada", {"hair": "blue"})
