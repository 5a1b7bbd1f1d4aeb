"""The shift-tolerant LPIPS is that of its authors."""

import numpy as np
import pytest
import torch

from pipeline_anime_ddpm.evaluation.networks.perceptual import load_distance


def noisy_pair():
    """What the reference numbers below were measured on."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(0, 256, (4, 3, 64, 64), generator=generator, dtype=torch.uint8)
    noise = torch.randint(-60, 61, (4, 3, 64, 64), generator=generator)
    return first.numpy(), (first + noise).clamp(0, 255).to(torch.uint8).numpy()


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("st-alex", [0.0059736, 0.0052406, 0.0055136, 0.0053904]),
        ("st-vgg", [0.0120889, 0.0110976, 0.0108098, 0.0119692]),
    ],
)
def test_st_lpips_is_the_published_codes_number(key, expected):
    """Measured once with the code of stlpips-pytorch 0.0.2, which is not needed here: only its weights are read."""
    distance = load_distance(key)
    assert distance.name.startswith("ST-LPIPS")
    first, second = map(distance.embed, noisy_pair())
    np.testing.assert_allclose((first - second).square().sum(1).numpy(), expected, rtol=1e-4)
