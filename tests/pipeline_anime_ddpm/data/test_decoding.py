"""Image files become pixels as the eye expects; the quick way and the thorough way agree; what is broken is refused."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from pipeline_anime_ddpm.data import decoding
from pipeline_anime_ddpm.data.decoding import UndecodableImage, decode_image

SIDE = 8


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def natural(width, height):
    """A picture with broad shapes and a little noise, as photographs and drawings have; `(height, width)` RGB."""
    y, x = np.mgrid[:height, :width] / min(width, height)
    waves = [127 + 100 * np.sin(6 * x + 3 * y + c) * np.cos(4 * y - c) for c in range(3)]
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    return Image.fromarray((np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8))


def flat(mode, colour):
    return Image.new(mode, (SIDE, SIDE), colour)


def array(value, dtype):
    return Image.fromarray(np.full((SIDE, SIDE), value, dtype))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width, height, depth, colour_type, row=b"", before_pixels=b""):
    """A PNG of a kind that Pillow cannot write, every row the same."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + row) * height if row else b""))
    return b"\x89PNG\r\n\x1a\n" + header + before_pixels + pixels + chunk(b"IEND", b"")


def with_segment(jpeg, marker, data):
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data + jpeg[2:]


def palette_image():
    image = flat("P", 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    return image


WHITE, GREY, RED = (255, 255, 255), (128, 128, 128), (255, 0, 0)
CLEAR_RED = (255, 0, 0, 0)
GREY16 = struct.pack(">H", 32896)
KINDS = {
    "rgb bmp": (encoded(flat("RGB", "red"), "BMP"), RED),
    "rgb webp": (encoded(flat("RGB", "red"), "WEBP", lossless=True), RED),
    "rgb tiff": (encoded(flat("RGB", "red"), "TIFF"), RED),
    "hidden red": (encoded(flat("RGBA", CLEAR_RED)), WHITE),
    "hidden red webp": (encoded(flat("RGBA", CLEAR_RED), "WEBP", lossless=True, exact=True), WHITE),
    "half clear": (encoded(flat("RGBA", (0, 0, 0, 127))), GREY),
    "grey": (encoded(flat("L", 128)), GREY),
    "grey jpeg": (encoded(flat("L", 128), "JPEG"), GREY),
    "grey and alpha": (encoded(flat("LA", (0, 127))), GREY),
    "grey, transparent value": (encoded(flat("L", 5), transparency=5), WHITE),
    "rgb, transparent value": (encoded(flat("RGB", (5, 6, 7)), transparency=(5, 6, 7)), WHITE),
    "palette": (encoded(palette_image()), (10, 200, 30)),
    "clear palette": (encoded(palette_image(), transparency=1), WHITE),
    "clear gif": (encoded(palette_image(), "GIF", transparency=1), WHITE),
    "bits": (encoded(flat("1", 1)), WHITE),
    "grey16": (encoded(array(32896, np.uint16)), GREY),
    "grey16, big-endian": (
        encoded(Image.frombytes("I;16B", (SIDE, SIDE), GREY16 * SIDE**2), "TIFF"),
        GREY,
    ),
    "grey32": (encoded(array(32896, np.int32), "TIFF"), GREY),
    "grey16, transparent value": (
        raw_png(SIDE, SIDE, 16, 0, GREY16 * SIDE, chunk(b"tRNS", GREY16)),
        WHITE,
    ),
    "rgb16": (raw_png(SIDE, SIDE, 16, 2, GREY16 * 3 * SIDE), GREY),
    "float": (encoded(array(0.5, np.float32), "TIFF"), GREY),
    "float of nothing": (encoded(array(np.nan, np.float32), "TIFF"), (0, 0, 0)),
    "cmyk tiff": (encoded(flat("CMYK", (0, 255, 255, 0)), "TIFF"), RED),
    "cmyk jpeg, inverted as Adobe does": (encoded(flat("CMYK", (0, 255, 255, 0)), "JPEG", quality=100), RED),
    "first frame": (encoded(flat("RGB", "red"), "GIF", save_all=True, append_images=[flat("RGB", "blue")]), RED),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("as_float", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_the_eye_expects(kind, as_float):
    content, colour = KINDS[kind]
    pixels = decode_image(content, SIDE, as_float)
    assert pixels.shape == (3, SIDE, SIDE)
    assert pixels.dtype == (np.float32 if as_float else np.uint8)
    assert pixels.flags.c_contiguous
    wanted = np.reshape(colour, (3, 1, 1)) / (255 if as_float else 1)
    np.testing.assert_allclose(
        pixels.astype(float), np.broadcast_to(wanted, pixels.shape), atol=0.006 if as_float else 1
    )


def test_input_precision_is_kept_on_request():
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) + 30000  # all but equal in 8 bits
    image = encoded(Image.fromarray(values))
    assert len(np.unique(decode_image(image, 8))) <= 2
    np.testing.assert_allclose(decode_image(image, 8, as_float=True)[0], values / 65535, rtol=1e-5)


BARS = {1: "top", 2: "top", 3: "bottom", 4: "bottom", 5: "left", 6: "right", 7: "right", 8: "left"}


def marked():
    """64 x 32, black with a white bar along the top and a grey mark at its left end."""
    image = Image.new("RGB", (64, 32), "black")
    image.paste("white", (0, 0, 64, 8))
    image.paste("gray", (0, 0, 16, 8))
    return image


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("as_float", [False, True])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, format, as_float):
    pixels = decode_image(encoded(marked(), format, exif=exif_of(orientation)), 32, as_float).mean(0)
    edges = {"top": pixels[0], "bottom": pixels[-1], "left": pixels[:, 0], "right": pixels[:, -1]}
    bar = max(edges, key=lambda name: edges[name].mean())
    assert bar == BARS[orientation]
    assert pixels.shape == ((64, 32) if orientation >= 5 else (32, 64))
    mark_is_first = orientation in (1, 4, 5, 6)  # the mirrored ones and the turned ones have it at the other end
    assert (edges[bar][4] < edges[bar][-5]) == mark_is_first


XMP = (
    b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def test_an_orientation_is_found_wherever_it_stands():
    late = encoded(marked(), "JPEG", exif=exif_of(6))
    for _ in range(2):  # Photoshop's blocks, which may fill more than 64 KiB before the EXIF data
        late = with_segment(late, 0xED, bytes(65000))
    assert decode_image(late, 32).shape == (3, 64, 32)
    assert decode_image(with_segment(encoded(marked(), "JPEG"), 0xE1, XMP), 32).shape == (3, 64, 32)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"", b"garbage!", b"II*\0\x08\0\0\0\x05\0\x12\x01"])
