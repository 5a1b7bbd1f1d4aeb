"""Picture files of the demo: enlarged faces, data addresses, contact sheets, films."""

import io
from types import SimpleNamespace

import pytest
from PIL import Image

from pipeline_anime_ddpm.demo import pictures as demo_pictures


def test_upscaler_enlarges_before_the_rest_is_resampled():
    seen = []

    def upscale(image, generator):
        seen.append(image.size)
        return SimpleNamespace(images=[image.resize((32, 32), Image.NEAREST)])

    model = SimpleNamespace(can_upscale=True, pipeline=SimpleNamespace(upscale=upscale))
    assert demo_pictures.enlarge(model, Image.new("RGB", (16, 16)), 512).size == (512, 512) and seen == [(16, 16)]
    assert demo_pictures.enlarge(model, Image.new("RGB", (16, 16)), 8).size == (8, 8) and len(seen) == 1


def test_files_keep_their_facts_and_colours():
    image = Image.new("RGB", (16, 16), (10, 200, 30))
    saved = Image.open(io.BytesIO(demo_pictures.png(image, {"hair": "blå"})))
    assert saved.info["hair"] == "blå"
    lossless = Image.open(io.BytesIO(demo_pictures.webp(image, 100)))
    assert lossless.getpixel((3, 3)) == (10, 200, 30)


def test_data_addresses_are_read_again():
    assert demo_pictures.from_data_url(demo_pictures.data_url(b"content")) == b"content"


@pytest.mark.parametrize(
    "address", ["", "data:text/html;base64,aaaa", "data:image/png;base64,a", "https://example.org"]
)
def test_other_addresses_hold_nothing(address):
    assert demo_pictures.from_data_url(address) == b""


def test_film_goes_there_and_back():
    frames = [Image.new("RGB", (64, 64), (value, 0, 0)) for value in (0, 80, 160, 240)]
    film = Image.open(io.BytesIO(demo_pictures.film(frames)))
    reds = []
    for number in range(film.n_frames):
        film.seek(number)
        reds.append(film.convert("RGB").getpixel((128, 128))[0])
    assert film.size == (256, 256) and reds == pytest.approx([0, 80, 160, 240, 160, 80], abs=8)


def test_contact_sheet_has_as_many_columns_as_rows_or_one_more():
    sizes = [demo_pictures.contact_sheet([Image.new("RGB", (16, 16))] * count).size for count in (1, 2, 5, 60)]
    assert sizes == [(256, 256), (512, 256), (768, 512), (1536, 2560)]
