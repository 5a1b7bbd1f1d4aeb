# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Opens image files: which formats, and which side is up."""

import io
from collections.abc import Callable
from typing import Any

from PIL import Image

from ..values import installed
from .files import check_whole

# Image files that are read, by decoders that run within this process: for EPS, Pillow would start Ghostscript.
FORMATS = tuple("AVIF BMP GIF HEIF ICO JPEG JPEG2000 PNG PPM TGA TIFF WEBP".split())
ORIENTATION = 0x0112  # the EXIF tag
_TURN = Image.Transpose
TURNS = {
    2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM, 5: _TURN.TRANSPOSE, 6: _TURN.ROTATE_270,
    7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_90,
}  # fmt: skip
pillow_heif = installed("pillow_heif")
if pillow_heif is not None:
    pillow_heif.register_heif_opener()


def upright(image: Any) -> Any:
    """A PIL image, loaded, as its EXIF data say that it is to be seen; anything else as it is.

    Raises:
        ValueError, OSError: Its file, if it is not loaded yet, is damaged.
    """
    if not isinstance(image, Image.Image):
        return image
    file, tile = getattr(image, "fp", None), getattr(image, "tile", None)
    if file is not None and not getattr(file, "closed", False):
        place = file.tell()
        file.seek(0)
        check_whole(file.read())
        file.seek(place)
    if tile:
        clear, kind = image.info.get("transparency"), tile[0][3]
        if clear is not None and kind in ("L;2", "L;4"):  # Pillow spreads the pixels over 8 bits, but not this value
            image.info["transparency"] = clear * (85 if kind == "L;2" else 17)
        elif clear is not None and kind == "RGB;16B":
            image.info["transparency"] = tuple(value >> 8 for value in clear)
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION))
    except Exception:  # broken metadata do not spoil the pixels
        turn = None
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = {name: image.info[name] for name in ("icc_profile", "transparency") if name in image.info}
    return turned


def open_picture(
    content: bytes, check_size: Callable[[int, int], None], draft: int | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """The first frame of an image file, upright, and its width and height.

    Args:
        content: of the file.
        check_size: raises an error for a width and height that are too large.
        draft: decode a much larger JPEG at 1/2, 1/4 or 1/8 of its size, not below so many pixels.

    Raises:
        Exception: It is no image of `FORMATS`, damaged or cut off. Decoders raise almost anything.
    """
    image = Image.open(io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])
    size = image.size
    check_size(*size)
    is_drafted = draft is not None and image.draft(None, (draft, draft)) is not None
    turned = upright(image)
    if not is_drafted:
        return turned, turned.size
    sideways = turned is not image and image.getexif().get(ORIENTATION) >= 5
    return turned, size[::-1] if sideways else size
