"""The peak memory of steps of any size, and the largest batch that fits."""

import dataclasses
import functools

import pytest
from plan_parts import settings

from pipeline_anime_ddpm.planning.report import (
    PeakCurve,
    build_dry_run,
    fake_model,
    largest_batch,
    step_shapes,
)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"gradient_accumulation_steps": 2, "mixed_precision": "fp16"},
        {"patch_sizes": "8,32", "gradient_checkpointing": "selective"},
        {"patch_sizes": "8,32", "patch_mode": "constant_pixels"},
    ],
)
def test_largest_batch_fits_and_one_more_does_not(folder, flags):
    config = settings(folder, **flags)
    unet, patches = fake_model(config)
    dry_run = build_dry_run(config, unet, config.gradient_checkpointing)
    for shape in step_shapes(config, unet, patches):

        @functools.cache
        def peak(batch, shape=shape):
            count, most = shape.images(batch)
            return dry_run.step(shape.side, most, count).peak_bytes

        memory = peak(11) + 1000
        batch = largest_batch(shape, PeakCurve(dry_run, shape.side).peak, memory)
        assert batch >= 11
        assert peak(batch) <= memory < peak(batch + 1)


def test_single_images_are_measured(folder, monkeypatch):
    config = settings(folder)
    unet, _ = fake_model(config)
    dry_run = build_dry_run(config, unet, None)
    (shape,) = step_shapes(config, unet, None)
    one = dry_run.step(32, 1).peak_bytes
    peak = PeakCurve(dry_run, 32).peak
    assert largest_batch(shape, peak, one) == 1
    assert largest_batch(shape, peak, one - 1) == 0
    stock = dry_run.pass_cost

    def larger(side, images, accumulating=False):  # as tensors can be that need no copy, or one more, if there is one
        cost = stock(side, images, accumulating)
        return dataclasses.replace(cost, course=cost.course + 1_000_000 * (images == 1))

    monkeypatch.setattr(dry_run, "pass_cost", larger)
    assert PeakCurve(dry_run, 32).peak(1, 1) == dry_run.step(32, 1).peak_bytes == one + 1_000_000


def test_curve_that_does_not_hold_is_measured_instead(folder, monkeypatch):
    config = settings(folder)
    unet, _ = fake_model(config)
    dry_run = build_dry_run(config, unet, None)
    stock = dry_run.pass_cost

    def bent(side, images, accumulating=False):
        cost = stock(side, images, accumulating)
        return dataclasses.replace(cost, course=cost.course + 1_000_000 * max(0, images - 4))

    monkeypatch.setattr(dry_run, "pass_cost", bent)
    curve = PeakCurve(dry_run, 32)
    curve.verify(4)
    assert not curve.measured
    curve.verify(9)
    assert curve.measured
    assert curve.peak(7, 7) == dry_run.step(32, 7).peak_bytes
