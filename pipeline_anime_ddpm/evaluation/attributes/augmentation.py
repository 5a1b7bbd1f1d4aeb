"""How are tagged faces varied so that a classifier of colours also works on other art? Never by hue."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

NEAR_WHITE = 0.96


class FaceAugmentation:
    """Random changes of a batch that keep the colours of hair and eyes recognisable.

    Args:
        seed: of the changes.
        jpeg_share, background_share, erasing_share: shares of images that get each of these.
        tones: strength of the changes of brightness, contrast, saturation and gamma.
    """

    def __init__(
        self,
        seed: int = 0,
        jpeg_share: float = 0.25,
        background_share: float = 0.6,
        erasing_share: float = 0.3,
        tones: float = 1.0,
    ):
        self.generator = torch.Generator().manual_seed(seed)
        self.jpeg_share, self.background_share, self.erasing_share = jpeg_share, background_share, erasing_share
        self.tones = tones

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, 3, H, W)` floats in [-1, 1] of as many uint8 images."""
        changed = images.float() / 255
        changed = self._replace_white_background(changed)
        changed = self._move(changed)
        changed = self._change_tones(changed)
        changed = self._blur_or_sharpen(changed)
        changed = self._erase(changed.clamp(0, 1))
        changed = self._compress(changed)
        changed = changed + self._uniform(len(images), 0, 0.04) * self._normal(changed.shape)
        return changed.clamp(0, 1) * 2 - 1

    def _uniform(self, count: int, low: float, high: float, channels: int = 1) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, channels, 1, 1, generator=self.generator)

    def _normal(self, shape: Sequence[int]) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator)

    def _chosen(self, count: int, share: float) -> torch.Tensor:
        return torch.rand(count, 1, 1, 1, generator=self.generator) < share

    def _replace_white_background(self, images: torch.Tensor) -> torch.Tensor:
        """Fill the white that touches the border with a greyish gradient, in a share of the images."""
        count, (height, width) = len(images), images.shape[-2:]
        mask = white_background(images) * self._chosen(count, self.background_share)
        corners = (
            self._uniform(count, 0, 1) + self._uniform(count, -0.2, 0.2, 3) + 0.15 * self._normal((count, 3, 2, 2))
        )
        fill = functional.interpolate(corners.clamp(0, 1), (height, width), mode="bilinear", align_corners=True)
        return images * (1 - mask) + fill * mask

    def _move(self, images: torch.Tensor) -> torch.Tensor:
        """Flip, rotate, scale and shift."""
        count = len(images)
        angle = self._uniform(count, -1, 1).flatten() * math.radians(15)
        scale = self._uniform(count, 0.75, 1.1).flatten()
        flip = torch.where(self._chosen(count, 0.5).flatten(), -1.0, 1.0)
        shift = self._uniform(count, -0.12, 0.12, 2).flatten(1)
        cosine, sine = scale * angle.cos(), scale * angle.sin()
        rows = torch.stack([cosine * flip, -sine, shift[:, 0], sine * flip, cosine, shift[:, 1]], dim=1)
        grid = functional.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)

    def _change_tones(self, images: torch.Tensor) -> torch.Tensor:
        """Change brightness, contrast, saturation and gamma."""
        count, strength = len(images), 0.3 * self.tones
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = mean + (images - mean) * self._uniform(count, -strength, strength).exp()
        grey = images.mean(dim=1, keepdim=True)
        images = grey + (images - grey) * self._uniform(count, -strength, strength).exp()
        images = (images + self._uniform(count, -strength / 4, strength / 4)).clamp(1e-3, 1)
        return images ** self._uniform(count, -strength, strength).exp()

    def _blur_or_sharpen(self, images: torch.Tensor) -> torch.Tensor:
        blurred = _smooth(_smooth(_smooth(_smooth(images, 2), 3), 2), 3)
        return images + (blurred - images) * self._uniform(len(images), -1.0, 0.9)

    def _erase(self, images: torch.Tensor) -> torch.Tensor:
        """Cover a rectangle of up to 3/8 of the side with grey."""
        count, (height, width) = len(images), images.shape[-2:]
        y, x = torch.arange(height).view(1, 1, -1, 1) / height, torch.arange(width).view(1, 1, 1, -1) / width
        middle, half = self._uniform(count, 0, 1, 2), self._uniform(count, 0.06, 0.19, 2)
        inside = ((y - middle[:, :1]).abs() < half[:, :1]) & ((x - middle[:, 1:]).abs() < half[:, 1:])
        return torch.where(inside & self._chosen(count, self.erasing_share), self._uniform(count, 0, 1), images)

    def _compress(self, images: torch.Tensor) -> torch.Tensor:
        """Pass a share of the images through JPEG."""
        chosen = self._chosen(len(images), self.jpeg_share).flatten().nonzero().flatten().tolist()
        qualities = torch.randint(35, 96, (len(images),), generator=self.generator).tolist()
        for index in chosen:
            images[index] = _jpeg(images[index], qualities[index])
        return images


def white_background(images: torch.Tensor, steps: int = 24) -> torch.Tensor:
    """`(B, 1, H, W)` mask of near-white regions that touch the border, of `(B, 3, H, W)` images in [0, 1]."""
    white = functional.avg_pool2d((images.amin(dim=1, keepdim=True) > NEAR_WHITE).float(), 2) > 0.5
    border = torch.ones_like(white)
    border[..., 1:-1, 1:-1] = False
    reached = white & border
    for _ in range(steps):
        grown = reached.clone()
        grown[..., 1:, :] |= reached[..., :-1, :]
        grown[..., :-1, :] |= reached[..., 1:, :]
        grown[..., 1:] |= reached[..., :-1]
        grown[..., :-1] |= reached[..., 1:]
        reached = grown & white
    return functional.interpolate(reached.float(), images.shape[-2:], mode="bilinear", align_corners=False)


def _smooth(images: torch.Tensor, axis: int) -> torch.Tensor:
    """Filter with (1, 2, 1) / 4 along an axis; the borders stay. Slices are faster than a depthwise convolution."""
    length = images.shape[axis] - 2
    smooth = images.clone()
    inner = images.narrow(axis, 0, length) + images.narrow(axis, 2, length)
    smooth.narrow(axis, 1, length).mul_(0.5).add_(inner, alpha=0.25)
    return smooth


def _jpeg(image: torch.Tensor, quality: int) -> torch.Tensor:
    file = io.BytesIO()
    Image.fromarray((image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()).save(
        file, "JPEG", quality=quality
    )
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255
