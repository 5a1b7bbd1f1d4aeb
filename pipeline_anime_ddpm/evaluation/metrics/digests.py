"""Numbers that are the same everywhere: short names for images and weights, and networks in full precision."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch

LENGTH = 16  # hexadecimal digits that are kept of a SHA-256
ROWS_AT_ONCE = 4096


def pixel_digest(pixels: np.ndarray) -> str:
    """Digest of decoded images `(n, 3, H, W)` uint8: the same for every copy of the data."""
    digest = hashlib.sha256(str(pixels.shape).encode())
    for start in range(0, len(pixels), ROWS_AT_ONCE):
        digest.update(np.ascontiguousarray(pixels[start : start + ROWS_AT_ONCE]).data)
    return digest.hexdigest()[:LENGTH]


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Digest of a network's weights: names, shapes, types and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:LENGTH]


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """CUDA's convolutions and matrix products in float32, not TF32, which would change the third digit of a feature."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
