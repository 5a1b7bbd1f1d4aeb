"""Settings of an evaluation, as they are given and as they are used."""

import pytest

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.evaluation.settings import (
    EvaluationConfig,
    check_training_metrics,
    parse_sampler_options,
)


def config(**given):
    return EvaluationConfig(model="model", dataset="faces", **given)


def test_sampler_options_are_yaml_values():
    text = "solver_order=3, use_karras=true,levels=[1,2.5], name=x"
    assert parse_sampler_options(text) == {"solver_order": 3, "use_karras": True, "levels": [1, 2.5], "name": "x"}
    assert parse_sampler_options(" ") == {}


@pytest.mark.parametrize(("text", "says"), [("=3", "give NAME=VALUE"), ("order", "give NAME=VALUE"), ("a={", "'{'")])
def test_sampler_options_that_are_none_are_refused(text, says):
    with pytest.raises(UserError, match=says):
        config(sampler_options=text)


def test_guidance_is_what_differs_from_the_models_own():
    assert config().guidance == {}
    given = config(guidance_scale=2.0, guidance_interval="0.5,inf").guidance
    assert given == {"guidance_scale": 2.0, "guidance_interval": (0.5, float("inf"))}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"guidance_scale": 1.0, "guidance_interval": "1,2"}, "does nothing without a --guidance_scale above 1"),
        ({"guidance_interval": "1"}, "give two numbers separated by a comma"),
        ({"labels": "hair"}, "give ATTRIBUTE=VALUE"),
        ({"labels": "hair=red,hair=blue"}, "names hair twice"),
    ],
)
def test_mistakes_are_refused_when_they_are_given(given, says):
    with pytest.raises(UserError, match=says):
        config(**given)


def test_labels_are_values_by_attribute():
    assert config(labels="hair=light blue, eyes = red").parsed_labels == {"hair": "light blue", "eyes": "red"}


@pytest.mark.parametrize(("names", "says"), [("", "is empty; give some of fid, kid"), ("kid,isc", "not isc")])
def test_metrics_of_a_training_are_those_between_features(names, says):
    check_training_metrics("kid,copies")
    with pytest.raises(UserError, match=says):
        check_training_metrics(names)
