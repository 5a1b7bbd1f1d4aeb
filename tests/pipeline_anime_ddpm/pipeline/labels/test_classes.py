"""Settings of a labelled model, and which classes its network is called with."""

import json

import diffusers
import numpy as np
import pytest
import torch
from label_parts import (
    BLONDE_GREEN,
    BLUE_RED,
    CLASSES,
    LABELS,
    SCHEDULERS,
    STEPS,
    close,
    never,
    noise_table,
    record,
    reference,
    seeded,
)

from pipeline_anime_ddpm import AnimeDDPMPipeline


def test_attributes_are_sorted_and_their_values_keep_their_order(pipe):
    assert list(pipe.labels.items()) == [("eyes", LABELS["eyes"]), ("hair", LABELS["hair"])]
    pipe.labels["eyes"].append("not the model's own")
    assert pipe.labels["eyes"] == pipe.config.labels["eyes"] == LABELS["eyes"]


def test_model_without_labels_has_none(tiny_unet, tmp_path):
    pipe = AnimeDDPMPipeline(tiny_unet(), noise_table(), labels={})
    assert pipe.labels == {} and pipe.config.labels is None
    pipe.save_pretrained(tmp_path)
    assert "labels" not in json.loads((tmp_path / "model_index.json").read_text())


@pytest.mark.parametrize(
    ("labels", "classes", "sentence"),
    [
        (LABELS, 11, "make 12 combinations, .* but the network has 11 classes"),
        (LABELS, None, "make 12 combinations, .* but the network has 0 classes"),
        (["hair"], CLASSES, "must be a dict from attributes to lists of names"),
        ({"hair": "blue"}, CLASSES, "must be a dict from attributes to lists of names"),
        ({"hair": []}, CLASSES, "must be a dict from attributes to lists of names"),
        ({"hair": [1, 2]}, CLASSES, "must be a dict from attributes to lists of names"),
        ({"hair": ["blue", "Any "]}, CLASSES, 'names other than "any"'),
        ({"hair": ["blue", " BLUE"]}, CLASSES, "must differ in more than case and spaces"),
        ({"hair": ["blue"], "Hair": ["red"]}, CLASSES, "must differ in more than case and spaces"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tiny_unet, labels, classes, sentence):
    with pytest.raises(ValueError, match=sentence):
        AnimeDDPMPipeline(tiny_unet(num_class_embeds=classes), noise_table(), labels=labels)


@pytest.mark.parametrize("classes", [None, 5])
def test_guide_has_the_same_number_of_classes(tiny_unet, make_pipe, classes):
    guide = tiny_unet(num_class_embeds=classes)
    with pytest.raises(ValueError, match=f"The guide has {classes or 0} classes .* but the network 12"):
        AnimeDDPMPipeline(tiny_unet(num_class_embeds=CLASSES), noise_table(), guide, labels=LABELS)
    pipe = make_pipe(guide=True)
    pipe.guide_unet = guide  # later than the constructor
    with pytest.raises(ValueError, match="The guide has"):
        pipe(labels={"hair": 0}, guidance_scale=2.0)


def test_names_indices_and_any_become_joint_classes(pipe, monkeypatch):
    seen = record(monkeypatch, pipe.unet)
    for labels, expected in (
        ({"hair": "blue", "eyes": ["red", "green"]}, [1 * 4 + 2, 2 * 4 + 2]),
        ({" HAIR": " bLUE "}, [2]),
        ({"hair": 2, "eyes": 0}, [1 * 4 + 3]),
        ({"eyes": [None, "any", " ANY", 1]}, [0, 0, 0, 8]),
        ({"hair": np.array([2, 0]), "eyes": torch.tensor([1, 1])}, [2 * 4 + 3, 2 * 4 + 1]),
        ({"hair": np.array(["blue", "dark red"])}, [2, 3]),
        ({"hair": np.int64(1), "eyes": torch.tensor(0)}, [BLUE_RED]),
        ({}, [0]),
        (None, [0]),
    ):
        images = pipe(labels=labels, num_inference_steps=1, output_type="pt").images
        assert seen.pop()[1] == expected and len(images) == len(expected) and not seen
    pipe(3, labels={"hair": "blue"}, num_inference_steps=1)
    assert seen.pop()[1] == [2, 2, 2]
    pipe(2, labels={"hair": ["blue", "blonde"]}, num_inference_steps=1)
    assert seen.pop()[1] == [2, 1]


@pytest.mark.parametrize("given", [[3, 5], (3, 5), torch.tensor([3, 5]), np.array([3, 5], dtype=np.uint8)], ids=repr)
def test_class_labels_are_rows_of_the_embedding(make_pipe, monkeypatch, given):
    pipe = make_pipe(labels=None)
    seen = record(monkeypatch, pipe.unet)
    assert len(pipe(class_labels=given, num_inference_steps=1).images) == 2
    assert seen.pop()[1] == [3, 5]
    pipe(2, class_labels=7, num_inference_steps=1)
    assert seen.pop()[1] == [7, 7]


def test_any_is_class_0_and_a_label_changes_the_image(pipe):
    draws = [
        pipe(1, seeded(0), **how, **STEPS).images
        for how in ({}, {"labels": {"eyes": "any"}}, {"class_labels": [0]}, {"labels": {"hair": "blue"}})
    ]
    assert torch.equal(draws[0], draws[1]) and torch.equal(draws[0], draws[2])
    assert torch.equal(draws[0], reference(pipe.unet, pipe.scheduler, [0])) and not close(draws[0], draws[3])


@pytest.mark.parametrize("name", ["AnimeNoise", *SCHEDULERS])
def test_every_scheduler_generates_the_classes_requested(make_pipe, name):
    pipe = make_pipe()
    if name != "AnimeNoise":
        pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(pipe.scheduler.config)
    asked = {"labels": {"hair": ["blue", "blonde"], "eyes": ["red", "green"]}}
    for scale in (1.0, 2.0):
        how = {"guidance_scale": scale, "num_inference_steps": 5, "output_type": "latent", **asked}
        images = pipe(2, seeded(0, 1), **how).images
        assert close(images, reference(pipe.unet, pipe.scheduler, [BLUE_RED, BLONDE_GREEN], scale, steps=5))


def test_image_depends_on_its_own_label_alone(pipe):
    asked = {"hair": ["blue", "blonde"], "eyes": ["red", "green"]}
    batch = pipe(2, seeded(0, 1), labels=asked, guidance_scale=2.0, **STEPS).images
    alone = pipe(1, seeded(1), labels={"hair": "blonde", "eyes": "green"}, guidance_scale=2.0, **STEPS).images
    assert close(batch[1:], alone)


BAD = [
    ({"labels": {"nose": "long"}}, r"attribute 'nose', but those of this model are \['eyes', 'hair'\]"),
    ({"labels": {3: "long"}}, "attribute 3, but"),
    ({"labels": {"hair": "green"}}, r"no value 'green' of 'hair' .* \['blonde', 'blue', 'Dark Red'\]"),
    ({"labels": {"hair": ["blue", "green"]}}, "no value 'green' of 'hair'"),
    ({"labels": {"hair": 3}}, "no value 3 of 'hair' .* index from 0 to 2"),
    ({"labels": {"hair": -1}}, "no value -1 of 'hair'"),
    ({"labels": {"hair": True}}, "no value True of 'hair'"),
    ({"labels": {"hair": 1.0}}, "no value 1.0 of 'hair'"),
    ({"labels": {"hair": [["blue"]]}}, r"no value \['blue'\] of 'hair'"),
    ({"labels": {"hair": ["blue"] * 2}, "batch_size": 3}, "'hair' of `labels` holds 2 values, but 3 are needed"),
    ({"labels": {"hair": ["blue"]}, "batch_size": 3}, "'hair' of `labels` holds 1 values, but 3 are needed"),
    ({"labels": {"hair": [0, 1], "eyes": [0, 1, 0]}}, "'hair' of `labels` holds 2 values, but 3 are needed"),
    ({"labels": {"hair": []}}, "'hair' of `labels` holds 0 values, but 1 is needed"),
    ({"labels": {"hair": 0, " Hair": 0}}, "the attribute 'hair' twice"),
    ({"labels": "blue"}, "`labels` must be a dict from attributes to values"),
    ({"labels": []}, "`labels` must be a dict from attributes to values"),
    ({"labels": {"hair": 0}, "class_labels": [3]}, "`labels` or `class_labels`, not both"),
    ({"class_labels": [12]}, "whole numbers from 0 to 11, got 12"),
    ({"class_labels": [-1]}, "whole numbers from 0 to 11, got -1"),
    ({"class_labels": [1.0]}, "whole numbers from 0 to 11, got 1.0"),
    ({"class_labels": torch.tensor([1.0])}, "whole numbers from 0 to 11, got 1.0"),
    ({"class_labels": torch.tensor([True])}, "whole numbers from 0 to 11, got True"),
    ({"class_labels": "3"}, "whole numbers from 0 to 11, got '3'"),
    ({"class_labels": torch.tensor([[3, 5]])}, "whole numbers from 0 to 11"),
    ({"class_labels": [3, 5], "batch_size": 3}, "`class_labels` holds 2 values, but 3 are needed"),
    ({"guidance_scale": 2.0}, "Guidance needs labels or a guide"),
    ({"guidance_scale": 2.0, "labels": {"hair": "any"}}, "Guidance needs labels or a guide"),
]


@pytest.mark.parametrize(("call", "sentence"), BAD)
def test_bad_input_is_refused_before_the_network_is_called(pipe, monkeypatch, call, sentence):
    monkeypatch.setattr(pipe.unet, "forward", never)
    with pytest.raises(ValueError, match=sentence) as caught:
        pipe(**call)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("unet", "call", "sentence"),
    [
        ({"num_class_embeds": None}, {"labels": {"hair": "blue"}}, "This model has no labels: omit `labels`."),
        ({"num_class_embeds": None}, {"class_labels": [3]}, "This model has no classes: omit `class_labels`."),
        ({}, {}, "is class-conditional and has no labels: give `class_labels`, .* from 0 to 11"),
        ({}, {"labels": {"hair": "blue"}}, "no labels: omit `labels`, and give `class_labels` from 0 to 11"),
        ({}, {"class_labels": [3], "guidance_scale": 2.0}, 'none of the classes of this one is known to be "any"'),
        ({"class_embed_type": "timestep"}, {"class_labels": [3]}, "class_embed_type='timestep'"),
    ],
)
def test_models_of_other_kinds_say_what_they_take(make_pipe, monkeypatch, unet, call, sentence):
    pipe = make_pipe(labels=None, **unet)
    monkeypatch.setattr(pipe.unet, "forward", never)
    with pytest.raises(ValueError, match=sentence):
        pipe(**call)


def test_empty_dict_asks_nothing_of_a_model_without_labels(make_pipe):
    pipe = make_pipe(labels=None, num_class_embeds=None)
    assert torch.equal(*(pipe(1, seeded(0), labels=labels, **STEPS).images for labels in ({}, None)))
