"""Augmentation of faces keeps what is learned from them."""

import torch

from pipeline_anime_ddpm.evaluation.attributes.augmentation import FaceAugmentation, white_background


def test_augmentation_keeps_shape_range_and_hue():
    images = torch.tensor([40, 80, 200], dtype=torch.uint8)[None, :, None, None].repeat(24, 1, 64, 64)
    changed = FaceAugmentation(0, erasing_share=0.0)(images)
    assert changed.shape == images.shape and changed.abs().max() <= 1
    red, green, blue = changed.mean(dim=(2, 3)).unbind(dim=1)
    assert (blue > green).all() and (green > red).all()
    assert not torch.equal(changed[0], changed[1])
    assert torch.equal(changed, FaceAugmentation(0, erasing_share=0.0)(images))


def test_white_background_is_what_touches_the_border():
    image = torch.zeros(1, 3, 64, 64)
    image[..., :16] = 1
    image[..., 28:36, 40:48] = 1  # a highlight
    mask = white_background(image)
    assert mask[..., :14].min() > 0.99
    assert mask[..., 18:].max() < 0.01
