"""Pictures as people have them, one of each odd kind: small files made here, and the colour that each is to have."""

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

SIDE = 64
RED, GREEN, WHITE, GREY = (255, 0, 0), (0, 255, 0), (255, 255, 255), (128, 128, 128)


class Picture(NamedTuple):
    """A file, its name, and the colour in the middle of its upper left quarter; None if it is not to be used."""

    name: str
    content: bytes
    colour: tuple[int, int, int] | None


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def flat(colour, mode="RGB") -> Image.Image:
    return Image.new(mode, (SIDE, SIDE), colour)


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def raw_png(depth: int, colour_type: int, row: bytes, transparent: bytes) -> bytes:
    """A PNG of a kind that Pillow cannot write, every row the same, with one colour of it transparent."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour_type, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + row) * SIDE))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", transparent) + pixels + chunk(b"IEND", b"")


def swapped_profile() -> bytes:
    """sRGB with the primaries red and green exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {}
    for at in range(132, 132 + 12 * struct.unpack_from(">I", profile, 128)[0], 12):
        tags[bytes(profile[at : at + 4])] = at
    for field in (4, 8):  # offset and size
        red, green = (tags[name] + field for name in (b"rXYZ", b"gXYZ"))
        profile[red : red + 4], profile[green : green + 4] = profile[green : green + 4], profile[red : red + 4]
    return bytes(profile)


def half_zeros(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes(len(content) - len(content) // 2)


def zeros_within(content: bytes) -> bytes:
    begin, end = len(content) * 2 // 5, len(content) * 3 // 5
    return content[:begin] + bytes(end - begin) + content[end:]


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def bad_checksum(png: bytes) -> bytes:
    at = png.index(b"IEND") - 8  # the checksum of the pixels stands before the last chunk
    return png[:at] + bytes([png[at] ^ 1]) + png[at + 1 :]


def animated(format: str) -> bytes:
    return encoded(flat(RED), format, save_all=True, append_images=[flat(GREEN), flat(WHITE)])


def turned() -> bytes:
    """Green above red, and its EXIF data turn it upside down."""
    image = flat(GREEN)
    image.paste(RED, (0, SIDE // 2, SIDE, SIDE))
    exif = Image.Exif()
    exif[0x0112] = 3
    return encoded(image, "JPEG", exif=exif, quality=95)


def made() -> dict[str, Picture]:
    """Each kind by what it is."""
    jpeg, grey16 = encoded(noise(), "JPEG"), np.full((SIDE, SIDE), 32896, np.uint16)
    wide = np.full((SIDE, 2 * SIDE, 3), RED, np.uint8)
    return {
        "JPEG of noise, second half zeros": Picture("half_zeros.jpg", half_zeros(jpeg), None),
        "JPEG, zeros within": Picture("zeros_within.jpg", zeros_within(jpeg), None),
        "JPEG cut off": Picture("cut.jpg", half(jpeg), None),
        "PNG with a wrong checksum": Picture("checksum.png", bad_checksum(encoded(noise())), None),
        "PNG without its end": Picture("no_end.png", encoded(noise())[:-12], None),
        "WebP cut off": Picture("cut.webp", half(encoded(noise(), "WEBP")), None),
        "WebP, second half zeros": Picture("half_zeros.webp", half_zeros(encoded(noise(), "WEBP")), None),
        "GIF cut off": Picture("cut.gif", half(encoded(noise().quantize(), "GIF")), None),
        "TIFF cut off": Picture("cut.tiff", half(encoded(noise(), "TIFF", compression="tiff_lzw")), None),
        "AVIF cut off": Picture("cut.avif", half(encoded(noise(), "AVIF")), None),
        "text called .png": Picture("text.png", b"1girl, solo", None),
        "empty file": Picture("empty.png", b"", None),
        "git-lfs pointer": Picture("pointer.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", None),
        "strip of 20:1": Picture("strip.png", encoded(Image.new("RGB", (20 * 8, 8), RED)), RED),
        "picture of 5:1": Picture("long.png", encoded(Image.new("RGB", (5 * SIDE, SIDE), RED)), RED),
        "picture of 2:1": Picture("wide.bmp", encoded(Image.fromarray(wide), "BMP"), RED),
        "16-bit grey": Picture("grey16.png", encoded(Image.fromarray(grey16)), GREY),
        "16-bit grey TIFF": Picture("grey16.tiff", encoded(Image.fromarray(grey16), "TIFF"), GREY),
        "ICC profile, PNG": Picture("profile.png", encoded(flat(RED), icc_profile=swapped_profile()), GREEN),
        "ICC profile, JPEG": Picture(
            "profile.jpg", encoded(flat(RED), "JPEG", icc_profile=swapped_profile(), quality=100), GREEN
        ),
        "ICC profile, WebP": Picture(
            "profile.webp", encoded(flat(RED), "WEBP", icc_profile=swapped_profile(), lossless=True), GREEN
        ),
        "broken ICC profile": Picture("bad_profile.png", encoded(flat(RED), icc_profile=b"no profile"), RED),
        "2-bit grey, transparent": Picture("grey2.png", raw_png(2, 0, bytes(SIDE // 4), b"\0\0"), WHITE),
        "4-bit grey, transparent": Picture("grey4.png", raw_png(4, 0, b"\x55" * (SIDE // 2), b"\0\5"), WHITE),
        "16-bit RGB, transparent": Picture("rgb16.png", raw_png(16, 2, b"\1\2\3\4\5\6" * SIDE, b"\1\2\3\4\5\6"), WHITE),
        "transparent RGBA": Picture("rgba.png", encoded(flat((255, 0, 0, 0), "RGBA")), WHITE),
        "CMYK JPEG": Picture("cmyk.jpg", encoded(flat((0, 255, 255, 0), "CMYK"), "JPEG", quality=100), RED),
        "turned by EXIF": Picture("turned.jpg", turned(), RED),
        "animated GIF": Picture("animated.gif", animated("GIF"), RED),
        "animated WebP": Picture("animated.webp", animated("WEBP"), RED),
        "animated PNG": Picture("animated.png", animated("PNG"), RED),
        "AVIF": Picture("new.avif", encoded(flat(RED), "AVIF", quality=100), RED),
        "PNG called .jpg": Picture("renamed.jpg", encoded(flat(RED)), RED),
        "JPEG called .jpg_large": Picture("saved.jpg_large", encoded(flat(RED), "JPEG", quality=100), RED),
        "PNG without a suffix": Picture("saved", encoded(flat(RED)), RED),
    }
