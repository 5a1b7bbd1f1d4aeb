"""Noise that a name determines, the same in Python and in JavaScript (`web/src/names.js`).

The name, in Unicode's form NFC and without white space at its ends, is hashed by FNV-1a (64 bits) over its UTF-8 bytes.
The hash is the key of Philox 4x32-10 (Salmon et al., SC 2011), whose counter is (block, stream, 0, 0). A block gives
four uniform numbers and, by Box and Muller, four normal ones. `web/test/vectors.json` has values to test by.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

FNV_OFFSET, FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS, LOW, BITS = 10, np.uint64(0xFFFFFFFF), np.uint64(32)
# Named, because languages differ in what they strip; and halves of characters have no UTF-8.
ENDS = re.compile("^[ \t\n\r\u00a0\u3000]+|[ \t\n\r\u00a0\u3000]+\\Z")
HALVES = re.compile("[\ud800-\udfff]")
FACE = (3, 64, 64)


def name_key(name: str) -> int:
    """The 64-bit key of a name."""
    text = ENDS.sub("", HALVES.sub("\ufffd", unicodedata.normalize("NFC", name)))
    key = FNV_OFFSET
    for byte in text.encode():
        key = (key ^ byte) * FNV_PRIME % 2**64
    return key


def philox(counter: np.ndarray, key: int) -> np.ndarray:
    """Philox 4x32-10.

    Args:
        counter: `(n, 4)` of 32-bit words.
        key: 64 bits, whose lower half is the first word.

    Returns:
        `(n, 4)` uint32.
    """
    first, second, third, fourth = counter.astype(np.uint64).T
    keys = [key % 2**32, key >> 32]
    for _ in range(ROUNDS):
        left, right = first * MULTIPLIERS[0], third * MULTIPLIERS[1]
        first, second = (right >> BITS) ^ second ^ np.uint64(keys[0]), right & LOW
        third, fourth = (left >> BITS) ^ fourth ^ np.uint64(keys[1]), left & LOW
        keys = [(word + step) % 2**32 for word, step in zip(keys, KEY_STEPS, strict=True)]
    return np.stack([first, second, third, fourth], axis=1).astype(np.uint32)


def noise_for(name: str, shape: Sequence[int] = FACE, stream: int = 0) -> np.ndarray:
    """Unit normal noise of `shape`, float32, in the order of its last index.

    Args:
        stream: another one gives independent noise for the same name.
    """
    count = math.prod(shape)
    counter = np.zeros((-(-count // 4), 4), np.uint64)
    counter[:, 0], counter[:, 1] = np.arange(len(counter)), stream
    uniform = (philox(counter, name_key(name)).astype(np.float64) + 0.5) / 2**32
    radius, angle = np.sqrt(-2 * np.log(uniform[:, 0::2])), 2 * np.pi * uniform[:, 1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    return pairs.reshape(-1)[:count].reshape(tuple(shape)).astype(np.float32)


def latents_for(names: str | Sequence[str], shape: Sequence[int] = FACE, stream: int = 0) -> torch.Tensor:
    """The noise of names, for `pipe(latents=latents_for("Ada"))`: the face that the page in the browser shows.

    Args:
        names: one, or several for a batch.
        shape: `pipe.image_shape` of the model, `(C, H, W)`.
        stream: 0 for the face, 1 for its enlargement by `pipe.upscale`.

    Returns:
        `(B, C, H, W)` float32, unit normal noise, one image for each name.
    """
    import torch

    names = [names] if isinstance(names, str) else names
    return torch.from_numpy(np.stack([noise_for(name, shape, stream) for name in names]))
