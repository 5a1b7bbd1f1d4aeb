"""Features are those of the network on images resized once and scaled as its own processor says."""

import json
import pickle
import shutil
import urllib.error

import numpy as np
import pytest
import torch
import torch_fidelity
import transformers
from evaluation_data import pictures, save
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import FrechetInceptionDistance

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.evaluation.metrics.distances import frechet_distance
from pipeline_anime_ddpm.evaluation.networks.extractors import InceptionExtractor, load_extractor


@pytest.fixture(scope="module")
def vit(tiny_vit):
    return load_extractor(str(tiny_vit))


def test_features_are_the_models_own_at_its_size(vit, tiny_vit):
    images = pictures(5, seed=2, side=28)  # the crop's size: nothing to resize
    processor = transformers.AutoImageProcessor.from_pretrained(tiny_vit)
    inputs = processor(list(torch.from_numpy(images)), do_resize=False, do_center_crop=False, return_tensors="pt")
    model = transformers.AutoModel.from_pretrained(tiny_vit, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(inputs.pixel_values.float()).last_hidden_state[:, 0]
    features = vit.extract(images, batch_size=2)
    assert features.shape == (5, 24)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_weights_saved_in_half_precision_are_computed_in_float32(vit):
    assert {parameter.dtype for parameter in vit.model.parameters()} == {torch.float32}


def test_images_are_resized_once_and_antialiased(vit, monkeypatch):
    """Fine stripes are grey after a resize that averages; one that looks at the nearest pixels alone sees black."""
    seen = []
    monkeypatch.setattr(vit, "_pooled", lambda pixels: seen.append(pixels) or pixels.mean((2, 3)))
    stripes = np.tile(np.array([255, 0, 0, 255], np.uint8), 28)
    vit.extract(np.broadcast_to(stripes, (1, 3, 112, 112)), batch_size=1)
    (pixels,) = seen
    assert pixels.shape == (1, 3, 28, 28)
    grey = (0.5 - torch.tensor([0.4, 0.5, 0.6])) / torch.tensor([0.2, 0.25, 0.3])
    assert (pixels - grey.view(1, 3, 1, 1))[..., 3:-3].abs().max() < 0.05  # but for the borders
    assert vit.resize == "to 28x28 by antialiased bicubic"


def test_only_inception_gives_a_number_called_fid(vit, tiny_vit):
    assert vit.named("FID") == "FD-tiny-vit"
    assert vit.named("KID") == "KID-tiny-vit"
    assert load_extractor(str(tiny_vit), label="my net").named("FID") == "FD-my net"


def test_different_weights_have_different_digests(vit, tiny_vit, tmp_path):
    model = transformers.AutoModel.from_pretrained(tiny_vit)
    with torch.no_grad():
        model.layernorm.bias[0] += 1
    shutil.copytree(tiny_vit, tmp_path / "other")
    model.save_pretrained(tmp_path / "other")
    assert load_extractor(str(tmp_path / "other")).digest != vit.digest == load_extractor(str(tiny_vit)).digest


def test_floats_are_refused_rather_than_taken_for_nearly_black(vit):
    """torchmetrics hands floats in [0, 1] to an extractor of one's own as they are."""

    class Features(torch.nn.Module):
        num_features = 24

        def forward(self, images):
            return vit.features(images)

    real, fake = (torch.from_numpy(pictures(40, seed)) for seed in (3, 4))
    metric = FrechetInceptionDistance(feature=Features(), normalize=True)
    with pytest.raises(TypeError, match="uint8"):
        metric.update(real / 255, real=True)
    metric = FrechetInceptionDistance(feature=Features())
    metric.update(real, real=True)
    metric.update(fake, real=False)
    ours = frechet_distance(vit.extract(fake.numpy(), 8), vit.extract(real.numpy(), 8))
    assert ours == pytest.approx(metric.compute().item(), abs=2e-3 * ours)  # torchmetrics adds up in float32


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic"), 12),
        (transformers.CLIPConfig(
            text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                         "vocab_size": 50, "max_position_embeddings": 8},
            vision_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
                           "intermediate_size": 16, "patch_size": 14},
            projection_dim=10,
        ), 10),
    ],
)  # fmt: skip
def test_convolutional_and_image_text_models_give_their_own_pooled_features(config, size, tiny_vit, tmp_path):
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "net")
    shutil.copy(tiny_vit / "preprocessor_config.json", tmp_path / "net")
    assert load_extractor(str(tmp_path / "net")).extract(pictures(3, seed=5), 3).shape == (3, size)


