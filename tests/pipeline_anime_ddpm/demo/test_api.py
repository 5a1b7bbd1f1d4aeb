"""Outputs of the endpoints."""

import numpy as np
import pytest
import torch
from endpoint_parts import OWN, editor, layer, opened, saved_picture
from gradio_client import handle_file
from PIL import Image
from recipe_runs import ROOT

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.demo import limits as demo_limits
from pipeline_anime_ddpm.demo import model as demo_model


def test_faces_have_their_own_seeds_for_any_batch(client):
    faces, said = client.predict(3, 7, 5, OWN, 1.0, api_name="/generate")
    assert [face["caption"] for face in faces] == ["seed 7", "seed 8", "seed 9"] and "3 faces in" in said
    (alone,), _ = client.predict(1, 8, 5, OWN, 1.0, api_name="/generate")
    pictures = [opened(face["image"]) for face in (*faces, alone)]
    assert pictures[0].shape == (16, 16, 3)
    distances = [np.abs(picture.astype(int) - pictures[3]).max() for picture in pictures[:3]]
    assert distances[1] <= 1 < min(distances[0], distances[2])  # the size of a batch changes the rounding a little


def test_last_seed_is_followed_by_the_first(client):
    faces, _ = client.predict(2, demo_limits.MAX_SEED, 1, OWN, 1.0, api_name="/generate")
    assert [face["caption"] for face in faces] == [f"seed {demo_limits.MAX_SEED}", "seed 0"]


@pytest.mark.parametrize("sampler", [OWN, *demo_model.SAMPLERS])
def test_metadata_of_a_picture_reproduces_it(client, saved, sampler):
    (face,), _ = client.predict(1, 5, 4, sampler, 2.0, api_name="/generate")
    told = Image.open(face["image"]).info
    assert told["model"] == "tiny-faces" and told["sampler"] == sampler
    pipeline = AnimeDDPMPipeline.from_pretrained(saved)
    if sampler != OWN:
        pipeline.scheduler = AnimeNoiseScheduler.from_config(
            pipeline.scheduler.config, solver=demo_model.SAMPLERS[sampler][0]
        )
    again = pipeline(
        generator=[torch.Generator().manual_seed(int(told["seed"]))],
        num_inference_steps=int(told["steps"]),
        guidance_scale=float(told["guidance_scale"]),
    ).images[0]
    assert np.array_equal(np.asarray(again), opened(face["image"]))


def test_guidance_and_sampler_are_heeded(client):
    drawn = [
        client.predict(1, 5, 4, sampler, guidance, api_name="/generate")[0][0]["image"]
        for sampler, guidance in ((OWN, 1), (OWN, 2), ("DDIM", 1), ("DDPM (many steps)", 1))
    ]
    assert len({opened(path).tobytes() for path in drawn}) == 4


def test_strength_0_leaves_a_picture_and_1_leaves_nothing_of_it(client, picture, tmp_path):
    before, after = client.predict(handle_file(picture), 0, 3, 4, api_name="/vary")[0]
    assert np.array_equal(opened(before), opened(picture)) and np.array_equal(opened(after), opened(picture))
    other = saved_picture(tmp_path / "other.png", seed=1)
    (_, first), (_, second) = (client.predict(handle_file(p), 1, 3, 4, api_name="/vary")[0] for p in (picture, other))
    assert np.array_equal(opened(first), opened(second))
    (_, half), _ = client.predict(handle_file(picture), 0.5, 3, 4, api_name="/vary")
    assert not np.array_equal(opened(half), opened(first)) and not np.array_equal(opened(half), opened(picture))


def test_repair_changes_what_is_painted_over(client, picture, tmp_path):
    painted = layer(tmp_path / "layer.png", (4, 2, 12, 9))
    (before, after), _ = client.predict(editor(picture, painted), 3, 4, api_name="/inpaint")
    changed = (opened(before) != opened(after)).any(2)
    inside = np.zeros((16, 16), bool)
    inside[2:9, 4:12] = True
    assert np.array_equal(opened(before), opened(picture))
    assert changed[inside].mean() > 0.9 and not changed[~inside].any()


def test_large_picture_is_repaired_at_the_models_size(client, tmp_path):
    large = saved_picture(tmp_path / "large.png", (448, 448))
    painted = layer(tmp_path / "layer.png", (0, 0, 448, 234), (448, 448))  # a third of the ninth row as well
    (before, after), _ = client.predict(editor(large, painted), 3, 4, api_name="/inpaint")
    changed = (opened(before) != opened(after)).any(2)
    assert changed.shape == (16, 16) and changed[:9].mean() > 0.9 and not changed[9:].any()


def test_film_goes_there_and_back_between_its_ends(client, picture, tmp_path):
    film, said = client.predict(1, 2, None, None, 5, 4, api_name="/interpolate")
    with Image.open(film) as film_file:
        assert film_file.format == "WEBP" and film_file.n_frames == 8 and film_file.info["loop"] == 0
        assert min(film_file.size) >= 256
    assert "5 frames" in said
    other = saved_picture(tmp_path / "other.png", seed=1)
    film, _ = client.predict(1, 2, handle_file(picture), handle_file(other), 2, 4, api_name="/interpolate")
    with Image.open(film) as film_file:
        first = np.asarray(film_file.convert("RGB").resize((16, 16), Image.BOX), np.float32)
        film_file.seek(1)
        last = np.asarray(film_file.convert("RGB").resize((16, 16), Image.BOX), np.float32)
    near = [[np.abs(frame - opened(path)).mean() for path in (picture, other)] for frame in (first, last)]
    assert near[0][0] < 0.6 * near[0][1] and near[1][1] < 0.6 * near[1][0]


def test_only_the_named_endpoints_are_shown(client):
    assert set(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == {
        "/generate", "/vary", "/inpaint", "/interpolate",
    }  # fmt: skip


def test_snippets_of_the_page_run(page, picture, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "demo.md").read_text()
    codes = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    codes = [code for code in codes if "gradio_client" in code]
    assert len(codes) == 1 and all(f'"/{name}"' in codes[0] for name in ("generate", "vary", "inpaint", "interpolate"))
    monkeypatch.chdir(tmp_path)
    saved_picture(tmp_path / "face.png")
    layer(tmp_path / "painted.png", (4, 4, 9, 9))
    exec(codes[0].replace("http://127.0.0.1:7860/", page.url), {})
