"""A recipe is a face's identity: its link, its name, its file name."""

import pytest

from pipeline_anime_ddpm.demo import limits as demo_limits
from pipeline_anime_ddpm.demo import recipe as demo_recipe
from pipeline_anime_ddpm.demo.model import OWN


@pytest.fixture
def model(labelled_page):
    return labelled_page.model


@pytest.mark.parametrize("query", [
    "s=2", "s=2&hair=blue", "s=2147483647&hair=sandy&eyes=red", "s=0&v=5.7", "s=3&steps=7&sampler=DDIM&guidance=2.5",
])  # fmt: skip
def test_link_and_recipe_are_the_same_thing(model, query):
    recipe = demo_recipe.parse(model, query)
    assert demo_recipe.query_of(model, recipe) == query
    assert demo_recipe.parse(model, demo_recipe.query_of(model, recipe)) == recipe


def test_names_say_what_is_seen_in_the_order_hair_then_eyes(model):
    recipe = demo_recipe.parse(model, "eyes=red&hair=blue&s=2")
    assert demo_recipe.name_of(recipe) == "face with blue hair and red eyes, seed 2"
    assert demo_recipe.file_name(model, recipe) == "anime-face-2-blue-red.png"
    varied = demo_recipe.parse(model, "s=2&v=9&hair=any")
    assert demo_recipe.name_of(varied) == "face, seed 2, varied"
    assert demo_recipe.file_name(model, varied) == "anime-face-2.9-any-any.png"
    facts = demo_recipe.facts_of(model, recipe)
    assert facts["hair"] == "blue" and facts["seed"] == "2" and facts["link"] == "?s=2&hair=blue&eyes=red"


@pytest.mark.parametrize("query, field, said", [
    ("s=", "seed", "whole number from 0 to 2,147,483,647"), ("", "seed", "whole number"), ("s=1.5", "seed", "whole"),
    ("s=-1", "seed", "whole"), ("s=2147483648", "seed", "whole"), ("s=x", "seed", "whole"), ("s=²", "seed", "whole"),
    ("s=1&hair=plaid", "hair", "knows no hair “plaid”. Choose blue, sandy, pink or any"),
    ("s=1&hat=red", "hat", "no label “hat”. It knows hair, eyes"),
    ("s=1&steps=0", "steps", "from 1 to 100"), ("s=1&steps=2.5", "steps", "whole"),
    ("s=1&guidance=9", "guidance", "from 1 to 4"), ("s=1&guidance=nan", "guidance", "number"),
    ("s=1&sampler=Euler", "sampler", "must be one of"), ("s=1&v=" + ".".join("1" * 13), "v", "12 times at most"),
    ("s=1&v=5.x", "seed", "variation"),
])  # fmt: skip
def test_bad_link_names_its_field(model, query, field, said):
    with pytest.raises(demo_limits.Refused, match=said.replace(".", r"\.")) as caught:
        demo_recipe.parse(model, query)
    assert caught.value.field == field


@pytest.mark.parametrize("value", [None, True, "x", [1], {}, float("nan"), float("inf"), 1e300, "9" * 5000])
def test_numbers_of_a_wrong_type_are_refused_in_words(model, value):
    with pytest.raises(demo_limits.Refused, match="The seed must be a whole number"):
        demo_recipe.make_recipe(model, value)


def test_labels_of_a_wrong_type_are_refused_in_words(model):
    with pytest.raises(demo_limits.Refused, match="must be named"):
        demo_recipe.make_recipe(model, 1, "blue")
    assert demo_recipe.make_recipe(model, 1, {"hair": "any", "eyes": None}).labels == ()


def test_model_without_labels_says_so(page):
    with pytest.raises(demo_limits.Refused, match="It has no labels"):
        demo_recipe.parse(page.model, "s=1&hair=blue")
    assert demo_recipe.parse(page.model, "s=1").sampler == OWN
