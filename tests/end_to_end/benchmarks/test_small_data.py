"""The comparison on few pictures runs from pictures to a rendered table."""

import json
import sys

import pytest
from evaluation_data import colour_extractor, pictures, save

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler, cli
from pipeline_anime_ddpm.evaluation import ema_choice
from pipeline_anime_ddpm.evaluation.networks import extractors

pytestmark = pytest.mark.slow


@pytest.fixture
def small_data(render, monkeypatch):
    """The benchmark with a judge that needs no weights, in this process."""
    import small_data

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(extractors, "EfficientNetExtractor", colour_extractor())
    monkeypatch.setattr(ema_choice, "LENGTHS", (0.05,))
    monkeypatch.setattr(small_data, "run", lambda *words: cli.main(list(words)))
    for arm in small_data.ARMS.values():
        monkeypatch.setitem(arm, "flags", arm.get("flags", {}) | {"validation_images": 1})
    return small_data


def test_few_pictures_are_measured_from_end_to_end(small_data, render, tiny_unet, tmp_path, monkeypatch, capsys):
    save(tmp_path / "data" / "train", pictures(150, seed=0))
    save(tmp_path / "data" / "validation", pictures(30, seed=1))
    model = tmp_path / "model"
    AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(num_train_timesteps=100)).save_pretrained(model)
    output, figure = tmp_path / "result.json", tmp_path / "figure.png"
    flags = {"data": tmp_path / "data", "model": model, "resolution": 16, "pictures": 110, "images": 48,
             "num_images": 24, "work": tmp_path / "work", "output": output, "figure": figure}  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["small_data.py", *words])
    small_data.main()
    result = json.loads(output.read_text())
    rows = {row["arm"]: row for row in result["rows"]}
    assert list(rows) == list(small_data.COMPARED)
    assert (rows["ours_tuned"]["images"], rows["peer_tuned"]["images"]) == (32, 48)
    assert {(row["pictures"], row["n"], row["real_n"]) for row in result["rows"]} == {(110, 24, 30)}
    assert result["summary"]["kid_over_peer_equal_time"] == rows["ours_tuned"]["kid"] / rows["peer_tuned"]["kid"]
    assert render.RENDERERS["small_data"](result) in capsys.readouterr().out and figure.is_file()
    monkeypatch.setattr(small_data, "run", lambda *words: pytest.fail("trained again"))
    small_data.main()
    assert json.loads(output.read_text())["rows"] == result["rows"]
