# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Drawing by labels and by classes: which class the network is called with, and how predictions are combined."""

import copy
import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler, coordinate_grid
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.loading import load_pipeline, read_index
from pipeline_anime_ddpm.pipeline_anime_ddpm import UNCONDITIONAL, Condition
from pipeline_anime_ddpm.training.distillation import Teacher, distilled

LABELS = {"hair": ["blonde", "blue", "Dark Red"], "eyes": ["red", "green"]}
CLASSES = 12  # (2 + 1) of eyes, which come first, times (3 + 1) of hair
BLUE_RED, BLONDE_GREEN = 1 * 4 + 2, 2 * 4 + 1  # (hair, eyes) as joint classes
STEPS = {"num_inference_steps": 3, "output_type": "latent"}
SCHEDULERS = (
    "DDPM", "DDIM", "PNDM", "DPMSolverMultistep", "UniPCMultistep", "DEISMultistep", "EulerDiscrete",
    "EulerAncestralDiscrete", "HeunDiscrete",
)  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, raised inside diffusers' solvers


def noise_table(**config) -> AnimeNoiseScheduler:
    """Ends at ᾱ near e^-10, where a random network does not yet blow rounding errors up."""
    return AnimeNoiseScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", **config)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def picture(seed: int, count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=seeded(seed)[0])


def close(first: torch.Tensor, second: torch.Tensor) -> bool:
    """The same up to the rounding of batches of another size."""
    return first.shape == second.shape and (first - second).abs().max().item() < 1e-3


@pytest.fixture
def make_pipe(tiny_unet):
    def make(labels=LABELS, guide=False, scheduler=None, settings=None, **unet) -> AnimeDDPMPipeline:
        unet = {"num_class_embeds": CLASSES, **unet}
        guide_unet = tiny_unet(seed=1, **unet) if guide else None
        pipe = AnimeDDPMPipeline(
            tiny_unet(**unet), scheduler or noise_table(), guide_unet, labels=labels, **(settings or {})
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture
def pipe(make_pipe):
    return make_pipe()


@pytest.fixture
def ddim(make_pipe):
    return make_pipe(scheduler=DDIMScheduler.from_config(noise_table().config, clip_sample=False, thresholding=False))


def record(monkeypatch, network) -> list[tuple]:
    """What `network` is called with from now on: the sample and the classes as a list."""
    seen, forward = [], network.forward

    def recorded(sample, timestep, class_labels=None, return_dict=True):
        seen.append((sample, None if class_labels is None else class_labels.tolist()))
        return forward(sample, timestep, class_labels, return_dict)

    monkeypatch.setattr(network, "forward", recorded)
    return seen


def never(*args, **kwargs):
    raise AssertionError("the network was called")


@torch.no_grad()
def reference(unet, scheduler, classes: list[int], scale: float = 1.0, guide=None, steps: int = 3) -> torch.Tensor:
    """Sampling from seeds 0, 1, ..., written without the pipeline; guided by `guide`, or by class 0 without one."""
    scheduler, generators = copy.deepcopy(scheduler), seeded(*range(len(classes)))
    scheduler.set_timesteps(steps)
    state = torch.cat([torch.randn(1, 3, 16, 16, generator=one) for one in generators]) * scheduler.init_noise_sigma
    rows = torch.tensor(classes)
    takes = "generator" in type(scheduler).step.__code__.co_varnames
    for t in scheduler.timesteps:
        sample = scheduler.scale_model_input(state, t)
        output = unet(sample, t, rows).sample
        if scale != 1:
            weak = guide(sample, t, rows).sample if guide else unet(sample, t, torch.zeros_like(rows)).sample
            output = (1 - scale) * weak + scale * output
        state = scheduler.step(output, t, state, **({"generator": generators} if takes else {})).prev_sample
    return state


# Settings of a model.


def test_attributes_are_sorted_and_their_values_keep_their_order(pipe):
    assert list(pipe.labels.items()) == [("eyes", LABELS["eyes"]), ("hair", LABELS["hair"])]
    pipe.labels["eyes"].append("not the model's own")
    assert pipe.labels["eyes"] == pipe.config.labels["eyes"] == LABELS["eyes"]


def test_a_model_without_labels_has_none(tiny_unet, tmp_path):
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
def test_a_guide_has_the_same_number_of_classes(tiny_unet, make_pipe, classes):
    guide = tiny_unet(num_class_embeds=classes)
    with pytest.raises(ValueError, match=f"The guide has {classes or 0} classes .* but the network 12"):
        AnimeDDPMPipeline(tiny_unet(num_class_embeds=CLASSES), noise_table(), guide, labels=LABELS)
    pipe = make_pipe(guide=True)
    pipe.guide_unet = guide  # later than the constructor
    with pytest.raises(ValueError, match="The guide has"):
        pipe(labels={"hair": 0}, guidance_scale=2.0)


# Which classes the network is called with.


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
def test_every_scheduler_draws_the_classes_that_are_asked_for(make_pipe, name):
    pipe = make_pipe()
    if name != "AnimeNoise":
        pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(pipe.scheduler.config)
    asked = {"labels": {"hair": ["blue", "blonde"], "eyes": ["red", "green"]}}
    for scale in (1.0, 2.0):
        how = {"guidance_scale": scale, "num_inference_steps": 5, "output_type": "latent", **asked}
        images = pipe(2, seeded(0, 1), **how).images
        assert close(images, reference(pipe.unet, pipe.scheduler, [BLUE_RED, BLONDE_GREEN], scale, steps=5))


def test_an_image_depends_on_its_own_label_alone(pipe):
    asked = {"hair": ["blue", "blonde"], "eyes": ["red", "green"]}
    batch = pipe(2, seeded(0, 1), labels=asked, guidance_scale=2.0, **STEPS).images
    alone = pipe(1, seeded(1), labels={"hair": "blonde", "eyes": "green"}, guidance_scale=2.0, **STEPS).images
    assert close(batch[1:], alone)


# What is refused.

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
def test_bad_input_is_refused_in_one_sentence_before_the_network_is_called(pipe, monkeypatch, call, sentence):
    monkeypatch.setattr(pipe.unet, "forward", never)
    with pytest.raises(ValueError, match=sentence) as caught:
        pipe(**call)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("unet", "call", "sentence"),
    [
        ({"num_class_embeds": None}, {"labels": {"hair": "blue"}}, "This model has no labels: leave `labels` out."),
        ({"num_class_embeds": None}, {"class_labels": [3]}, "This model has no classes: leave `class_labels` out."),
        ({}, {}, "draws images of given classes and has no labels: give `class_labels`, .* from 0 to 11"),
        ({}, {"labels": {"hair": "blue"}}, "no labels: leave `labels` out, and give `class_labels` from 0 to 11"),
        ({}, {"class_labels": [3], "guidance_scale": 2.0}, 'none of the classes of this one is known to be "any"'),
        ({"class_embed_type": "timestep"}, {"class_labels": [3]}, "class_embed_type='timestep'"),
    ],
)
def test_models_of_other_kinds_say_what_they_take(make_pipe, monkeypatch, unet, call, sentence):
    pipe = make_pipe(labels=None, **unet)
    monkeypatch.setattr(pipe.unet, "forward", never)
    with pytest.raises(ValueError, match=sentence):
        pipe(**call)


