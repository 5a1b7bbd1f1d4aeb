"""A classifier that has learned nothing."""

import pytest
import torch

from pipeline_anime_ddpm.evaluation.attributes.classifier import AttributeClassifier, AttributeNetwork

LABELS = {"eyes": ["blue", "green"], "hair": ["red", "blue", "white"]}


@pytest.fixture
def untrained():
    torch.manual_seed(0)
    return AttributeClassifier(AttributeNetwork(LABELS, (4, 4, 8)), LABELS)
