"""The wall of faces that the page begins with."""

import io

import numpy as np
from PIL import Image
from recipe_runs import ROOT

from pipeline_anime_ddpm.demo import drawing as demo_drawing
from pipeline_anime_ddpm.demo import model as demo_model
from pipeline_anime_ddpm.demo import wall as demo_wall


def test_shipped_model_has_its_wall_and_draws():
    model = demo_model.Model(str(ROOT / "hub_model" / "labelled"))
    wall = demo_wall.Wall(model)
    assert wall.is_drawn, "run `python -m pipeline_anime_ddpm.demo.wall`"
    recipe = wall.recipes[9]
    job = demo_drawing.face_job(model, demo_drawing.Faces(), "", [recipe])
    ((face, _),) = job.run(job.items, type("Unwatched", (), {"attach": lambda *_: {}})())
    sprite = Image.open(io.BytesIO(wall.sprite))
    shown = sprite.crop((128, 128, 256, 256)).resize((64, 64), Image.BOX)
    assert face.size == (64, 64) and np.abs(np.asarray(shown, int) - np.asarray(face)).mean() < 8
    assert model.pipeline.scheduler.config.solver == "dpmsolver++"  # one visitor's choice is not the next one's


def test_wall_shows_all_values_of_the_labels_in_turn():
    model = demo_model.Model(str(ROOT / "hub_model" / "labelled"))
    recipes = demo_wall.wall_recipes(model)
    assert [recipe.seed for recipe in recipes] == list(range(64))
    for attribute, values in model.labels.items():
        assert {dict(recipe.labels)[attribute] for recipe in recipes} == set(values), attribute


def test_wall_of_another_model_is_empty_until_it_is_filled(saved):
    model = demo_model.Model(str(saved))
    wall = demo_wall.Wall(model)
    assert not wall.is_drawn
    wall.fill([Image.new("RGB", (16, 16), (number, 0, 0)) for number in range(64)])
    assert wall.is_drawn and Image.open(io.BytesIO(wall.first)).size == (512, 512)
    sprite = np.asarray(Image.open(io.BytesIO(wall.sprite)).convert("RGB"), int)
    assert sprite.shape == (1024, 1024, 3) and abs(sprite[64 + 7 * 128, 64 + 7 * 128, 0] - 63) < 8