def test_an_empty_dict_asks_nothing_of_a_model_without_labels(make_pipe):
    pipe = make_pipe(labels=None, num_class_embeds=None)
    assert torch.equal(*(pipe(1, seeded(0), labels=labels, **STEPS).images for labels in ({}, None)))


# Guidance.


def test_guidance_without_a_guide_is_by_any_in_the_same_call(pipe, monkeypatch):
    sample, grid, t = torch.randn(2, 3, 16, 16, generator=seeded(0)[0]), coordinate_grid(16, 16), torch.tensor(500)
    rows = torch.tensor([BLUE_RED, 0])
    with torch.no_grad():
        own, any_ = (pipe.unet(sample, t, classes).sample for classes in (rows, torch.zeros_like(rows)))
        seen = record(monkeypatch, pipe.unet)
        guided = pipe.predict_guided(sample, t, grid, 3.0, None, Condition((rows,)))
    torch.testing.assert_close(guided, any_ + 3 * (own - any_), rtol=0, atol=1e-5)
    torch.testing.assert_close(guided[1], own[1], rtol=0, atol=1e-5)  # of "any": not guided
    assert [classes for _, classes in seen] == [[BLUE_RED, 0, 0, 0]]


def test_guidance_is_within_its_interval_only(pipe, monkeypatch):
    seen = record(monkeypatch, pipe.unet)
    pipe(labels={"hair": "blue"}, guidance_scale=2.0, guidance_interval=(0, 1), num_inference_steps=5)
    sizes = [len(classes) for _, classes in seen]
    assert sizes == sorted(sizes) and set(sizes) == {1, 2}


