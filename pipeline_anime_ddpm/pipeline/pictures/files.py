# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Is an image file whole? Pillow would make up what is missing, and say nothing."""

import re
import struct
import zlib
from collections.abc import Iterator

from ..values import installed, refuse

simplejpeg = installed("simplejpeg")
# Where libjpeg makes up what is missing, which Pillow does not say. Other warnings are of bytes that no pixel needs.
DAMAGED = re.compile("premature end|bad Huffman code|[0-9]+ extraneous bytes", re.IGNORECASE)
FEW_BYTES = 64  # that some cameras leave before the end of a JPEG, and no compressed pixels are zeros for so long
JPEG_BETWEEN = {0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # markers that stand between two scans
CUT_OFF = "cut off: its end is missing"


def jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker, start and end of each segment of a JPEG, up to its pixels (0xDA); ends early where it is damaged."""
    at, marker = 2, 0
    while marker != 0xDA and content[at : at + 1] == b"\xff" and at + 4 <= len(content):
        marker, length = struct.unpack_from(">xBH", content, at)
        if not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xD9:  # padding, or markers without a length
            return
        yield marker, at + 4, at + 2 + length
        at += 2 + length


def _check_jpeg(content: bytes) -> None:
    at = next((end for marker, _, end in jpeg_segments(content) if marker == 0xDA), len(content))
    restarts = 0
    while (found := re.compile(b"\xff+([^\0\xff])").search(content, at)) and found[1] != b"\xd9":
        marker, at = found[1][0], found.end()
        if 0xD0 <= marker <= 0xD7:  # they are numbered in turn
            refuse(marker != 0xD0 + restarts % 8, "damaged: a part of it is missing")
            restarts += 1
        else:
            refuse(marker not in JPEG_BETWEEN, "damaged in the middle")
            at, restarts = at + int.from_bytes(content[at : at + 2]), 0
    refuse(found is None, CUT_OFF)
    if simplejpeg is not None:
        warning = _jpeg_warning(content)
        harm = DAMAGED.search(warning)
        is_few = harm and harm[0].endswith("bytes") and _is_padded(content, int(harm[0].split()[0]))
        refuse(bool(harm and not is_few), f"damaged: {warning.removeprefix('Corrupt JPEG data: ')}")


def _jpeg_warning(content: bytes) -> str:
    try:
        colours = simplejpeg.decode_jpeg_header(content)[2]
        simplejpeg.decode_jpeg(content, "CMYK" if colours in ("CMYK", "YCCK") else "GRAY", min_factor=8)
    except ValueError as error:
        return str(error)
    return ""


def _is_padded(content: bytes, extraneous: int) -> bool:
    """Whether the bytes that libjpeg had no use for are few, or zeros behind the last pixel."""
    end = content.rfind(b"\xff\xd9")
    pixels = content[:end].rstrip(b"\0")
    return extraneous <= FEW_BYTES or (end - len(pixels) >= extraneous and not _jpeg_warning(pixels + b"\xff\xd9"))


def _check_webp(content: bytes) -> None:
    at, size = 12, int.from_bytes(content[4:8], "little")
    refuse(8 + size > len(content), CUT_OFF)
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, at)
        if kind in (b"VP8 ", b"VP8L", b"ANMF"):  # of a white picture, a twentieth are zeros in a row
            zeros = content.find(bytes(max(FEW_BYTES, size // 12)), at, at + 8 + size)
            refuse(zeros >= 0, "damaged: a part of it is zeros")
        at += 8 + size + size % 2


def _check_png(content: bytes) -> None:
    at, kind = 8, b""
    while kind != b"IEND":
        size, kind = struct.unpack_from(">I4s", content, at) if at + 12 <= len(content) else (len(content), b"")
        refuse(at + 12 + size > len(content), CUT_OFF)
        checked, at = memoryview(content)[at + 4 : at + 8 + size], at + 12 + size
        is_right = kind != b"IDAT" or zlib.crc32(checked) == int.from_bytes(content[at - 4 : at])
        refuse(not is_right, "damaged: a checksum is wrong")


def _check_gif(content: bytes) -> None:
    try:
        at, flags = 13, content[10]
        while True:
            at += 3 * 2 ** (flags % 8 + 1) if flags & 0x80 else 0  # a table of colours
            at = re.compile(b"\0*").match(content, at).end()
            kind, flags = content[at], 0
            if kind == 0x3B:
                return
            refuse(kind not in (0x2C, 0x21), "damaged in the middle")
            if kind == 0x2C:  # a frame: its place, its own table, how its codes begin
                flags = content[at + 9]
                at += 11 + (3 * 2 ** (flags % 8 + 1) if flags & 0x80 else 0)
            else:
                at += 2
            flags = 0
            while content[at]:
                at += content[at] + 1
    except IndexError:
        raise ValueError(CUT_OFF) from None


def check_whole(content: bytes) -> None:
    """Refuse an image file that is damaged or cut off, where Pillow would make up the rest and say nothing.

    Raises:
        ValueError: with a short reason.
    """
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(content)
    elif content.startswith(b"\xff\xd8"):
        _check_jpeg(content)
    elif content.startswith((b"GIF87a", b"GIF89a")):
        _check_gif(content)
    elif content.startswith(b"RIFF"):
        _check_webp(content)
    elif content[4:8] == b"ftyp":  # AVIF and HEIC, whose metadata may have zeros too
        refuse(bytes(max(FEW_BYTES, len(content) // 12)) in content, "damaged: a part of it is zeros")
