"""One image file to pixels: as the eye expects it, quickly where the file is an ordinary one, never half of it."""

from __future__ import annotations

import functools
import logging
import struct
import warnings
from collections.abc import Callable

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageFile, UnidentifiedImageError

from pipeline_anime_ddpm.pipeline_anime_ddpm import (
    FORMATS,
    ORIENTATION,
    jpeg_segments,
    open_picture,
    srgb_transform,
    to_mode,
)  # fmt: skip

from .files.damage import HEAD, looks_like

logger = logging.getLogger(__name__)
Image.init()
IMAGE_SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)
SizeListener = Callable[[int, int], None]
MAX_BYTES = 2**28  # of an image file: those of the largest picture that is read have fewer
LONG = 4  # the proportions that are said
MAX_ASPECT = 16  # no square crop of a longer strip is a picture, and resized it would fill the memory
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # Pillow warns of what we refuse
ImageFile.LOAD_TRUNCATED_IMAGES = False  # a half-downloaded file is skipped and named, not trained on


class UndecodableImage(Exception):
    """A file that holds no usable image; its text is a short reason."""


def decode_image(
    content: bytes, resolution: int, as_float: bool = False, on_size: SizeListener | None = None
) -> np.ndarray:
    """Decode one image file and resize its shorter side to `resolution` pixels (bilinear, antialiased).

    Args:
        on_size: called with the width and height of the picture in the file.

    Returns:
        `(3, h, w)` RGB, min(h, w) = resolution: uint8, or float32 in [0, 1] if `as_float`.

    Raises:
        UndecodableImage: if the file is not an image, damaged, cut off, too large or a mere strip.
    """
    try:
        if not as_float:
            pixels = _decode_jpeg(content, resolution, on_size)
            if pixels is not None:
                return pixels
        return _decode_any(content, resolution, as_float, on_size)
    except UndecodableImage:
        raise
    except UnidentifiedImageError as error:
        raise UndecodableImage(looks_like(content[:HEAD]) or "not an image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # a warning, where -W error says so
        raise UndecodableImage(f"a decompression bomb: over {Image.MAX_IMAGE_PIXELS} pixels") from error
    except Exception as error:  # decoders raise almost anything on a broken file
        raise UndecodableImage(str(error).strip().partition("\n")[0] or type(error).__name__) from error


def _decode_jpeg(content: bytes, resolution: int, on_size: SizeListener | None = None) -> np.ndarray | None:
    """An ordinary JPEG straight with libjpeg-turbo, in a third of Pillow's time; None for all other files.

    Raises:
        UndecodableImage: if it is damaged.
    """
    if not content.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    if colours not in ("YCbCr", "Gray"):
        return None
    check_size(width, height)
    if not _is_plain(content):
        return None
    # a much larger one is decoded at a part of its size, 1/8 to 7/8, that leaves the resizing enough to average
    least = 2 * resolution if min(width, height) >= 4 * resolution else 0
    try:
        pixels = simplejpeg.decode_jpeg(content, min_height=least, min_width=least)
    except ValueError:
        return None  # let Pillow judge it
    if on_size is not None:
        on_size(width, height)
    if min(pixels.shape[:2]) == resolution:
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return _to_planes(Image.fromarray(pixels), _resized((width, height), resolution))


def _is_plain(content: bytes) -> bool:
    """Whether no metadata of a JPEG asks to turn it (EXIF or XMP) or to convert its colours; False if in doubt."""
    marker, profile = 0, b""
    for marker, start, stop in jpeg_segments(content):
        segment = content[start:stop] if marker in (0xE1, 0xE2) else b""
        if segment.startswith(b"ICC_PROFILE\0"):
            profile += segment[14:]
        elif marker == 0xE1 and segment.startswith(b"Exif\0"):
            exif = Image.Exif()
            try:
                exif.load(segment)
            except Exception:  # almost anything, on broken metadata
                return False
            if exif.get(ORIENTATION, 1) != 1:
                return False
        elif marker == 0xE1 and b"Orientation" in segment:
            return False
    return marker == 0xDA and (not profile or srgb_transform(profile) is None)


def _decode_any(content: bytes, resolution: int, as_float: bool, on_size: SizeListener | None = None) -> np.ndarray:
    if content.startswith(b"\x89PNG") and len(content) >= 24:
        check_size(*struct.unpack_from(">II", content, 16))  # before Pillow warns of it
    image, size = open_picture(content, check_size, None if as_float else 2 * resolution)
    if getattr(image, "is_animated", False):
        tell_once("Some pictures are animated: the first frame of each is used.")
    if on_size is not None:
        on_size(*size)
    size = _resized(size, resolution)
    return _precise_planes(image, size) if as_float else _to_planes(to_mode(image, "RGB"), size)


@functools.cache
def tell_once(sentence: str) -> None:
    """Log what is true of one picture or of thousands."""
    logger.warning(sentence)


def check_size(width: int, height: int) -> None:
    """Raise UndecodableImage for what would fill the memory."""
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise UndecodableImage(f"a decompression bomb: {width} x {height} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UndecodableImage(f"a strip of {width} x {height} pixels")
    if max(width, height) > LONG * min(width, height):
        tell_once(f"Some pictures are longer than {LONG}:1: a square crop shows a small part of each.")


def _to_planes(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """`(3, h, w)` uint8 of an RGB image at `size` (width, height)."""
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _resized(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """(width, height) with the shorter side `resolution`, from the size in the file, not the one it is decoded at."""
    scale = resolution / min(size)
    width, height = (max(resolution, round(side * scale)) for side in size)
    return width, height


def _precise_planes(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """`(3, h, w)` float32 in [0, 1] at `size` (width, height), without a detour through 8 bits."""
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image).astype(np.float32))
        clear = image.info.get("transparency")
        values = values if clear is None else np.where(values == clear, np.float32(65535), values)
        tops = {"F": (1.0, 255.0), "I": (255.0, 65535.0)}.get(image.mode, (0.0, 65535.0))
        top = tops[int(values.max() > tops[0])]
    else:
        values, top = np.asarray(to_mode(image, "RGB"), np.float32), 255.0
    pixels = torch.from_numpy(values / top)
    pixels = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels.expand(3, -1, -1)
    resized = torch.nn.functional.interpolate(
        pixels[None], size=size[::-1], mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].clamp(0, 1).contiguous().numpy()