def test_a_guide_is_called_with_the_same_labels(make_pipe, monkeypatch):
    pipe = make_pipe(guide=True)
    asked = {"hair": ["blue", "blonde"], "eyes": ["red", "green"]}
    expected = reference(pipe.unet, pipe.scheduler, [BLUE_RED, BLONDE_GREEN], 2.0, pipe.guide_unet)
    seen, of_guide = record(monkeypatch, pipe.unet), record(monkeypatch, pipe.guide_unet)
    assert close(pipe(2, seeded(0, 1), labels=asked, guidance_scale=2.0, **STEPS).images, expected)
    assert [c for _, c in of_guide] == [c for _, c in seen] == [[BLUE_RED, BLONDE_GREEN]] * 3
    pipe(guidance_scale=2.0, **STEPS)  # "any" can be guided by a guide
    assert of_guide[-1][1] == [0]


def test_a_guide_serves_classes_without_labels(make_pipe):
    pipe = make_pipe(labels=None, guide=True)
    images = pipe(2, seeded(0, 1), class_labels=[3, 5], guidance_scale=2.0, **STEPS).images
    assert close(images, reference(pipe.unet, pipe.scheduler, [3, 5], 2.0, pipe.guide_unet))


def test_windows_are_seen_with_the_label_of_their_image(pipe, monkeypatch):
    sample, grid, t = torch.randn(2, 3, 16, 16, generator=seeded(0)[0]), coordinate_grid(16, 16), torch.tensor(500)
    rows = torch.tensor([BLUE_RED, BLONDE_GREEN])
    with torch.no_grad():
        own = pipe.unet(sample, t, rows).sample
        corner = pipe.unet(sample[..., :8, :8], t, rows).sample
        weak, count = pipe.predict_in_windows(sample, t, grid, 8, Condition((rows,)))
        guided = pipe.predict_guided(sample, t, grid, 2.0, 8, Condition((rows,)))
    torch.testing.assert_close(weak[..., :4, :4], corner[..., :4, :4], rtol=0, atol=1e-5)
    expected = torch.where(count > 1, weak + 2 * (own - weak), own)
    torch.testing.assert_close(guided, expected, rtol=0, atol=1e-5)
    seen = record(monkeypatch, pipe.unet)
    pipe(2, guidance_scale=2.0, guidance_window=8, num_inference_steps=1)  # without labels too
    assert [set(classes) for _, classes in seen] == [{0}, {0}]


def test_coordinates_of_each_image_go_with_each_of_its_classes(make_pipe):
    pipe = make_pipe(in_channels=5)
    full = coordinate_grid(32, 32)
    sample, t = torch.randn(2, 3, 16, 16, generator=seeded(0)[0]), torch.tensor([300, 700])
    grid = torch.cat([full[..., :16, :16], full[..., 8:24, 16:]])
    rows = torch.tensor([BLUE_RED, BLONDE_GREEN])
    with torch.no_grad():
        placed = torch.cat([sample, grid], dim=1)
        own, any_ = (pipe.unet(placed, t, classes).sample for classes in (rows, torch.zeros_like(rows)))
        guided = pipe.predict_guided(sample, t, grid, 2.0, None, Condition((rows,)))
    torch.testing.assert_close(guided, any_ + 2 * (own - any_), rtol=0, atol=1e-5)


def test_a_network_of_blocks_takes_labels(make_pipe):
    pipe = make_pipe(in_channels=12, out_channels=12, settings={"space_to_depth": 2})
    plain, guided = (
        pipe(1, seeded(0), labels={"hair": "blue"}, guidance_scale=scale, **STEPS).images for scale in (1.0, 2.0)
    )
    assert plain.shape == (1, 3, 32, 32) and not close(plain, guided)


def test_a_distilled_network_draws_by_labels(make_pipe):
    pipe = make_pipe(scheduler=distilled(noise_table(), 2))
    images = pipe(
        2, seeded(0, 1), labels={"hair": ["blue", "any"], "eyes": ["red", "any"]}, output_type="latent"
    ).images
    assert pipe.num_timesteps == 2
    assert close(images, reference(pipe.unet, pipe.scheduler, [BLUE_RED, 0], steps=2))


