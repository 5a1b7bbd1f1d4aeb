# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""The mode of a PIL image: in sRGB, transparency on white, more than 8 bits scaled."""

import functools
import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from ..values import refuse


@functools.lru_cache(64)
def srgb_transform(profile: bytes) -> tuple[str, Any] | None:
    """The mode that an ICC profile describes, and the transform to sRGB; None if it is sRGB to the eye, or broken."""
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[given.profile.xcolor_space.strip()]
        transform = ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")
        colours = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
        image = Image.fromarray(colours[..., 0] if mode == "L" else colours[..., : len(mode)].copy(), mode)
        seen = ImageCms.applyTransform(image, transform)
        moved = np.abs(np.asarray(seen).astype(int) - np.asarray(image.convert("RGB"))).max()
    except Exception:  # the pixels are read without it
        return None
    return None if moved <= 2 else (mode, transform)


def _in_srgb(image: Image.Image) -> Image.Image:
    """The colours that an image's ICC profile means; without one, as it is."""
    described = srgb_transform(image.info.get("icc_profile") or b"") if image.info.get("icc_profile") else None
    if described is None:
        return image
    mode, transform = described
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.has_transparency_data and image.mode in ("1", "L", "RGB"):
        image = image.convert("RGBA" if image.mode == "RGB" else "LA")
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    colours = image.convert(image.mode[:-1]) if alpha else image
    if colours.mode in ("1", "L") and mode == "RGB":
        colours = colours.convert("RGB")
    if colours.mode != mode:
        return image
    seen = ImageCms.applyTransform(colours, transform)
    if alpha:
        seen.putalpha(alpha)
    seen.info.pop("icc_profile", None)
    return seen


def _in_bytes(image: Image.Image, is_mask: bool) -> Image.Image:
    """An image of floats or of 16 or more bits as `L`, or `LA`: scaled, unless it holds bytes."""
    grey, clear = np.nan_to_num(np.asarray(image)), image.info.get("transparency")
    opaque = Image.fromarray(np.where(grey == clear, 0, 255).astype(np.uint8)) if clear is not None else None
    if image.mode == "F":
        grey = grey * (255 if grey.max() <= 1 else 1)
    elif grey.max() > 255 or not (is_mask or image.mode == "I"):
        grey = grey.astype(np.int64) >> 8
    scaled = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if opaque is not None:
        scaled.putalpha(opaque)
    scaled.info |= {name: value for name, value in image.info.items() if name == "icc_profile"}
    return scaled


def to_mode(image: Image.Image, mode: str, name: str = "image") -> Image.Image:
    """A PIL image in another mode as the eye expects it: in sRGB, transparency on white, more than 8 bits scaled.

    Raises:
        ValueError: It is empty, or a mask (`name`) is transparent in places.
    """
    refuse(0 in image.size, f"`{name}`: a PIL image of size {image.size} can't be read; give one with pixels.")
    is_mask = name == "mask_image"
    if image.mode.startswith(("I", "F")):
        image = _in_bytes(image, is_mask)
    image = image if is_mask else _in_srgb(image)
    if mode != "RGBA" and image.has_transparency_data:
        image = image.convert("RGBA")
        is_partial = is_mask and np.asarray(image)[..., 3].min() < 255
        refuse(is_partial, "`mask_image` is transparent in places: paint it all, white and black.")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)
