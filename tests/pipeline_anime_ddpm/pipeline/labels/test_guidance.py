"""Guidance with labels: by any, by a guide, by windows."""

import pytest
import torch
from label_parts import BLONDE_GREEN, BLUE_RED, LABELS, STEPS, close, noise_table, picture, record, reference, seeded

from pipeline_anime_ddpm import coordinate_grid
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.pipeline_anime_ddpm import Condition
from pipeline_anime_ddpm.training.distillation import Teacher, distilled


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


def test_guide_is_called_with_the_same_labels(make_pipe, monkeypatch):
    pipe = make_pipe(guide=True)
    asked = {"hair": ["blue", "blonde"], "eyes": ["red", "green"]}
    expected = reference(pipe.unet, pipe.scheduler, [BLUE_RED, BLONDE_GREEN], 2.0, pipe.guide_unet)
    seen, of_guide = record(monkeypatch, pipe.unet), record(monkeypatch, pipe.guide_unet)
    assert close(pipe(2, seeded(0, 1), labels=asked, guidance_scale=2.0, **STEPS).images, expected)
    assert [c for _, c in of_guide] == [c for _, c in seen] == [[BLUE_RED, BLONDE_GREEN]] * 3
    pipe(guidance_scale=2.0, **STEPS)  # "any" can be guided by a guide
    assert of_guide[-1][1] == [0]


def test_guide_serves_classes_without_labels(make_pipe):
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


def test_network_of_blocks_takes_labels(make_pipe):
    pipe = make_pipe(in_channels=12, out_channels=12, settings={"space_to_depth": 2})
    plain, guided = (
        pipe(1, seeded(0), labels={"hair": "blue"}, guidance_scale=scale, **STEPS).images for scale in (1.0, 2.0)
    )
    assert plain.shape == (1, 3, 32, 32) and not close(plain, guided)


def test_distilled_network_generates_by_labels(make_pipe):
    pipe = make_pipe(scheduler=distilled(noise_table(), 2))
    images = pipe(
        2, seeded(0, 1), labels={"hair": ["blue", "any"], "eyes": ["red", "any"]}, output_type="latent"
    ).images
    assert pipe.num_timesteps == 2
    assert close(images, reference(pipe.unet, pipe.scheduler, [BLUE_RED, 0], steps=2))


def test_teacher_is_guided_by_any(make_pipe, monkeypatch):
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
    with pytest.raises(UserError, match="cannot use this guidance"):
        Teacher(pipe.unet, scheduler, scale=2.0)