def test_a_teacher_is_guided_by_any(make_pipe, monkeypatch):
    pipe = make_pipe()
    scheduler = distilled(noise_table(), 4)
    teacher = Teacher(pipe.unet, scheduler, scale=2.0, labels=LABELS)
    state, sigma, rows = picture(0, 2), torch.tensor([1.0, 2.0]), torch.tensor([BLUE_RED, BLONDE_GREEN])
    sample, t = teacher.seen(state, sigma)
    with torch.no_grad():
        own, any_ = (pipe.unet(sample, t, classes).sample for classes in (rows, torch.zeros_like(rows)))
        expected = scheduler.bound(scheduler.pred_original_sample(any_ + 2 * (own - any_), t, sample))
        assert close(teacher.denoise(state, sigma, None, rows), expected)
    seen = record(monkeypatch, teacher.pipeline.unet)
    teacher.follow(state, torch.tensor([0, 3]), None, rows)
    assert [classes for _, classes in seen] == [[BLUE_RED, BLONDE_GREEN, 0, 0]] * 2 * teacher.parts
    with pytest.raises(UserError, match="cannot be guided so"):
        Teacher(pipe.unet, scheduler, scale=2.0)


# From images, between images, and step by step.


def test_variations_and_repainting_are_by_labels(pipe, monkeypatch):
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    for how in ({"strength": 0.5}, {"mask_image": mask}):
        red, blue = (
            pipe(1, seeded(0), image=picture(1), labels={"hair": hair}, num_inference_steps=4, output_type="pt", **how)
            for hair in ("dark red", "blue")
        )
        assert not close(red.images, blue.images)
    assert torch.equal(blue.images[..., :4, :], picture(1)[..., :4, :])
    seen = record(monkeypatch, pipe.unet)
    assert len(pipe(image=picture(1), labels={"hair": [0, 1, 2]}, num_inference_steps=4).images) == 3
    assert len(pipe(image=picture(1, 3), labels={"hair": 1}, num_inference_steps=4).images) == 3
    assert [classes for _, classes in seen] == [[1, 2, 3]] * 3 + [[2, 2, 2]] * 3
    with pytest.raises(ValueError, match="holds 2 values, but 3 are needed"):
        pipe(image=picture(1, 3), labels={"hair": [0, 1]})


def test_inversion_is_under_the_label_that_is_drawn(ddim, monkeypatch):
    image = picture(1)
    hair = {"hair": ["blue", "dark red"]}
    nearly = {"image": image, "inversion": True, "strength": 1e-6, "num_inference_steps": 6, "output_type": "pt"}
    both = ddim(2, seeded(0, 1), labels=hair, **nearly).images
    for drawn, one in zip(both, ("blue", "dark red"), strict=True):
        noise = ddim.invert(image, 6, labels={"hair": one})
        again = ddim(latents=noise, labels={"hair": one}, num_inference_steps=6, output_type="pt").images
        assert close(drawn[None], again)
    seen = record(monkeypatch, ddim.unet)
    ddim(2, labels={"hair": "blue"}, **nearly)
    assert {tuple(classes) for _, classes in seen} == {(2,), (2, 2)}  # one image of one label is inverted once
    with pytest.raises(ValueError, match="no value 'green'"):
        ddim.invert(image, labels={"hair": "green"})


def test_the_ends_of_an_interpolation_are_the_plain_draws(pipe, monkeypatch):
    ends = {"hair": "blue", "eyes": "red"}, {"hair": "blonde", "eyes": "green"}
    for scale in (1.0, 2.0):
        first, last = (
            pipe(1, seeded(seed), labels=labels, guidance_scale=scale, **STEPS).images
            for seed, labels in zip((3, 4), ends, strict=True)
        )
        frames = pipe.interpolate(
            5, seeded(3, 4), labels=ends[0], labels_end=ends[1], batch_size=2, guidance_scale=scale, **STEPS
        ).images
        assert close(frames[:1], first) and close(frames[-1:], last) and len(frames) == 5
    as_lists = {"hair": ["blue", "blonde"], "eyes": ["red", "green"]}
    for how in ({"labels": as_lists}, {"class_labels": [BLUE_RED, BLONDE_GREEN]}):
        assert close(pipe.interpolate(5, seeded(3, 4), guidance_scale=2.0, **how, **STEPS).images, frames)
    seen = record(monkeypatch, pipe.unet)
    pipe.interpolate(3, seeded(3, 4), labels=ends[0], labels_end=ends[0], num_inference_steps=1)
    pipe.interpolate(3, seeded(3, 4), labels=ends[0], labels_end={}, num_inference_steps=1)
    assert [classes for _, classes in seen] == [[BLUE_RED] * 3, [BLUE_RED] * 3 + [0] * 3]


