"""Near-identical pictures are found and counted."""

import numpy as np
from input_table import config_for, listening
from PIL import Image, ImageOps

from pipeline_anime_ddpm.data import open_data
from pipeline_anime_ddpm.data.near_identical import find_repeats


def test_near_identical_pictures_are_counted_before_training(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    drawn = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    shapes = [Image.fromarray(pixels).resize((64, 64)) for pixels in drawn]
    for number, image in enumerate(shapes):
        image.save(folder / f"{number}.png")
    shapes[0].save(folder / "again.jpg", quality=80)
    ImageOps.mirror(shapes[1]).resize((80, 80)).save(folder / "mirrored.webp")
    with listening() as said:
        open_data(config_for(folder), 64, show_progress=True)
    (sentence,) = said
    assert "2 of the 5 pictures are near-identical to another one, such as " in sentence
    assert "0.png and again.jpg" in sentence or "1.png and mirrored.webp" in sentence


def test_repeats_are_found_however_many_pictures_lie_between():
    random = np.random.default_rng(0)
    thumbnails = random.uniform(0, 255, (700, 3, 8, 8)).astype(np.float32)
    assert find_repeats(thumbnails) is None
    thumbnails[650] = thumbnails[3] + random.normal(0, 1, (3, 8, 8))
    thumbnails[651] = thumbnails[4][..., ::-1]
    found = find_repeats(thumbnails)
    assert found.count == 2 and found.example in ((3, 650), (4, 651))
