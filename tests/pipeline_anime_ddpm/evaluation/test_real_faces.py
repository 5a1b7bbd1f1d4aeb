"""On real faces the distances grow with every damage, and copies are told from new faces."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipeline_anime_ddpm.evaluation.image_sets import DataSet
from pipeline_anime_ddpm.evaluation.metrics.distances import frechet_distance, monge_distance
from pipeline_anime_ddpm.evaluation.metrics.memorisation import find_nearest
from pipeline_anime_ddpm.evaluation.networks.extractors import load_extractor
from pipeline_anime_ddpm.evaluation.networks.perceptual import load_distance
from pipeline_anime_ddpm.evaluation.reference import chance_limit, copy_threshold

pytestmark = [pytest.mark.slow, pytest.mark.realdata]


@pytest.fixture(scope="module")
def faces(realdata, tmp_path_factory):
    data = DataSet(str(realdata), cache_dir=str(tmp_path_factory.mktemp("cache")))
    return {split: data.open(split, 64) for split in ("train", "validation")}


@pytest.fixture(scope="module")
def extractor(realdata):
    folder = realdata.parents[1] / "features" / "vit_s14"
    if not folder.is_dir():
        pytest.skip(f"{folder} isn't there: the extractor doesn't travel with the repository")
    return load_extractor(str(folder))


def noise(pixels, strength):
    return (pixels + np.random.default_rng(0).normal(0, strength, pixels.shape)).clip(0, 255).astype(np.uint8)


def through_pillow(pixels, change):
    pictures = (Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))) for image in pixels)
    return np.stack([np.asarray(change(picture)).transpose(2, 0, 1) for picture in pictures])


def blur(pixels, strength):
    return through_pillow(pixels, lambda picture: picture.filter(ImageFilter.GaussianBlur(strength)))


def jpeg(pixels, quality):
    def compress(picture):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return through_pillow(pixels, compress)


@pytest.fixture(scope="module")
def whole(faces, extractor):
    """32 training images, and the features of 32 held-out ones and of these."""
    images, real = faces["train"].take(32).pixels, faces["validation"].take(32).pixels
    return images, extractor.extract(real, 32), extractor.extract(images, 32)


@pytest.mark.parametrize(("damage", "levels"), [(blur, (0.7, 1.2, 2)), (jpeg, (50, 20, 5)), (noise, (8, 18, 30))])
def test_distances_grow_with_damage(whole, extractor, damage, levels):
    images, real, features = whole
    damaged = [extractor.extract(damage(images, level), 32) for level in levels]
    for distance in (frechet_distance, monge_distance):
        undamaged, light, middle, strong = (distance(each, real) for each in (features, *damaged))
        assert light < middle < strong
        assert undamaged < middle  # 32 images are too few to tell light damage; 1,000 do (benchmarks/evaluation.py)


def test_copies_are_told_from_faces_that_no_model_has_seen(faces):
    distance = load_distance("st-alex")
    training, unseen = faces["train"].take(400).pixels, faces["validation"].take(120).pixels
    source = training[:20]
    copies = np.concatenate([source[..., ::-1], noise(source, 6), noise(source, 6)[..., ::-1]])
    nearest = find_nearest(np.concatenate([unseen, copies]), training, distance).distances[:, 0]
    held_out, generated = nearest[:60], nearest[120:]
    threshold = copy_threshold(held_out)
    assert (generated < threshold).mean() > 0.95
    other = int((nearest[60:120] < threshold).sum())
    assert other <= chance_limit(60, int((held_out < threshold).sum()), 60)
    assert other <= 2
