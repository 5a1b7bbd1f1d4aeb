"""Pictures for the tests of the evaluation, and a network that looks at them."""

import json

import numpy as np
import torch
from PIL import Image

SIDE = 16


def pictures(count, seed, side=SIDE):
    """Smooth coloured blobs `(n, 3, side, side)` uint8: alike enough to be a distribution, no two the same."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    images = []
    for _ in range(count):
        centre, width, colour = random.uniform(0.3, 0.7, 2), random.uniform(0.1, 0.3), random.uniform(0, 255, (2, 3))
        blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / width**2)[..., None]
        images.append(blob * colour[0] + (1 - blob) * colour[1] + random.normal(0, 3, (side, side, 3)))
    return np.stack(images).clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2)


def save(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:03d}.png")
    return folder


def save_tiny_vit(folder):
    """DINOv2's architecture with random weights, saved in half precision, and a processor of its own."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    Dinov2Model(config).half().save_pretrained(folder)
    processor = {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 32},
        "do_center_crop": True,
        "crop_size": {"height": 28, "width": 28},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.25, 0.3],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def colour_extractor():
    """A stand-in for EfficientNet-Lite0 that needs no weights: the mean colours of 4 x 4 parts of an image."""
    from pipeline_anime_ddpm.evaluation.networks.extractors import FeatureExtractor
    from pipeline_anime_ddpm.evaluation.settings import EFFICIENTNET_LABEL

    class ColourExtractor(FeatureExtractor):
        label, digest, size, resize = EFFICIENTNET_LABEL, "0123456789abcdef", (4, 4), "to 4x4 by area"
        least_for_frechet = 2000

        def __init__(self, device="cpu"):
            self.device = torch.device(device)

        def features(self, images):
            return torch.nn.functional.adaptive_avg_pool2d(images.float() - 127, 4).flatten(1)

    return ColourExtractor
