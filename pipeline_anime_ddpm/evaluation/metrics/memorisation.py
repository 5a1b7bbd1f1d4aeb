"""Is a generated image one of the training images? An exact search for the nearest, by LPIPS, features or pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from tqdm.auto import tqdm

from ..networks.extractors import FeatureExtractor
from ..networks.perceptual import PerceptualDistance
from .digests import full_precision

REFERENCES_AT_ONCE = 64
MAX_MEMORY = 4e9  # bytes of embeddings that are held at a time; more images are searched for in several passes


@dataclass(frozen=True)
class Nearest:
    """For each of n images its k nearest others, nearest first: all arrays are `(n, k)`.

    Attributes:
        distances: in the units of the distance.
        indices: which images they are.
        mirrored: whether the image had to be mirrored to come so near.
    """

    distances: np.ndarray
    indices: np.ndarray
    mirrored: np.ndarray


class FeatureDistance:
    """The cosine distance `1 - cos(x, y)` of an extractor's features, as a squared Euclidean distance of embeddings.

    It has what `find_nearest` needs of a `PerceptualDistance`.

    Args:
        extractor: of the features.
    """

    def __init__(self, extractor: FeatureExtractor):
        self.extractor, self.device, self.digest = extractor, extractor.device, extractor.digest
        self.resize = f"{extractor.resize}, {extractor.settings}"
        self.key = f"cosine {extractor.label}"
        self.name = f"cosine distance of {extractor.label} features"

    @full_precision()
    @torch.no_grad()
    def embed(self, images: np.ndarray) -> torch.Tensor:
        """`(B, D)` float32 of uint8 `images` `(B, 3, H, W)`."""
        return self.of_features(self.extractor.features(torch.from_numpy(images.copy()).to(self.device)).float())

    def of_features(self, features: torch.Tensor) -> torch.Tensor:
        """Embeddings `(B, D)` of the extractor's features `(B, D)`: length `1 / sqrt(2)`."""
        return torch.nn.functional.normalize(features) / 2**0.5

    def batches(self, images: np.ndarray, size: int) -> Iterator[torch.Tensor]:
        """Embeddings of all `images`, `size` at a time."""
        for start in range(0, len(images), size):
            yield self.embed(images[start : start + size])

    @property
    def facts(self) -> dict[str, Any]:
        """Facts to report with each number."""
        return self.extractor.facts | {"name": self.name}


