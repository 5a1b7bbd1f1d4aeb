"""No pickle is read: of weights, checkpoints, caches."""

import ast
import os
import pickle

import numpy as np
import pytest
import torch
from security_parts import ROOT, WEIGHTS, png

from pipeline_anime_ddpm import AnimeNoiseScheduler
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data import cache, open_data
from pipeline_anime_ddpm.evaluation.drawing import load_pipeline
from pipeline_anime_ddpm.evaluation.metrics.statistics import ARRAYS, kept
from pipeline_anime_ddpm.evaluation.networks.perceptual import weights_only_loading
from pipeline_anime_ddpm.runs.checkpoints import load_checkpoint, save_checkpoint
from pipeline_anime_ddpm.runs.state import TrainingState
from pipeline_anime_ddpm.runs.tracking import LossMeter
from pipeline_anime_ddpm.training.config import TrainingConfig


@pytest.mark.parametrize("place", [WEIGHTS, "unet/diffusion_pytorch_model.bin"])
def test_a_pickle_in_the_place_of_weights_is_refused_by_all_that_load_models(place, model, trap, every_loader):
    (model / WEIGHTS).unlink()
    torch.save({"conv_in.weight": trap}, model / place)
    every_loader("cannot be loaded")


def test_pickle_beside_the_weights_is_not_looked_at(model, trap):
    torch.save({"conv_in.weight": trap}, model / "unet" / "diffusion_pytorch_model.bin")
    assert load_pipeline(str(model)).unet.config.sample_size == 16


def test_a_pickle_in_a_checkpoint_is_called_damage(tmp_path, tiny_unet, trap):
    unet = tiny_unet()
    optimizer = torch.optim.SGD(unet.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    meter = LossMeter(1000, "cpu")
    state = TrainingState(unet, AnimeNoiseScheduler(), {}, optimizer, schedule, None, meter, {}, 1)
    checkpoint = save_checkpoint(tmp_path, state)
    for name in ("unet", "optimizer", "meter"):
        file = checkpoint / f"{name}.safetensors"
        whole = file.read_bytes()
        torch.save(trap, file)
        with pytest.raises(UserError, match="damaged"):
            load_checkpoint(checkpoint, state)
        file.write_bytes(whole)
    load_checkpoint(checkpoint, state)


def test_a_pickle_among_kept_statistics_is_made_again(tmp_path, trap):
    def made():
        return kept(tmp_path, "features", {"n": 1}, lambda: {"features": np.ones((1, 2))})["features"]

    made()
    (file,) = tmp_path.glob(f"*/{ARRAYS}")
    whole = file.read_bytes()
    np.savez(file, features=np.array([trap], dtype=object))
    assert np.array_equal(made(), np.ones((1, 2)))
    for spoilt in (pickle.dumps(trap), whole[:-40], whole[:40], b"", whole.replace(b"(1, 2)", b"(9**9)")):
        file.write_bytes(spoilt)
        assert np.array_equal(made(), np.ones((1, 2)))


def test_a_pickle_in_the_cache_of_images_is_made_again(tmp_path, trap):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "0.png").write_bytes(png())
    config = TrainingConfig(train_data_dir=str(tmp_path / "faces"), cache_dir=str(tmp_path / "cache"))
    index = open_data(config, 8, False).entry.folder / cache.INDEX
    for spoilt in (np.array([trap], dtype=object), np.zeros((5, 3), np.int64)):
        np.save(index, spoilt)
        assert open_data(config, 8, False).entry.index().tolist() == [[0, 8, 8]]


def test_libraries_that_unpickle_are_held_to_tensors(tmp_path, trap):
    torch.save({"weight": trap}, tmp_path / "weights.pth")
    before = dict(os.environ)
    with weights_only_loading(), pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "weights.pth", weights_only=False)
    assert dict(os.environ) == before


FORBIDDEN = {"pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.unsafe_load", "yaml.full_load", "os.system",
             "pandas.read_pickle", "pd.read_pickle", "eval", "exec", "yaml.safe_load", "joblib.load", "marshal.loads",
             "shelve.open", "tarfile.open", "shutil.unpack_archive"}  # fmt: skip
ALLOWED = {("units.py", "tarfile.open"), ("site.py", "tarfile.open")}  # the latter reads named files, after a checksum
NEEDED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def _parts(node):
    """`b` and `a` of a call's `a.b`."""
    while node is not None:
        yield node
        node = getattr(node, "value", None)


def test_no_line_of_the_package_unpickles_or_evaluates():
    """Whoever adds one finds this test, and the ways around it: parsing.py, perceptual.py, loading.py."""
    files = [*(ROOT / "pipeline_anime_ddpm").rglob("*.py"), ROOT / "app.py"]
    calls = [
        (file.name, node)
        for file in [*files, ROOT / "train_anime_ddpm.py"]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
    ]
    assert len(calls) > 3000
    for file, call in calls:
        name = ".".join(getattr(part, "id", getattr(part, "attr", "")) for part in reversed([*_parts(call.func)]))
        given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
        assert name not in FORBIDDEN or (file, name) in ALLOWED, f"{file}:{call.lineno} {name}"
        if name in NEEDED:
            assert given.get(NEEDED[name][0]) is NEEDED[name][1], f"{file}:{call.lineno} {name}"
        assert not given.get("trust_remote_code") or file == "model.py", f"{file}:{call.lineno} runs foreign code"
