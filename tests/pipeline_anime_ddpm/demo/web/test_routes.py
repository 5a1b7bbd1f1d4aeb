"""What the page's own routes answer."""

import io

import numpy as np
import torch
from demo_page import ask, pixels_of, streamed
from PIL import Image

from pipeline_anime_ddpm import AnimeDDPMPipeline


def test_picture_reproduces_its_link_and_holds_its_recipe(labelled_page, labelled):
    path = "picture?s=7&hair=blue&size=512&download=1"
    status, headers, content = ask(labelled_page, path)
    picture = Image.open(io.BytesIO(content))
    assert (
        status == 200 and picture.size == (512, 512) and "anime-face-7-blue-any.png" in headers["Content-Disposition"]
    )
    facts = picture.info
    assert (facts["seed"], facts["hair"], facts["model"]) == ("7", "blue", "labelled-faces")
    again = AnimeDDPMPipeline.from_pretrained(labelled)(
        generator=[torch.Generator().manual_seed(int(facts["seed"]))], labels={"hair": facts["hair"]},
        num_inference_steps=int(facts["steps"]), guidance_scale=float(facts["guidance_scale"]),
    ).images[0]  # fmt: skip
    assert np.array_equal(np.asarray(again.resize((512, 512), Image.LANCZOS)), np.asarray(picture))
    (face,) = streamed(labelled_page, "draw", {"faces": ["s=7&hair=blue"], "large": True})[-1]["faces"]
    assert np.array_equal(pixels_of(face["picture"]), np.asarray(again))
    assert pixels_of(face["large"]).shape == (512, 512, 3)


def test_nothing_is_drawn_twice(labelled_page):
    body = {"faces": ["s=50", "s=51"]}
    first, again = (streamed(labelled_page, "draw", body)[-1]["faces"] for _ in range(2))
    calls = []
    handle = labelled_page.model.pipeline.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        assert streamed(labelled_page, "draw", body)[-1]["faces"] == first == again and not calls
    finally:
        handle.remove()


def test_shelf_becomes_a_contact_sheet(labelled_page):
    faces = streamed(labelled_page, "draw", {"faces": [f"s={seed}" for seed in range(5)]})[-1]["faces"]
    status, _, content = ask(labelled_page, "sheet", {"pictures": [face["picture"] for face in faces]})
    assert status == 200 and Image.open(io.BytesIO(content)).size == (768, 512)
    body = {"picture": faces[0]["picture"], "size": 1024, "recipe": "repaired: s=1"}
    status, _, content = ask(labelled_page, "enlarge", body)
    large = Image.open(io.BytesIO(content))
    assert status == 200 and large.size == (1024, 1024) and large.info["recipe"] == "repaired: s=1"
