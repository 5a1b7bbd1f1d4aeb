"""Pictures that visitors send are bounded and stripped; the endpoints' answers are in test_refusals.py."""

import io

import numpy as np
import pytest
from endpoint_parts import layer
from odd_sets import png
from PIL import Image

from pipeline_anime_ddpm.demo.limits import MAX_BYTES, Refused
from pipeline_anime_ddpm.demo.uploads import on_white, painted, read_upload


def test_nothing_but_pixels_is_kept():
    file = io.BytesIO()
    turned = Image.Exif()
    turned[274], turned[315] = 3, "the artist"
    image = Image.new("RGB", (4, 4), "white")
    image.paste("red", (0, 0, 4, 2))
    image.save(file, "JPEG", exif=turned, quality=100)
    read = read_upload(file.getvalue(), "picture")
    assert read.mode == "RGBA" and not read.getexif() and not read.info
    red = np.asarray(on_white(read))[..., 1] < 100
    assert red[2:].all() and not red[:2].any(), "upright"


@pytest.mark.parametrize(
    ("source", "says"),
    [(None, "Choose a picture first"), (b"", "Choose"), (bytes(MAX_BYTES + 1), "more than 8 MB"), (b"x", "cannot be")],
)
def test_what_is_no_picture_is_refused(source, says):
    with pytest.raises(Refused, match=says):
        read_upload(source, "picture")


def test_picture_of_many_pixels_is_not_decoded():
    file = io.BytesIO()
    Image.new("1", (5000, 4000)).save(file, "PNG")
    with pytest.raises(Refused, match="more than 16 megapixels"):
        read_upload(file.getvalue(), "picture")


def test_mask_is_where_any_layer_is_painted(tmp_path):
    layers = [str(layer(tmp_path / f"{n}.png", (n, 0, n + 1, 16), (16, 16))) for n in (2, 5)]
    mask = np.asarray(painted(layers, (16, 16)))
    assert set(np.flatnonzero(mask.any(axis=0)).tolist()) == {2, 5} and set(np.unique(mask).tolist()) == {0, 255}
    with pytest.raises(Refused, match="size of the picture"):
        painted([png()], (8, 8))