def test_unloadable_models_are_refused(tiny_vit, tmp_path):
    with pytest.raises(UserError, match=r"--extractor no/such-model cannot be loaded .*give `inception`"):
        load_extractor("no/such-model")
    shutil.copytree(tiny_vit, tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="preprocessor_config"):
        load_extractor(str(tmp_path / "bare"))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("preprocessor_config.json", {"image_mean": [0.1, 0.5, 0.6]}),
        ("preprocessor_config.json", {"rescale_factor": 1 / 200}),
        ("config.json", {"num_attention_heads": 4}),
        ("config.json", {"layer_norm_eps": 1e-3}),
    ],
)
def test_extractor_settings_have_a_digest(vit, tiny_vit, tmp_path, file, change):
    shutil.copytree(tiny_vit, tmp_path / "other")
    path = tmp_path / "other" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    other = load_extractor(str(tmp_path / "other"))
    assert other.digest == vit.digest
    assert other.facts["settings"] != vit.facts["settings"] == load_extractor(str(tiny_vit)).facts["settings"]


def test_models_that_give_no_vectors_of_images_are_refused_at_once(vit, tiny_vit, tmp_path, monkeypatch):
    bert = transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    transformers.AutoModel.from_config(bert).save_pretrained(tmp_path / "text")
    shutil.copy(tiny_vit / "preprocessor_config.json", tmp_path / "text")
    with pytest.raises(UserError, match="does not accept images"):
        load_extractor(str(tmp_path / "text"))
    pooled = type(vit)._pooled
    for spoiled, sentence in [
        (lambda self, pixels: pooled(self, pixels) * torch.nan, "not return finite feature vectors"),
        (lambda self, pixels: pooled(self, pixels) + torch.rand(1), "different features each time"),
    ]:
        monkeypatch.setattr(type(vit), "_pooled", spoiled)
        with pytest.raises(UserError, match=sentence):
            load_extractor(str(tiny_vit))


def test_model_with_missing_weights_is_refused(tiny_vit, tmp_path):
    shutil.copytree(tiny_vit, tmp_path / "larger")
    config = json.loads((tmp_path / "larger" / "config.json").read_text())
    (tmp_path / "larger" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match="lacks weights"):
        load_extractor(str(tmp_path / "larger"))


def test_pooler_without_weights_matters_only_where_it_is_used(tiny_vit, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vit = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=28, patch_size=14), add_pooling_layer=False)
    swin = transformers.SwinModel(
        transformers.SwinConfig(image_size=28, patch_size=14, embed_dim=8, depths=[1], num_heads=[2], window_size=2),
    )
    for name, model in (("vit", vit), ("swin", swin)):
        model.save_pretrained(tmp_path / name)
        shutil.copy(tiny_vit / "preprocessor_config.json", tmp_path / name)
    assert load_extractor(str(tmp_path / "vit")).extract(pictures(2, seed=5), 2).shape == (2, 16)
    assert load_extractor(str(tmp_path / "swin")).extract(pictures(2, seed=5), 2).shape == (2, 8)


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """FID's architecture with random weights: its published ones cannot be downloaded here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *args, **kwargs: None)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.slow
def test_fid_is_torch_fidelitys_on_the_same_images(inception_weights, tmp_path):
    real, fake = (pictures(6, seed) for seed in (6, 7))
    folders = [str(save(tmp_path / name, images)) for name, images in (("fake", fake), ("real", real))]
    theirs = torch_fidelity.calculate_metrics(
        input1=folders[0], input2=folders[1], fid=True, cuda=False, batch_size=6, verbose=False,
        cache=False, save_cpu_ram=True, feature_extractor_weights_path=str(inception_weights),
    )  # fmt: skip
    extractor = InceptionExtractor(str(inception_weights))
    features = [extractor.extract(images, batch_size=6) for images in (fake, real)]
    assert extractor.named("FID") == "FID"
    ours = frechet_distance(*features)
    assert ours == pytest.approx(theirs["frechet_inception_distance"], abs=1e-4 * max(1, ours))


def test_images_larger_than_inceptions_are_made_smaller_with_antialiasing(inception_weights):
    extractor = InceptionExtractor(str(inception_weights))
    board = np.broadcast_to((np.indices((598, 598)).sum(0) % 2 * 255).astype(np.uint8), (1, 3, 598, 598))
    grey = np.full((1, 3, 299, 299), 128, np.uint8)
    np.testing.assert_allclose(extractor.extract(board, 1), extractor.extract(grey, 1), atol=1e-3)


def test_weights_that_cannot_be_fetched_or_read_are_refused(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", offline)
    with pytest.raises(UserError, match=r"cannot be fetched .*no network.*weights-inception.*--extractor_weights FILE"):
        load_extractor("inception")
    with pytest.raises(UserError, match="cannot be read"):
        load_extractor("inception", weights=str(tmp_path / "nothing.pth"))
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="does not hold the network of FID"):
        load_extractor("inception", weights=str(tmp_path / "other.pth"))


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_hostile_file_of_weights_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("bomb.pth", "wb") as file:
        pickle.dump({"weight": Bomb()}, file)
    torch.save({"weight": Bomb()}, "bomb2.pth")
    for name in ("bomb.pth", "bomb2.pth"):
        with pytest.raises(UserError):
            load_extractor("inception", weights=name)
    assert not (tmp_path / "exploded").exists()
