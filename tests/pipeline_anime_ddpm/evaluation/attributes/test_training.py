"""The loss, the temperature and the thresholds of the classifier."""

import pytest
import torch

from pipeline_anime_ddpm.evaluation.attributes.training import (
    AttributeTraining,
    attribute_loss,
    calibrate,
    set_thresholds,
)


def test_unknown_values_do_not_count_in_the_loss():
    logits = {"hair": torch.randn(4, 3), "eyes": torch.randn(4, 2)}
    hair = torch.tensor([0, 2, -1, -1])
    loss = attribute_loss(logits, {"hair": hair, "eyes": torch.full((4,), -1)}, AttributeTraining(label_smoothing=0))
    expected = -logits["hair"].log_softmax(1)[[0, 1], [0, 2]].mean()
    torch.testing.assert_close(loss, expected)


def test_calibration_finds_the_temperature(untrained, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 3, generator=generator)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator).flatten()
    monkeypatch.setattr(untrained, "log_probabilities", lambda images: {"hair": (3 * logits).log_softmax(1)})
    calibrate(untrained, torch.empty(0), {"hair": targets})
    assert untrained.temperatures["hair"] == pytest.approx(3, rel=0.1)


def test_thresholds_reach_the_wanted_precision(untrained, monkeypatch):
    confidence = torch.tensor([0.95, 0.9, 0.8, 0.7, 0.6])
    probabilities = torch.stack([confidence, 1 - confidence], dim=1)
    monkeypatch.setattr(untrained, "predict", lambda images: {"eyes": probabilities})
    targets = {"eyes": torch.tensor([0, 0, 0, 1, 1])}
    for precision, expected in [(1.0, 0.8), (0.75, 0.7), (0.5, 0.6)]:
        set_thresholds(untrained, torch.empty(0), targets, {"eyes": precision})
        assert untrained.thresholds["eyes"] == pytest.approx(expected)