def test_between_two_labels_predictions_are_mixed(pipe, make_pipe):
    sample, grid, t = torch.randn(2, 3, 16, 16, generator=seeded(0)[0]), coordinate_grid(16, 16), torch.tensor(500)
    rows, share = (torch.tensor([1, 1]), torch.tensor([2, 2])), torch.tensor([0.25, 1.0]).view(-1, 1, 1, 1)
    condition = Condition((torch.tensor([1, 2]),)).between([0.25, 1.0])
    assert all(torch.equal(a, b) for a, b in zip(condition.rows, rows, strict=True))
    assert torch.equal(condition.share, share)
    guided_pipe = make_pipe(guide=True)
    with torch.no_grad():
        mixed = []
        for network in (pipe.unet, guided_pipe.guide_unet):
            a, b = (network(sample, t, classes).sample for classes in rows)
            mixed.append((1 - share) * a + share * b)
        by_any = pipe.unet(sample, t, torch.zeros_like(rows[0])).sample
        plain = pipe.predict_guided(sample, t, grid, 1, None, condition)
        free = pipe.predict_guided(sample, t, grid, 2.0, None, condition)
        guided = guided_pipe.predict_guided(sample, t, grid, 2.0, None, condition)
        whole_window, _ = pipe.predict_in_windows(sample, t, grid, 16, condition)
    for got, expected in (
        (plain, mixed[0]),
        (free, by_any + 2 * (mixed[0] - by_any)),
        (guided, mixed[1] + 2 * (mixed[0] - mixed[1])),
        (whole_window, mixed[0]),
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_between_two_images_each_end_has_its_own_label(ddim):
    images, ends = picture(1, 2), {"labels": {"hair": "blue"}, "labels_end": {"hair": "dark red"}}
    frames = ddim.interpolate(3, image=images, num_inference_steps=6, output_type="pt", **ends).images
    torch.testing.assert_close(frames[[0, -1]], images, rtol=0, atol=1e-5)
    other = ddim.interpolate(3, image=images, num_inference_steps=6, output_type="pt", labels={"hair": "blue"}).images
    assert not close(frames[1], other[1])


def test_an_interpolation_refuses_what_a_call_refuses(pipe, make_pipe, monkeypatch):
    monkeypatch.setattr(pipe.unet, "forward", never)
    for how, sentence in (
        ({"labels": {"hair": "green"}}, "no value 'green'"),
        ({"labels": {"hair": "blue"}, "labels_end": {"nose": 1}}, "attribute 'nose'"),
        ({"labels_end": {"hair": "blue"}, "class_labels": 3}, "not both"),
        ({"labels": {"hair": [0, 1, 2]}}, "holds 3 values, but 2 are needed"),
        ({"guidance_scale": 2.0}, "Guidance needs labels or a guide"),
    ):
        with pytest.raises(ValueError, match=sentence):
            pipe.interpolate(3, seeded(0, 1), **how)
    with pytest.raises(ValueError, match="This model has no labels"):
        make_pipe(labels=None, num_class_embeds=None).interpolate(3, seeded(0, 1), labels_end={"hair": 0})


def test_trajectory_and_callback_are_of_the_guided_prediction(pipe):
    outputs = []

    def keep(pipe, step, t, tensors):
        outputs.append((tensors["model_output"], tensors["pred_original_sample"]))

    output = pipe(
        1, seeded(0), labels={"hair": "blue"}, guidance_scale=2.0, return_trajectory=True, callback_on_step_end=keep,
        callback_on_step_end_tensor_inputs=["model_output", "pred_original_sample"], **STEPS,
    )  # fmt: skip
    noise = torch.randn(1, 3, 16, 16, generator=seeded(0)[0])
    t = pipe.scheduler.timesteps[0]
    with torch.no_grad():
        own, any_ = (pipe.unet(noise, t, torch.tensor([row])).sample for row in (2, 0))
    torch.testing.assert_close(outputs[0][0], any_ + 2 * (own - any_), rtol=0, atol=1e-5)
    assert len(output.trajectory) == 3 and all(map(torch.equal, output.trajectory, (image for _, image in outputs)))


# Saving, loading, other backends.


def test_both_ways_of_loading_keep_the_labels_and_the_pixels(make_pipe, tmp_path, run_python):
    pipe = make_pipe(guide=True)
    pipe.save_pretrained(tmp_path / "model")
    assert list(json.loads((tmp_path / "model" / "model_index.json").read_text())["labels"]) == ["eyes", "hair"]
    how = {"labels": {"hair": ["blue", "any"], "eyes": "green"}, "guidance_scale": 2.0, **STEPS}
    before = pipe(2, seeded(0, 1), **how).images
    loaded = [
        AnimeDDPMPipeline.from_pretrained(tmp_path / "model"),
        load_pipeline(tmp_path / "model"),
        DiffusionPipeline.from_pretrained(tmp_path / "model", trust_remote_code=True),
        AnimeDDPMPipeline.from_pipe(pipe),
        AnimeDDPMPipeline(**pipe.components, **pipe.parameters),
    ]
    for again in loaded:
        again.set_progress_bar_config(disable=True)
        assert again.labels == pipe.labels
        assert torch.equal(again(2, seeded(0, 1), **how).images, before)
    program = """
import sys, torch
from diffusers import DiffusionPipeline
torch.set_num_threads(1)
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
images = pipe(2, generators, labels={"hair": ["blue", "any"], "eyes": "green"}, guidance_scale=2.0,
              num_inference_steps=3, output_type="latent").images
torch.save(images, sys.argv[2])
"""
    run_python(program, tmp_path / "model", tmp_path / "images.pt", package=False)
    assert torch.equal(torch.load(tmp_path / "images.pt"), before)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["hair"], "labels that are not lists of names"),
        ({"hair": "blue"}, "labels that are not lists of names"),
        ({"hair": []}, "labels that are not lists of names"),
        ({"hair": [{"a": 1}]}, "not a name of 1 to 100 characters"),
        ({"hair": ["x" * 101]}, "not a name of 1 to 100 characters"),
        ({"x" * 101: ["blue"]}, "not a name of 1 to 100 characters"),
        ({"hair": ["blue\x1b[2J"]}, "holds a control character"),
        ({"hair": [str(i) for i in range(4096)]}, "at most 4,096 are possible"),
        ({str(i): ["on"] for i in range(13)}, "at most 4,096 are possible"),
    ],
)
def test_labels_of_a_foreign_model_are_bounded(tmp_path, labels, sentence):
    (tmp_path / "model_index.json").write_text(json.dumps({"labels": labels}))
    with pytest.raises(ValueError, match=sentence):
        read_index(tmp_path)


