"""Short names of images and weights, which are the same everywhere."""

import numpy as np
import pytest
import torch

from pipeline_anime_ddpm.evaluation.metrics.digests import full_precision, pixel_digest, state_digest


def test_digest_of_pixels_depends_on_values_and_shape_alone():
    pixels = np.arange(5000 * 12, dtype=np.uint8).reshape(5000, 3, 2, 2)
    turned = pixels.transpose(0, 1, 3, 2)
    assert pixel_digest(np.ascontiguousarray(turned)) == pixel_digest(turned) != pixel_digest(pixels)
    assert pixel_digest(pixels.reshape(5000, 3, 4, 1)) != pixel_digest(pixels)
    changed = pixels.copy()
    changed[-1] += 1
    assert pixel_digest(changed) != pixel_digest(pixels) and len(pixel_digest(pixels)) == 16


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.zeros(4), "b": torch.ones(2)},
        {"a": torch.zeros(2, 2), "c": torch.ones(2)},
        {"a": torch.zeros(2, 2), "b": torch.ones(2).double()},
        {"a": torch.zeros(2, 2), "b": torch.full((2,), 2.0)},
    ],
)
def test_digest_of_weights_depends_on_names_shapes_types_and_values(other):
    state = {"a": torch.zeros(2, 2), "b": torch.ones(2)}
    assert state_digest(dict(reversed(state.items()))) == state_digest(state) != state_digest(other)


def test_precision_is_as_before_afterwards():
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        with pytest.raises(KeyError), full_precision():
            assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
            raise KeyError
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
