"""An image file becomes the pixels that the eye expects, or a reason why not."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from pipeline_anime_ddpm.training.data import decoding
from pipeline_anime_ddpm.training.data.decoding import UndecodableImage, decode_image


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def smooth(width, height, mode="RGB"):
    """A picture of slopes and waves, as smooth as a drawing, with no symmetry."""
    down, right = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [255 * right / width, 255 * down / height, 127 + 120 * np.sin(right / width * 7 + down / height * 3)]
    image = Image.fromarray(np.stack(planes, -1).astype(np.uint8))
    return image if mode == "RGB" else image.convert(mode)


def by_pillow(content, resolution):
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = resolution / min(image.size)
    size = [max(resolution, round(s * scale)) for s in image.size]
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR)).transpose(2, 0, 1).astype(int)


JPEGS = {
    "4:4:4": encoded(smooth(48, 64), "JPEG", subsampling=0, quality=90),
    "4:2:0": encoded(smooth(48, 64), "JPEG", subsampling=2, quality=90),
    "grey": encoded(smooth(48, 64, "L"), "JPEG"),
    "progressive": encoded(smooth(48, 64), "JPEG", progressive=True),
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("resolution", [48, 20])
def test_ordinary_jpegs_take_the_short_way_and_look_the_same(kind, resolution, monkeypatch):
    expected = by_pillow(JPEGS[kind], resolution)
    monkeypatch.setattr(decoding, "_decode_any", None)
    pixels = decode_image(JPEGS[kind], resolution)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= 4, "two JPEG libraries round differently, by no more than that"


def test_a_much_larger_jpeg_is_decoded_at_a_part_of_its_size_and_looks_the_same():
    content = encoded(smooth(512, 640), "JPEG", quality=95)
    assert np.abs(decode_image(content, 64) - by_pillow(content, 64)).mean() < 1.5


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), (255, 255, 255)),  # transparent: white, not the hidden red
        (Image.new("LA", (8, 8), (0, 0)), (255, 255, 255)),
        (Image.fromarray(np.full((8, 8), 32896, np.uint16)), (128, 128, 128)),  # scaled, not cut off
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.new("L", (8, 8), 77), (77, 77, 77)),
        (Image.new("RGB", (8, 8), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE), (10, 200, 30)),
    ],
    ids=lambda value: getattr(value, "mode", ""),
)
def test_modes_are_read_as_the_eye_expects(image, colour):
    assert tuple(decode_image(encoded(image), 8)[:, 3, 5]) == colour


@pytest.mark.parametrize(
    ("format", "mode"), [("JPEG", "CMYK"), ("TIFF", "CMYK"), ("WEBP", "RGB"), ("BMP", "RGB"), ("GIF", "RGB")]
)
def test_formats_show_their_colours(format, mode):
    image = Image.new("RGB", (8, 8), (200, 30, 60)).convert(mode)
    colour = decode_image(encoded(image, format), 8)[:, 4, 4].astype(int)
    assert np.abs(colour - (200, 30, 60)).max() < 12


def test_a_palette_with_a_transparent_colour_is_put_on_white():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    assert tuple(decode_image(encoded(image, transparency=0), 8)[:, 0, 0]) == (255, 255, 255)


@pytest.mark.parametrize(("orientation", "side"), [(1, "top"), (3, "bottom"), (6, "right"), (8, "left")])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(orientation, side, format):
    image = Image.new("RGB", (16, 16), "black")
    image.paste("white", (0, 0, 16, 4))  # a white bar at the top of what is stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode_image(encoded(image, format, exif=exif), 16).astype(float)
    bars = {"top": pixels[:, 0], "bottom": pixels[:, -1], "left": pixels[:, :, 0], "right": pixels[:, :, -1]}
    assert max(bars, key=lambda name: bars[name].mean()) == side


def test_input_precision_is_kept_on_request():
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) + 30000  # all but equal in 8 bits
    image = encoded(Image.fromarray(values))
    assert len(np.unique(decode_image(image, 8))) <= 2
    precise = decode_image(image, 8, as_float=True)
    assert precise.shape == (3, 8, 8) and precise.dtype == np.float32
    np.testing.assert_allclose(precise[0], values / 65535, atol=1e-6)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_half_an_image_is_refused(format, share):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = encoded(noise, format)
    decode_image(content, 64)
    with pytest.raises(UndecodableImage):
        decode_image(content[: int(share * len(content))], 64)


def test_what_is_not_an_image_is_refused():
    for content in (b"", b"not an image", b"\xff\xd8 nor this"):
        with pytest.raises(UndecodableImage, match="not an image"):
            decode_image(content, 8)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("size", "says"), [((300, 300), "a decompression bomb: 300 x 300 pixels"), ((2, 40), "a strip")]
)
def test_bombs_and_strips_are_refused_without_a_warning(monkeypatch, format, size, says):
    content = encoded(Image.new("RGB", size), format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)  # Pillow itself only warns of less than twice as many
    with warnings.catch_warnings():
        warnings.filterwarnings("error")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        with pytest.raises(UndecodableImage, match=says):
            decode_image(content, 8)
