"""Which hair and eye colours do faces have? A small classifier that measures labelled models and labels data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from ...common.errors import UserError, first_line

SIDE = 64
WEIGHTS, CONFIG = "model.safetensors", "config.json"
WIDTHS = (32, 64, 128)
NOT_SURE = -1  # `datasets.ClassLabel` uses the same number for a missing label

Labels = Mapping[str, list[str]]
Images = torch.Tensor | np.ndarray


class AttributeNetwork(nn.Module):
    """A residual CNN with one attention-pooled linear head for each attribute.

    Attention pooling weighs the positions of the last feature map separately for each attribute, since eyes cover
    only a few of them.

    Args:
        labels: attribute -> names of its values.
        widths: channels at 1/2, 1/4 and 1/8 of the resolution.
    """

    def __init__(self, labels: Labels, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        self.attributes = sorted(labels)
        layers: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(zip((3, *widths[:-1]), widths, strict=True)):
            layers.append(_convolution(inputs, outputs, stride=2))
            if number:
                layers.append(_Residual(outputs))
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.1)
        self.attention = nn.Conv2d(widths[-1], len(self.attributes), 1)
        self.heads = nn.ModuleDict({name: nn.Linear(widths[-1], len(labels[name])) for name in self.attributes})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits `(B, n)` of each attribute, of `(B, 3, H, W)` images in [-1, 1]."""
        features = self.features(images)
        weights = self.attention(features).flatten(2).softmax(dim=2)
        pooled = self.dropout(torch.einsum("bkp,bcp->kbc", weights, features.flatten(2)))
        return {name: self.heads[name](part) for name, part in zip(self.attributes, pooled, strict=True)}


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(_convolution(channels, channels), *_convolution(channels, channels)[:2])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.relu(inputs + self.layers(inputs))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class AttributeClassifier:
    """Calibrated probabilities of the attributes of faces.

    Args:
        network: trained; it is switched to evaluation.
        labels: attribute -> names of its values.
        temperatures: attribute -> what its logits are divided by (Guo et al. 2017, arXiv 1706.04599); 1 by default.
        thresholds: attribute -> the least probability at which `label` is sure; 0 by default.
    """

    def __init__(
        self,
        network: AttributeNetwork,
        labels: Labels,
        temperatures: Mapping[str, float] | None = None,
        thresholds: Mapping[str, float] | None = None,
    ):
        self.network = network.eval()
        self.labels = {name: list(labels[name]) for name in sorted(labels)}
        self.temperatures = dict.fromkeys(self.labels, 1.0) | dict(temperatures or {})
        self.thresholds = dict.fromkeys(self.labels, 0.0) | dict(thresholds or {})

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str = "cpu") -> AttributeClassifier:
        """Load a classifier that `save_pretrained` wrote.

        Raises:
            UserError: if a file is missing or damaged, or if the weights do not fit the labels.
        """
        try:
            config = json.loads((Path(folder) / CONFIG).read_text())
            network = AttributeNetwork(config["labels"], tuple(config["widths"]))
            state = load_file(Path(folder) / WEIGHTS)
            network.load_state_dict({name: value.float() for name, value in state.items()})
        except Exception as error:  # safetensors raises errors of its own
            raise UserError(
                f"The attribute classifier in {folder} cannot be loaded ({first_line(error)}); "
                "give a folder that `benchmarks/attributes.py train` wrote."
            ) from error
        return cls(network.to(device), config["labels"], config["temperatures"], config["thresholds"])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the weights (convolutions and heads in float16) and the configuration to a folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        state = {
            name: (value.half() if value.ndim > 1 else value.float()).cpu().contiguous()
            for name, value in self.network.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        save_file(state, Path(folder) / WEIGHTS)
        widths = [layer[0].out_channels for layer in self.network.features if isinstance(layer, nn.Sequential)]
        config = {"labels": self.labels, "widths": widths}
        config |= {"temperatures": self.temperatures, "thresholds": self.thresholds}
        (Path(folder) / CONFIG).write_text(json.dumps(config, indent=1) + "\n")

    @torch.no_grad()
    def log_probabilities(self, images: Images, batch_size: int = 250) -> dict[str, torch.Tensor]:
        """Calibrated log-probabilities of each attribute's values.

        Args:
            images: `(B, 3, H, W)` uint8, or floats in [-1, 1]; other sizes than 64 x 64 are resized.
            batch_size: images that pass the network together.

        Returns:
            attribute -> `(B, n)` float32 on the CPU.

        Raises:
            TypeError: if the images are integers other than uint8.
            ValueError: if the images are not `(B, 3, H, W)`.
        """
        images = torch.as_tensor(images)
        _check_images(images)
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in self.labels}
        device = next(self.network.parameters()).device
        for batch in images.split(batch_size):
            for name, logits in self.network(prepare_images(batch.to(device))).items():
                parts[name].append(functional.log_softmax(logits.float() / self.temperatures[name], dim=1).cpu())
        empty = {name: torch.empty(0, len(values)) for name, values in self.labels.items()}
        return {name: torch.cat(found) if found else empty[name] for name, found in parts.items()}

    def predict(self, images: Images, batch_size: int = 250) -> dict[str, torch.Tensor]:
        """Calibrated probabilities, attribute -> `(B, n)`; the arguments are those of `log_probabilities`."""
        return {name: value.exp() for name, value in self.log_probabilities(images, batch_size).items()}

    def label(
        self, images: Images, sure: Mapping[str, float] | float | None = None, batch_size: int = 250
    ) -> dict[str, torch.Tensor]:
        """The most probable value of each attribute, where the classifier is sure of it.

        Args:
            images: as in `log_probabilities`.
            sure: the least probability, for all attributes or for each; None takes the classifier's own thresholds.

        Returns:
            attribute -> `(B,)` int64, -1 where the probability is below the threshold.
        """
        least = (
            dict.fromkeys(self.labels, sure) if isinstance(sure, (int, float)) else self.thresholds | dict(sure or {})
        )
        found = {}
        for name, probabilities in self.predict(images, batch_size).items():
            confidence, value = probabilities.max(dim=1)
            found[name] = torch.where(confidence >= least[name], value, NOT_SURE)
        return found

    def accuracy(self, images: Images, asked: Mapping[str, torch.Tensor | list[int]]) -> dict[str, float]:
        """Share of images whose most probable value is the one asked for.

        Args:
            images: `(B, 3, H, W)`, as in `log_probabilities`.
            asked: attribute -> `(B,)` indices of values; images with -1 are left out.

        Returns:
            attribute -> share in [0, 1]; NaN if no image has a value to compare with.

        Raises:
            ValueError: if an attribute is unknown, or if its length is not that of the images.
        """
        predicted = self.label(images, sure=0.0)
        shares = {}
        for name, values in asked.items():
            wanted = torch.as_tensor(values)
            if name not in predicted or wanted.shape != predicted[name].shape:
                raise ValueError(
                    f"`asked` must map {' or '.join(self.labels)} to {len(images)} values; "
                    f"{name!r} has the shape {tuple(wanted.shape)}."
                )
            known = wanted != NOT_SURE
            shares[name] = (predicted[name] == wanted)[known].float().mean().item()
        return shares


def prepare_images(images: torch.Tensor) -> torch.Tensor:
    """`(B, 3, 64, 64)` float32 in [-1, 1] of `(B, 3, H, W)` uint8 or floats in [-1, 1]."""
    images = images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images.float()
    if images.shape[-2:] != (SIDE, SIDE):
        images = functional.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return images.clamp(-1, 1)


def _check_images(images: torch.Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"Images must have the shape (B, 3, H, W); these have {tuple(images.shape)}.")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"Images must be uint8, or floats in [-1, 1]; these are {images.dtype}.")