def test_broken_metadata_does_not_spoil_the_pixels(exif):
    plain = encoded(marked(), "JPEG")
    broken = with_segment(plain, 0xE1, b"Exif\0\0" + exif)
    np.testing.assert_array_equal(decode_image(broken, 32), decode_image(plain, 32))


ORDINARY = {
    "4:4:4": encoded(natural(64, 80), "JPEG", quality=90, subsampling="4:4:4"),
    "4:2:0": encoded(natural(64, 80), "JPEG", quality=90, subsampling="4:2:0"),
    "progressive": encoded(natural(64, 80), "JPEG", progressive=True),
    "grey": encoded(natural(64, 80).convert("L"), "JPEG"),
    "upright by EXIF": encoded(natural(64, 80), "JPEG", exif=exif_of(1)),
}


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize("resolution", [32, 64, 100])
def test_ordinary_jpegs_take_the_quick_way_to_the_same_pixels(name, resolution, monkeypatch):
    image = Image.open(io.BytesIO(ORDINARY[name])).convert("RGB")
    height = round(80 * resolution / 64)
    wanted = np.asarray(image.resize((resolution, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    monkeypatch.setattr(decoding, "_decode_any", None)  # an error, were it called
    pixels = decode_image(ORDINARY[name], resolution)
    assert pixels.shape == wanted.shape
    assert np.abs(pixels.astype(int) - wanted).max() <= 2, "another JPEG library may round differently"


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("size", [(512, 512), (333, 256), (256, 685)])
def test_large_jpegs_are_decoded_small_but_not_otherwise(size, quick, monkeypatch):
    image = natural(*size)
    if not quick:
        monkeypatch.setattr(decoding, "_decode_jpeg", lambda *_: None)
    small = tuple(max(64, round(side * 64 / min(size))) for side in size)
    content = encoded(image, "JPEG", quality=90)
    wanted = np.asarray(Image.open(io.BytesIO(content)).resize(small, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    pixels = decode_image(content, 64)
    assert pixels.shape == wanted.shape, "the shape follows from the file's size, not from the one it is decoded at"
    assert np.abs(pixels.astype(int) - wanted).mean() < 1.5


@pytest.mark.parametrize("as_float", [False, True])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_file_cut_off_is_refused(format, as_float):
    whole = encoded(natural(64, 64), format)
    for kept in (len(whole) // 3, len(whole) - 40):
        with pytest.raises(UndecodableImage):
            decode_image(whole[:kept], 32, as_float)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_image_is_refused_with_a_short_reason(content):
    with pytest.raises(UndecodableImage) as raised:
        decode_image(content, 8)
    assert 0 < len(str(raised.value)) < 100
    assert "\n" not in str(raised.value)


def giant_jpeg(width, height):
    content = bytearray(encoded(natural(16, 16), "JPEG"))
    struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, height, width)
    return bytes(content)


@pytest.mark.parametrize("make", [giant_jpeg, lambda w, h: raw_png(w, h, 8, 2)])
@pytest.mark.parametrize("side", [12000, 60000])  # Pillow only warns of the first
def test_decompression_bombs_are_refused_without_a_warning(make, side):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(UndecodableImage, match=r"a decompression bomb: "):
            decode_image(make(side, side), 8)
    assert not caught


def test_a_strip_is_refused_and_a_narrow_picture_is_not():
    with pytest.raises(UndecodableImage, match="1 x 60000"):
        decode_image(encoded(Image.new("RGB", (1, 60000))), 64)
    assert decode_image(encoded(Image.new("RGB", (10, 160))), 8).shape == (3, 128, 8)


def test_threads_do_not_disturb_each_other():
    files = [*ORDINARY.values(), *(content for content, _ in KINDS.values())] * 4
    alone = [decode_image(content, 16) for content in files]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(alone, pool.map(lambda content: decode_image(content, 16), files), strict=True):
            np.testing.assert_array_equal(one, other)