@full_precision()
def find_nearest(
    images: np.ndarray,
    others: np.ndarray,
    distance: PerceptualDistance | FeatureDistance,
    count: int = 1,
    exclude: np.ndarray | None = None,
    show_progress: bool = False,
    memory: float | None = None,
    embedded: torch.Tensor | None = None,
) -> Nearest:
    """The nearest of `others` to each of `images`, as it is and mirrored; exact, whatever the size.

    Args:
        images: `(n, 3, R, R)` uint8.
        others: `(m, 3, R, R)` uint8, m >= `count`, one more with `exclude`.
        count: k.
        exclude: `(n,)`, for each image the index in `others` of itself, which does not count.
        memory: bytes of embeddings to hold at a time; by default a quarter of what is free, at most `MAX_MEMORY`.
        embedded: `(m, D)` embeddings of `others`, where they are known already.
    """

    def embed_others(chosen: slice | np.ndarray) -> torch.Tensor:
        return distance.embed(others[chosen]) if embedded is None else embedded[chosen].to(distance.device)

    memory = memory or min(MAX_MEMORY, _free_memory(distance.device) / 4)
    size = distance.embed(images[:1]).shape[1] * 4
    at_once = max(1, int(memory / (2 * size)))
    passes = -(-len(images) // at_once)
    bar = tqdm(desc="Searching the training images", total=passes * len(others), unit="image",
               disable=not show_progress, leave=False)  # fmt: skip
    found = []
    for start in range(0, len(images), at_once):
        part = images[start : start + at_once]
        excluded = None if exclude is None else exclude[start : start + at_once]
        queries = torch.cat([*distance.batches(part, 64), *distance.batches(part[..., ::-1], 64)])
        best = _search(queries, embed_others, len(others), count, excluded, bar)
        found.append(_exactly(queries, best, embed_others))
    bar.close()
    return Nearest(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _search(
    queries: torch.Tensor,
    embed_others: Callable[[slice], torch.Tensor],
    num_others: int,
    count: int,
    exclude: np.ndarray | None,
    bar: tqdm,
) -> torch.Tensor:
    """One pass over the others for images whose embeddings fit in memory.

    Args:
        queries: `(2 n, D)` embeddings of the images, then of the mirrored ones.

    Returns:
        `(n, count)` indices of the nearest.
    """
    lengths = queries.square().sum(1, keepdim=True)
    rows = len(queries) // 2
    best = torch.full((rows, count), torch.inf, device=queries.device)
    indices = torch.full((rows, count), -1, dtype=torch.long, device=queries.device)
    for start in range(0, num_others, REFERENCES_AT_ONCE):
        references = embed_others(slice(start, start + REFERENCES_AT_ONCE))
        squares = torch.addmm(references.square().sum(1) + lengths, queries, references.T, alpha=-2)
        nearer = torch.minimum(squares[:rows], squares[rows:])
        numbers = torch.arange(start, start + len(references), device=queries.device)
        if exclude is not None:
            nearer[torch.from_numpy(exclude).to(numbers)[:, None] == numbers] = torch.inf
        best, order = torch.cat([best, nearer], 1).topk(count, largest=False)
        indices = torch.cat([indices, numbers.expand(rows, -1)], 1).gather(1, order)
        bar.update(len(references))
    return indices


def _exactly(
    queries: torch.Tensor, indices: torch.Tensor, embed_others: Callable[[np.ndarray], torch.Tensor]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distances of the pairs that were found, without the cancellation in `x^2 - 2xy + y^2`, and in their order."""
    rows, count = indices.shape
    plain, turned = (torch.empty(rows, count) for _ in range(2))
    for column in range(count):
        for start in range(0, rows, REFERENCES_AT_ONCE):
            part = slice(start, min(rows, start + REFERENCES_AT_ONCE))
            references = embed_others(indices[part, column].cpu().numpy())
            plain[part, column] = (queries[part] - references).square().sum(1).cpu()
            mirrored = queries[rows + part.start : rows + part.stop]
            turned[part, column] = (mirrored - references).square().sum(1).cpu()
    distances, order = torch.minimum(plain, turned).sort(dim=1, stable=True)
    return distances.numpy(), indices.cpu().gather(1, order).numpy(), (turned < plain).gather(1, order).numpy()


@full_precision()
def mean_pairwise(images: np.ndarray, distance: PerceptualDistance, groups: int = 10) -> tuple[float, float]:
    """Mean distance over all pairs of different images, and its standard error.

    The mean over all pairs is `2 n / (n - 1) (mean |e|^2 - |mean e|^2)` for the embeddings e. The standard error is
    that of the mean of `groups` disjoint parts.

    Args:
        images: `(n, 3, R, R)` uint8, n >= 2 * `groups`.
    """
    zero = torch.zeros((), dtype=torch.float64)
    parts: list[tuple[torch.Tensor, float, int]] = []
    for part in np.array_split(np.arange(len(images)), groups):
        total, square = zero, 0.0
        for embedding in distance.batches(images[part[0] : part[-1] + 1], REFERENCES_AT_ONCE):
            total = total + embedding.double().sum(0)
            square += embedding.double().square().sum().item()
        parts.append((total, square, len(part)))
    values = [_pairwise(*part) for part in parts]
    total, square = sum((part[0] for part in parts), zero), sum(part[1] for part in parts)
    return _pairwise(total, square, len(images)), float(np.std(values, ddof=1) / groups**0.5)


def _pairwise(total: torch.Tensor, square: float, count: int) -> float:
    return 2 / (count - 1) * (square - total.square().sum().item() / count)
