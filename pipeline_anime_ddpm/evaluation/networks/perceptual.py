"""LPIPS (arXiv:1801.03924) as a squared Euclidean distance between embeddings, which makes an exact search affordable.

LPIPS adds up, over layers and positions, the weighted squared difference of unit-length features (equation 1). With the
square roots of the weights, and of one over the number of positions, multiplied into the features, the sum is
`|embed(x) - embed(y)|^2`: the nearest of ten thousand images is one matrix product, and the mean over all pairs follows
from the mean embedding.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lpips
import numpy as np
import torch
from torch import nn

from ...common.errors import UserError, first_line
from ..metrics.digests import full_precision, state_digest
from ..settings import DISTANCES
from .st_lpips import ShiftTolerantFeatures, find_weights

LEAST_SIDE = 32  # below it the networks run out of pixels
BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}


class PerceptualDistance:
    """A distance between images of one size that is a squared Euclidean distance of embeddings.

    Args:
        key: one of `DISTANCES`.
        digest: of the weights.
        features: from `(B, 3, H, W)` float32 in [-1, 1] to a list of feature maps `(B, C, h, w)`.
        weights: one `(C,)` for each of these maps, not negative; None leaves the maps as they are, and takes no
            positions' mean of unit-length features but of the values themselves.
    """

    resize = "none"  # images are compared at their own size

    def __init__(
        self,
        key: str,
        digest: str,
        features: Callable[[torch.Tensor], list[torch.Tensor]],
        weights: list[torch.Tensor] | None,
        device: torch.device | str = "cpu",
    ):
        self.key, self.name, self.digest, self.device = key, DISTANCES[key], digest, torch.device(device)
        self._features = features
        self._roots = None if weights is None else [w.to(self.device).sqrt().view(1, -1, 1, 1) for w in weights]

    @full_precision()
    @torch.no_grad()
    def embed(self, images: np.ndarray) -> torch.Tensor:
        """`(B, D)` float32 of uint8 `images` `(B, 3, H, W)`: `|embed(x) - embed(y)|^2` is the distance of x and y."""
        pixels = torch.from_numpy(images.copy()).to(self.device).float().div_(127.5).sub_(1)
        maps = self._features(pixels)
        if self._roots is not None:
            maps = [lpips.normalize_tensor(m) * root for m, root in zip(maps, self._roots, strict=True)]
        return torch.cat([(m / (m.shape[2] * m.shape[3]) ** 0.5).flatten(1) for m in maps], dim=1)

    def batches(self, images: np.ndarray, size: int) -> Iterator[torch.Tensor]:
        """Embeddings of all `images`, `size` at a time."""
        for start in range(0, len(images), size):
            yield self.embed(images[start : start + size])

    @property
    def facts(self) -> dict[str, Any]:
        """Facts to report with each number."""
        return {"name": self.name, "weights": self.digest}

    def check_size(self, side: int) -> None:
        """Raise a UserError for images that are too small for the network."""
        if self.key != "pixels" and side < LEAST_SIDE:
            raise UserError(
                f"{self.name} needs images of at least {LEAST_SIDE} pixels, but these have {side}; omit "
                "lpips from --metrics."
            )


def load_distance(key: str, weights: str | None = None, device: torch.device | str = "cpu") -> PerceptualDistance:
    """The distance `key`, one of `DISTANCES`, with its published weights.

    Args:
        weights: file of the backbone, instead of a download (`alex`, `vgg`: torchvision's state dict) or of the
            installed package (`st-alex`, `st-vgg`: its own file).

    Raises:
        UserError: if the weights are not there and cannot be fetched, or are of another network.
    """
    if key == "pixels":
        return PerceptualDistance(key, "none", lambda pixels: [pixels / (2 * 3**0.5)], None, device)
    network: Any = _shift_tolerant(key, weights) if key.startswith("st-") else _published(key, weights)
    lins = [lin.flatten() for lin in network.lins]
    if min(lin.min() for lin in lins) < 0:
        raise UserError(f"The weights of {DISTANCES[key]} are not those of LPIPS: some are negative.")
    digest = state_digest(network.state_dict() | {f"lin{i}": lin for i, lin in enumerate(lins)})
    network = network.to(device).eval()
    shift, scale = network.shift, network.scale
    distance = PerceptualDistance(key, digest, lambda pixels: network((pixels - shift) / scale), lins, device)
    try:
        works = bool(distance.embed(np.zeros((1, 3, 64, 64), np.uint8)).isfinite().all())
    except (KeyError, AttributeError, RuntimeError):  # layers that are missing, or of another size
        works = False
    if not works:
        raise UserError(f"--lpips_weights {weights} does not hold the network of {DISTANCES[key]}.")
    return distance


class _PublishedFeatures(nn.Module):
    """The feature maps of the `lpips` package."""

    def __init__(self, model: lpips.LPIPS):
        super().__init__()
        self.backbone = model.net
        self.register_buffer("shift", model.scaling_layer.shift)
        self.register_buffer("scale", model.scaling_layer.scale)
        self.lins = [lin.model[-1].weight.detach() for lin in model.lins]

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        return list(self.backbone(pixels))


def _published(key: str, weights: str | None) -> nn.Module:
    """`lpips` has the weights of its own layers; those of the backbone are fetched by torchvision, or read here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torchvision, about how `lpips` calls it
            model = lpips.LPIPS(net=key, pnet_rand=weights is not None, verbose=False)
    except OSError as error:
        raise UserError(
            f"The weights of {DISTANCES[key]} cannot be fetched ({first_line(error)}); give torchvision's "
            f"{BACKBONES[key]} as --lpips_weights, or --lpips st-alex, whose weights come in a package "
            "(`pip install stlpips-pytorch`)."
        ) from error
    if weights is not None:
        state = read_state(weights, "--lpips_weights")
        slices = dict(model.net.state_dict())
        named = {name: f"features.{name.partition('.')[2]}" for name in slices}
        if not all(source in state and state[source].shape == slices[name].shape for name, source in named.items()):
            raise UserError(
                f"--lpips_weights {weights} does not hold the network of {DISTANCES[key]} ({BACKBONES[key]})."
            )
        model.net.load_state_dict({name: state[source] for name, source in named.items()})
    return _PublishedFeatures(model)


def _shift_tolerant(key: str, weights: str | None) -> nn.Module:
    net = key.removeprefix("st-")
    path = Path(weights) if weights is not None else find_weights(net)
    try:
        return ShiftTolerantFeatures(net, read_state(path, "--lpips_weights"))
    except (KeyError, ValueError) as error:
        raise UserError(f"--lpips_weights {path} does not hold the network of {DISTANCES[key]}.") from error


@contextlib.contextmanager
def weights_only_loading() -> Iterator[None]:
    """Make `torch.load` read tensors only, also when a library calls it: by an environment variable of torch."""
    switch = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[switch]
        else:
            os.environ[switch] = before


def read_state(path: str | Path, flag: str) -> dict[str, torch.Tensor]:
    """The tensors of a `.pth` file, without running anything that it may hold.

    Raises:
        UserError: if it cannot be read, or holds anything but tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{flag} {path} cannot be read: it holds more than tensors, or is damaged.") from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{flag} {path} cannot be read as a file of weights ({first_line(error)}).") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{flag} {path} holds more than tensors; give a plain state dict.")
    return state
