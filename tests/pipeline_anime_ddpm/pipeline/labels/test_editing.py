"""Labels in variations, repainting, inversion and interpolation."""

import pytest
import torch
from label_parts import BLONDE_GREEN, BLUE_RED, STEPS, close, never, picture, record, seeded

from pipeline_anime_ddpm import coordinate_grid
from pipeline_anime_ddpm.pipeline_anime_ddpm import Condition


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


def test_ends_of_an_interpolation_are_the_plain_draws(pipe, monkeypatch):
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


def test_interpolation_refuses_what_a_call_refuses(pipe, make_pipe, monkeypatch):
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