@pytest.mark.parametrize("labels", [None, LABELS, {"hair": [str(i) for i in range(4095)]}], ids=["none", "two", "most"])
def test_labels_within_the_bounds_are_accepted(tmp_path, labels):
    (tmp_path / "model_index.json").write_text(json.dumps({"labels": labels}))
    assert read_index(tmp_path)["labels"] == labels


def test_foreign_labels_that_do_not_fit_the_network_are_one_sentence(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["labels"]["hair"].append("BLUE")
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="differ in case or spaces only"):
        load_pipeline(tmp_path)


def test_half_precision_takes_labels(pipe):
    images = pipe.to(torch.bfloat16)(labels={"hair": "blue"}, guidance_scale=2.0, **STEPS).images
    assert images.dtype == torch.float32 and images.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="offloading needs an accelerator")
def test_networks_that_are_offloaded_take_labels(make_pipe):
    pipe, how = make_pipe(guide=True), {"labels": {"hair": ["blue", "any"]}, "guidance_scale": 2.0, **STEPS}
    before = pipe(2, seeded(0, 1), **how).images
    pipe.enable_model_cpu_offload()
    assert close(pipe(2, seeded(0, 1), **how).images.cpu(), before)


def test_classes_are_where_the_networks_run(pipe, monkeypatch):
    monkeypatch.setattr(AnimeDDPMPipeline, "_execution_device", torch.device("meta"))  # as an offloaded one says
    assert pipe.prepare_condition({"hair": "blue"}, None, 2).rows[0].device.type == "meta"


def test_a_model_without_classes_is_called_without_them(make_pipe, monkeypatch):
    pipe = make_pipe(labels=None, num_class_embeds=None)
    assert pipe.prepare_condition(None, None, 3) is UNCONDITIONAL
    calls = []
    forward = pipe.unet.forward
    monkeypatch.setattr(pipe.unet, "forward", lambda *args, **kwargs: calls.append(kwargs) or forward(*args, **kwargs))
    pipe(num_inference_steps=1)
    assert calls == [{"return_dict": False}]
