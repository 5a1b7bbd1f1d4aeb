"""The noise of a name is that of the published generators, and of the test vectors that JavaScript is held to."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline_anime_ddpm import latents_for
from pipeline_anime_ddpm.exporting.names import name_key, noise_for, philox

VECTORS = json.loads((Path(__file__).parents[3] / "web" / "test" / "vectors.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["philox"])
def test_philox_is_that_of_random123(vector):
    counter, key, expected = ([int(word, 16) for word in vector[part]] for part in ("counter", "key", "output"))
    assert philox(np.array([counter], np.uint64), key[0] + (key[1] << 32))[0].tolist() == expected


@pytest.mark.parametrize("vector", VECTORS["keys"], ids=lambda vector: ascii(vector["name"]))
def test_keys_are_fnv_1a(vector):
    assert f"{name_key(vector['name']):016x}" == vector["key"]


@pytest.mark.parametrize("vector", VECTORS["noise"], ids=lambda vector: ascii(vector["name"]))
def test_noise_is_that_of_the_vectors(vector):
    noise = noise_for(vector["name"], (3, 64, 64), vector["stream"]).reshape(-1)
    np.testing.assert_allclose(noise[: len(vector["first"])], vector["first"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(noise[-len(vector["last"]) :], vector["last"], rtol=0, atol=1e-6)


def test_noise_is_normal_and_differs_by_name_and_stream():
    noise = np.stack([noise_for(f"face {number}") for number in range(20)]).astype(np.float64)
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01 and abs((noise**4).mean() - 3) < 0.05
    flat = noise.reshape(20, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(20)).max() < 0.06
    assert not np.array_equal(noise_for("Ada"), noise_for("Ada", stream=1))


def test_latents_are_a_batch_for_the_pipeline():
    latents = latents_for(["Ada", "Bob"], (3, 16, 8))
    assert latents.shape == (2, 3, 16, 8) and latents.dtype == torch.float32
    assert torch.equal(latents_for("Bob", (3, 16, 8))[0], latents[1])
    assert latents_for("Ada").shape == (1, 3, 64, 64)
    large = latents_for("Ada", (3, 16, 8), stream=1)
    assert np.array_equal(large[0], noise_for("Ada", (3, 16, 8), stream=1))
