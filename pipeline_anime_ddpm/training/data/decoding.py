"""One image file to pixels: as the eye expects it, quickly where the file is an ordinary one, never half of it."""

from __future__ import annotations

import io
import warnings

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

MAX_ASPECT = 16  # no square crop of a longer strip is a picture, and resized it would fill the memory
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # Pillow warns of what we refuse
ImageFile.LOAD_TRUNCATED_IMAGES = False  # a half-downloaded file is skipped and named, not trained on


class UndecodableImage(Exception):
    """A file that holds no usable image; its text is a short reason."""


def decode_image(content: bytes, resolution: int, as_float: bool = False) -> np.ndarray:
    """Decode one image file and resize its shorter side to `resolution` pixels (bilinear, antialiased).

    Returns:
        `(3, h, w)` RGB, min(h, w) = resolution: uint8, or float32 in [0, 1] if `as_float`.

    Raises:
        UndecodableImage: if the file is not an image, damaged, cut off, too large or a mere strip.
    """
    try:
        if not as_float:
            pixels = _decode_jpeg(content, resolution)
            if pixels is not None:
                return pixels
        return _decode_any(content, resolution, as_float)
    except UndecodableImage:
        raise
    except UnidentifiedImageError as error:
        raise UndecodableImage("not an image") from error
    except Exception as error:  # decoders raise almost anything on a broken file
        raise UndecodableImage(str(error).strip().partition("\n")[0] or type(error).__name__) from error


def _decode_jpeg(content: bytes, resolution: int) -> np.ndarray | None:
    """An ordinary JPEG straight with libjpeg-turbo, in a third of Pillow's time; None for all other files."""
    if not content.startswith(b"\xff\xd8") or b"Exif\0" in content[:65536]:  # which may say how to turn it
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    if colours not in ("YCbCr", "Gray"):
        return None
    _check_size(width, height)
    # a much larger one is decoded at a part of its size, 1/8 to 7/8, that leaves the resizing enough to average
    least = 2 * resolution if min(width, height) >= 4 * resolution else 0
    try:
        pixels = simplejpeg.decode_jpeg(content, min_height=least, min_width=least)
    except ValueError:
        return None  # let Pillow judge it
    if min(pixels.shape[:2]) == resolution:
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return _to_planes(Image.fromarray(pixels), resolution)


def _decode_any(content: bytes, resolution: int, as_float: bool) -> np.ndarray:
    image = Image.open(io.BytesIO(content))
    _check_size(*image.size)
    if not as_float and image.format == "JPEG":
        image.draft(None, (2 * resolution, 2 * resolution))  # decode at 1/2, 1/4 or 1/8 of the size, still large enough
    image = ImageOps.exif_transpose(image)
    return _precise_planes(image, resolution) if as_float else _to_planes(_to_rgb(image), resolution)


def _check_size(width: int, height: int) -> None:
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise UndecodableImage(f"a decompression bomb: {width} x {height} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UndecodableImage(f"a strip of {width} x {height} pixels")


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB as the eye expects it: transparency on white, 16-bit and float grey scaled rather than cut off."""
    if image.mode == "F":
        values = np.asarray(image)
        image = Image.fromarray((values * (255 if values.max() <= 1 else 1)).clip(0, 255).astype(np.uint8))
    elif image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if (image.mode != "RGB" and image.has_transparency_data) or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_planes(image: Image.Image, resolution: int) -> np.ndarray:
    """`(3, h, w)` uint8 of an RGB image, its shorter side `resolution` pixels."""
    size = _resized(image.size, resolution)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _resized(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    scale = resolution / min(size)
    return tuple(max(resolution, round(side * scale)) for side in size)


def _precise_planes(image: Image.Image, resolution: int) -> np.ndarray:
    """`(3, h, w)` float32 in [0, 1] without a detour through 8 bits; only float images are already in that range."""
    if image.mode == "F":
        values, top = np.asarray(image, np.float32), 1.0
    elif image.mode.startswith("I"):
        values, top = np.asarray(image).astype(np.float32), 65535.0
    else:
        values, top = np.asarray(_to_rgb(image), np.float32), 255.0
    pixels = torch.from_numpy(values / top)
    pixels = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels.expand(3, -1, -1)
    size = _resized(image.size, resolution)[::-1]
    resized = torch.nn.functional.interpolate(
        pixels[None], size=size, mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].clamp(0, 1).contiguous().numpy()
