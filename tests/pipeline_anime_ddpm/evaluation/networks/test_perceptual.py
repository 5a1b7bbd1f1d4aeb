"""LPIPS as an embedding is LPIPS; the weights come from files or are asked for in one sentence."""

import urllib.error

import lpips
import numpy as np
import pytest
import torch
import torchvision
from evaluation_data import pictures

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.evaluation.networks.perceptual import load_distance
from pipeline_anime_ddpm.evaluation.networks.st_lpips import find_weights


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """torchvision's AlexNet with random weights; the published ones cannot be downloaded here."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("lpips") / "alexnet.pth"
    features = torchvision.models.alexnet(weights=None).features.state_dict()
    torch.save({f"features.{name}": tensor for name, tensor in features.items()}, path)
    return path


def between(distance, first, second):
    return (distance.embed(first) - distance.embed(second)).square().sum(1).numpy()


def test_lpips_is_the_packages_own_number(alexnet):
    first, second = pictures(4, seed=0, side=64), pictures(4, seed=1, side=64)
    distance = load_distance("alex", str(alexnet))
    model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = {name.removeprefix("features."): tensor for name, tensor in torch.load(alexnet).items()}
    model.net.load_state_dict({name: state[name.partition(".")[2]] for name in model.net.state_dict()})
    pixels = [torch.from_numpy(images).float() / 127.5 - 1 for images in (first, second)]
    with torch.no_grad():
        expected = model(*pixels).flatten().numpy()
    np.testing.assert_allclose(between(distance, first, second), expected, rtol=1e-4)
    assert distance.facts == {"name": "LPIPS (AlexNet)", "weights": distance.digest}


def test_distances_of_pixels_are_mean_squared_differences():
    first, second = pictures(3, seed=2), pictures(3, seed=3)
    difference = (first.astype(float) - second.astype(float)) / 255
    expected = np.square(difference).mean((1, 2, 3))
    np.testing.assert_allclose(between(load_distance("pixels"), first, second), expected, rtol=1e-4)


def test_missing_weights_are_refused(alexnet, tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    with pytest.raises(UserError, match=r"cannot be fetched .*no network.*alexnet-owt.*--lpips_weights.*st-alex"):
        load_distance("alex")
    with pytest.raises(UserError, match=r"does not hold the network of LPIPS \(VGG\)"):
        load_distance("vgg", str(alexnet))
    with pytest.raises(UserError, match=r"does not hold the network of ST-LPIPS"):
        load_distance("st-alex", str(alexnet))
    with pytest.raises(UserError, match=r"does not hold the network of ST-LPIPS \(VGG\)"):
        load_distance("st-vgg", str(find_weights("alex")))
    with pytest.raises(UserError, match="cannot be read"):
        load_distance("alex", str(tmp_path / "nothing.pth"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install stlpips-pytorch"):
        load_distance("st-alex")


def test_images_that_are_too_small_for_the_network_are_refused():
    with pytest.raises(UserError, match="at least 32 pixels, but these have 16"):
        load_distance("st-alex").check_size(16)
    load_distance("pixels").check_size(16)
