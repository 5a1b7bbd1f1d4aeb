"""How is the classifier of attributes trained and calibrated?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .augmentation import FaceAugmentation
from .classifier import NOT_SURE, WIDTHS, AttributeClassifier, AttributeNetwork, Labels

Targets = Mapping[str, torch.Tensor]


@dataclass
class AttributeTraining:
    """Settings of a training.

    Attributes:
        images: how many images are seen, counted with repetition.
        ema_decay: decay of the average of weights, per step.
        tones: strength of the random changes of brightness, contrast, saturation and gamma.
        bfloat16: train under autocast, which is faster on processors that have it.
    """

    images: int = 250_000
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    label_smoothing: float = 0.05
    ema_decay: float = 0.995
    widths: tuple[int, ...] = WIDTHS
    tones: float = 1.0
    bfloat16: bool = False
    seed: int = 0


def train_attributes(
    images: torch.Tensor,
    targets: Targets,
    labels: Labels,
    settings: AttributeTraining,
    report: Callable[[int, float], None] | None = None,
    start: AttributeNetwork | None = None,
) -> AttributeClassifier:
    """Train a network on tagged faces.

    Args:
        images: `(N, 3, 64, 64)` uint8.
        targets: attribute -> `(N,)` int64, -1 where unknown.
        labels: attribute -> names of its values.
        report: called with the step and the loss after each step.
        start: a trained network to continue from, of the same labels; it is left as it is.

    Returns:
        The averaged weights, not yet calibrated.
    """
    torch.manual_seed(settings.seed)
    network = copy.deepcopy(start) if start else AttributeNetwork(labels, settings.widths)
    network = network.train().to(memory_format=torch.channels_last)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay), use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    steps = max(1, settings.images // settings.batch_size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_and_cosine(steps, settings.warmup))
    augment = FaceAugmentation(settings.seed, tones=settings.tones)
    batches = _batches(len(images), settings)
    for step in range(steps):
        rows = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
            logits = network(augment(images[rows]).contiguous(memory_format=torch.channels_last))
        loss = attribute_loss(logits, {name: values[rows] for name, values in targets.items()}, settings)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        average.update_parameters(network)
        if report:
            report(step, loss.item())
    averaged = cast(AttributeNetwork, average.module)  # a copy of the network
    return AttributeClassifier(averaged.to(memory_format=torch.contiguous_format), labels)


def attribute_loss(logits: Targets, targets: Targets, settings: AttributeTraining) -> torch.Tensor:
    """The sum over attributes of the cross-entropy, with label smoothing, over the images whose value is known."""
    losses = [
        functional.cross_entropy(
            logits[name].float(), targets[name], ignore_index=NOT_SURE, label_smoothing=settings.label_smoothing
        )
        for name in logits
        if (targets[name] != NOT_SURE).any()
    ]
    return torch.stack(losses).sum()


def _batches(count: int, settings: AttributeTraining):
    """Rows of batches, epoch after epoch without end, in a new order each time."""
    generator = torch.Generator().manual_seed(settings.seed)
    size = min(count, settings.batch_size)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from (rows for rows in order.split(size) if len(rows) == size)


def _warmup_and_cosine(steps: int, warmup: float) -> Callable[[int], float]:
    first = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        return min((step + 1) / first, 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))

    return factor


def calibrate(classifier: AttributeClassifier, images: torch.Tensor, targets: Targets) -> None:
    """Set the temperatures that minimise the negative log-likelihood on held-out faces (arXiv 1706.04599).

    Args:
        images: `(N, 3, H, W)`, not seen in training.
        targets: attribute -> `(N,)` int64.
    """
    classifier.temperatures = dict.fromkeys(classifier.labels, 1.0)
    candidates = torch.logspace(-1, 1, 201).tolist()
    for name, logits in classifier.log_probabilities(images).items():
        losses = [functional.cross_entropy(logits / value, targets[name]).item() for value in candidates]
        classifier.temperatures[name] = candidates[losses.index(min(losses))]


def set_thresholds(
    classifier: AttributeClassifier, images: torch.Tensor, targets: Targets, precision: Mapping[str, float]
) -> None:
    """Set the least probabilities above which the wanted share of held-out faces is right.

    Args:
        precision: attribute -> the share of right labels among the sure ones. If it cannot be reached, the threshold
            is the probability of the surest face.
    """
    for name, probabilities in classifier.predict(images).items():
        confidence, value = probabilities.max(dim=1)
        confidence, order = confidence.sort(descending=True)
        right = (value == targets[name])[order].double().cumsum(0) / torch.arange(1, len(order) + 1)
        reached = (right >= precision[name]).nonzero().flatten()
        classifier.thresholds[name] = confidence[reached[-1] if len(reached) else 0].item()
