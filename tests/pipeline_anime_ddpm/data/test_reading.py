"""A broken image is skipped and named once; a broken network is waited for."""

import numpy as np
import pytest
from odd_sets import png

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data.reading import Decoder, SkipLog, Skipped, check_skipped, crop, read_skipped
from pipeline_anime_ddpm.data.units import EncodedImage


@pytest.mark.parametrize("threads", [1, 2])
def test_images_are_decoded_in_order_and_broken_ones_named(threads, tmp_path):
    (tmp_path / "b.png").write_bytes(png(1))
    images = [
        EncodedImage("a", png(0)),
        EncodedImage("b", None, str(tmp_path / "b.png")),
        EncodedImage("c", b"not an image"),
        EncodedImage("d", None),
        EncodedImage("e", None, str(tmp_path)),
        EncodedImage("f", None, refused="encrypted"),
        EncodedImage("g", None, opened=lambda: png(2)),
    ] * 20
    decoder = Decoder(16, False, False, False, threads)
    made = list(decoder.decode(images))
    decoder.close()
    assert [image.name for image in made[:7] if isinstance(image, Skipped)] == list("cdef")
    assert made[3:6] == [Skipped("d", "an empty row"), Skipped("e", "not a regular file"), Skipped("f", "encrypted")]
    assert [image for image in made if isinstance(image, Skipped)] == made[2:6] * 20
    alone = [Decoder(16, False, False, False, 1).decode_one(images[n]) for n in (0, 1, 6)]
    for number in range(20):
        assert all(np.array_equal(made[7 * number + n], image) for n, image in zip((0, 1, 6), alone, strict=True))


def test_crops_reach_every_side():
    image = np.arange(30).reshape(1, 5, 6)
    assert crop(image, 4)[0, 0].tolist() == [1, 2, 3, 4]
    assert crop(image, 4, (0, 0))[0, 0, 0] == 0 and crop(image, 4, (0.999, 0.999))[0, -1, -1] == 29


def test_too_many_broken_images_are_refused(tmp_path):
    check_skipped(1, 100, 0.01, tmp_path)
    with pytest.raises(UserError, match=r"2 of 100 images cannot be decoded, more than --max_skipped_fraction 0\.01"):
        check_skipped(2, 100, 0.01, tmp_path)


def test_what_a_kill_or_a_disk_has_spoilt_of_the_list_is_passed_over(tmp_path):
    path = tmp_path / "skipped.jsonl"
    SkipLog(path, 1).add([Skipped("a.png", "not an image")], 1)
    path.write_bytes(path.read_bytes() + b'\xff\n[1]\n{"name": 7}\n{"na')
    assert read_skipped(path) == {Skipped("a.png", "not an image")}
