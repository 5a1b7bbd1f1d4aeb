# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Images of any form that diffusers' pipelines take, as tensors."""

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from ..values import as_list, refuse
from .colours import to_mode
from .opening import upright

PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def height_width(image: Any) -> tuple[int, ...]:
    """Of a PIL image, array `(…, H, W, C)` or tensor `(…, C, H, W)`; empty for anything else."""
    if isinstance(image, Image.Image):
        return upright(image).size[::-1]
    if isinstance(image, np.ndarray):
        return image.shape[-3:-1]
    return tuple(image.shape[-2:]) if isinstance(image, torch.Tensor) else ()


def _channels_first(image: Any, name: str, shape: tuple[int, int, int]) -> Any:
    """An image, or a batch, as a tensor `(..., C, H, W)` with its values as they are; anything else as it is.

    A PIL image of another size is cropped to the proportions of `shape` and resized. One channel may be left out.
    """
    channels, height, width = shape
    image = upright(image)
    if isinstance(image, Image.Image):
        no_form = f"`{name}`: a PIL image has no {channels} channels; give a tensor `(B, {channels}, H, W)`."
        refuse(channels not in PIL_MODES, no_form)
        image = ImageOps.fit(to_mode(image, PIL_MODES[channels], name), (width, height), Image.Resampling.LANCZOS)
        image = np.asarray(image).reshape(height, width, channels)
    if isinstance(image, np.ndarray) and image.dtype.kind in "buif":
        image = image[..., None] if channels == 1 and image.shape[-1:] != (1,) else image
        image = torch.from_numpy((np.moveaxis(image, -1, -3) if image.ndim > 2 else image).copy())
    is_flat = isinstance(image, torch.Tensor) and channels == 1 and image.shape[-3:-2] != (1,)
    return image.unsqueeze(-3) if is_flat else image


def to_tensor(images: Any, name: str, shape: tuple[int, int, int]) -> torch.Tensor:
    """Images of any form that diffusers' pipelines give and take, as `(B, *shape)` float32 in [0, 1]."""
    kinds = {Image.Image if isinstance(image, Image.Image) else type(image) for image in as_list(images)}
    images = [_channels_first(image, name, shape) for image in as_list(images)]
    refuse(
        len(kinds) != 1 or not all(isinstance(image, torch.Tensor) for image in images),
        f"`{name}` must be a PIL image, an array of numbers `(H, W, C)`, a tensor `(C, H, W)`, or a list or batch of "
        "one of these kinds.",
    )
    wrong = [tuple(image.shape) for image in images if image.ndim not in (3, 4) or image.shape[-3:] != shape]
    refuse(
        bool(wrong),
        f"`{name}` must have {shape[0]} channels and the model's size of {shape[1]} x {shape[2]} pixels; got the shape "
        f"{(*wrong, None)[0]} (channels first). PIL images of other sizes are resized.",
    )
    batch = torch.cat([image.reshape(-1, *shape) for image in images])
    refuse(len(batch) == 0, f"`{name}` holds no image: give one or more.")
    batch = batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()
    in_range = bool(((batch >= 0) & (batch <= 1)).all())
    refuse(not in_range, f"`{name}` must have values in [0, 1], or 0 to 255 as uint8; halve and add 0.5 to [-1, 1].")
    return batch
