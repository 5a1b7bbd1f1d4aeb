"""The part of the page that explains the model."""

import json

import numpy as np
from demo_page import ask, pixels_of, streamed
from PIL import Image

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.demo import model as demo_model
from pipeline_anime_ddpm.demo.web import how as demo_how


def test_how_it_works_begins_with_noise_and_ends_with_the_face(page):
    status, _, content = ask(page, "how")
    how = json.loads(content)
    assert status == 200 and how["metrics"] == [["KID", "1.5", "0.1", "7"]] and len(how["frames"]) == 21
    assert "# Tiny" in how["card"] and "license" not in how["card"] and "png" not in how["card"]
    assert how["levels"][0][1] > how["levels"][-1][1] and how["curve"].startswith("data:image/png")
    (face,) = streamed(page, "draw", {"faces": ["s=3&steps=20"]})[-1]["faces"]
    wanted = np.asarray(Image.fromarray(pixels_of(face["picture"])).resize((256, 256), Image.LANCZOS), int)
    assert np.abs(pixels_of(how["frames"][-1]) - wanted).mean() < 12
    assert json.loads(ask(page, "how")[2]) == how


def test_table_that_ends_in_pure_noise_can_be_shown(tiny_unet, tmp_path):
    scheduler = AnimeNoiseScheduler(100, rescale_betas_zero_snr=True)
    AnimeDDPMPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path / "zero")
    levels = demo_how.noise_levels(demo_model.Model(str(tmp_path / "zero")))
    assert all(np.isfinite(level) for _, level in levels)


def test_files_beside_the_weights_may_be_anything(page, tmp_path, monkeypatch):
    file = tmp_path / "metrics.json"
    monkeypatch.setattr(page.model, "read", lambda name: file)
    metric = {"name": "FD", "value": 3.14159, "n": 20}
    for content, rows in (
        (json.dumps({"metrics": {"fid": metric}}), [["FD", "3.142", "", "20"]]),
        (json.dumps([{"metrics": {"fid": metric}}] * 2), [["FD", "3.142", "", "20"]]),
        (json.dumps([{"metrics": {"fid": metric | {"value": None}}}]), []),
        ("no JSON", []), ('"text"', []), ("[1]", []),
    ):  # fmt: skip
        file.write_text(content)
        assert demo_how.metrics(page.model) == rows


def test_card_fetches_nothing_from_elsewhere():
    card = "---\r\na: b\r\n---\r\n# T\n![x](http://a/x.png) ![y][r] <IMG src=x> <video src=y></video> 1 < 2 [l](m)\n"
    assert demo_how.card_text(card).split() == ["#", "T", "1", "<", "2", "[l](m)"]
