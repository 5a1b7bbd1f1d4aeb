"""One image file to pixels: as the eye expects it, quickly where the file is an ordinary one, never half of it."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageFile, UnidentifiedImageError

# What is read at all, by decoders that are much used and run within this process: for EPS, Pillow would start
# Ghostscript, whatever the file is called.
Image.init()
FORMATS = tuple(
    name for name in "AVIF BMP GIF ICO JPEG JPEG2000 PNG PPM TGA TIFF WEBP".split() if name in Image.OPEN
)  # fmt: skip
IMAGE_SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)
MAX_BYTES = 2**28  # of an image file: those of the largest picture that is read have fewer
MAX_ASPECT = 16  # no square crop of a longer strip is a picture, and resized it would fill the memory
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # Pillow warns of what we refuse
ImageFile.LOAD_TRUNCATED_IMAGES = False  # a half-downloaded file is skipped and named, not trained on
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # a warning, where -W error says so
        raise UndecodableImage(f"a decompression bomb: over {Image.MAX_IMAGE_PIXELS} pixels") from error
    except Exception as error:  # decoders raise almost anything on a broken file
        raise UndecodableImage(str(error).strip().partition("\n")[0] or type(error).__name__) from error


def _decode_jpeg(content: bytes, resolution: int) -> np.ndarray | None:
    """An ordinary JPEG straight with libjpeg-turbo, in a third of Pillow's time; None for all other files."""
    if not content.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    if colours not in ("YCbCr", "Gray"):
        return None
    check_size(width, height)
    if not _is_upright(content):
        return None
    # a much larger one is decoded at a part of its size, 1/8 to 7/8, that leaves the resizing enough to average
    least = 2 * resolution if min(width, height) >= 4 * resolution else 0
    try:
        pixels = simplejpeg.decode_jpeg(content, min_height=least, min_width=least)
    except ValueError:
        return None  # let Pillow judge it
    if min(pixels.shape[:2]) == resolution:
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return _to_planes(Image.fromarray(pixels), _resized((width, height), resolution))


def _is_upright(content: bytes) -> bool:
    """Whether no metadata of a JPEG (EXIF or XMP, anywhere before the pixels) asks to turn it; False if in doubt."""
    at = 2
    while content[at : at + 1] == b"\xff" and at + 4 <= len(content):
        marker, length = struct.unpack_from(">xBH", content, at)
        if marker == 0xDA:  # the pixels
            return True
        if not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xD9:  # padding, or markers without a length
            return False
        if marker == 0xE1:
            segment = content[at + 4 : at + 2 + length]
            if segment.startswith(b"Exif\0"):
                exif = Image.Exif()
                try:
                    exif.load(segment)
                except Exception:  # almost anything, on broken metadata
                    return False
                if exif.get(ORIENTATION, 1) != 1:
                    return False
            elif b"Orientation" in segment:
                return False
        at += 2 + length
    return False


def _decode_any(content: bytes, resolution: int, as_float: bool) -> np.ndarray:
    if content.startswith(b"\x89PNG") and len(content) >= 24:
        check_size(*struct.unpack_from(">II", content, 16))  # before Pillow warns of it
    image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    size = image.size
    check_size(*size)
    # JPEG is decoded at 1/2, 1/4 or 1/8 of its size, still large enough; to other formats this means nothing
    drafted = None if as_float else image.draft(None, (2 * resolution, 2 * resolution))
    image.load()
    if not drafted:
        size = image.size  # a TIFF turns itself when it is loaded
    orientation = _orientation(image)
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
        size = size[::-1] if orientation >= 5 else size  # the first four leave width and height as they are
    size = _resized(size, resolution)
    return _precise_planes(image, size) if as_float else _to_planes(_to_rgb(image), size)


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # broken metadata does not spoil the pixels
        return None


def check_size(width: int, height: int) -> None:
    """Raise UndecodableImage for what would fill the memory."""
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise UndecodableImage(f"a decompression bomb: {width} x {height} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UndecodableImage(f"a strip of {width} x {height} pixels")


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB as the eye expects it: transparency on white, 16-bit and float grey scaled rather than cut off."""
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        image = Image.fromarray((values * (255 if values.max() <= 1 else 1)).clip(0, 255).astype(np.uint8))
    elif image.mode.startswith("I"):
        image = Image.fromarray((_grey16(image) >> 8).clip(0, 255).astype(np.uint8))
    if (image.mode != "RGB" and image.has_transparency_data) or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey16(image: Image.Image) -> np.ndarray:
    """`(h, w)` int64 of a grey image of 16 or more bits; a value that stands for transparent becomes white."""
    values = np.asarray(image).astype(np.int64)
    clear = image.info.get("transparency")
    return values if clear is None else np.where(values == clear, 65535, values)


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
    """`(3, h, w)` float32 in [0, 1] at `size` (width, height), without a detour through 8 bits.

    Only float images are already in that range.
    """
    if image.mode == "F":
        values, top = np.nan_to_num(np.asarray(image, np.float32)), 1.0
    elif image.mode.startswith("I"):
        values, top = _grey16(image).astype(np.float32), 65535.0
    else:
        values, top = np.asarray(_to_rgb(image), np.float32), 255.0
    pixels = torch.from_numpy(values / top)
    pixels = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels.expand(3, -1, -1)
    resized = torch.nn.functional.interpolate(
        pixels[None], size=size[::-1], mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].clamp(0, 1).contiguous().numpy()
