"""Distances between two sets of features; what torch-fidelity has is computed by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from ..networks.extractors import FeatureExtractor
from ..settings import ReferenceConfig
from .registry import NEIGHBOURS

PROJECTIONS = 1000  # of MIND, as in its paper
KID_SEED = 2020  # torch-fidelity's own


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance of the Gaussians with the features' means and covariances (FID, arXiv:1706.08500, equation 6).

    Args:
        first, second: `(n, d)` and `(m, d)`, each of two rows or more; the order does not matter.

    Returns:
        0 or more, and 0 for equal sets up to rounding. Biased upwards at small n: compare at equal n alone.
    """
    statistics = [fid_features_to_statistics(torch.from_numpy(f.astype(np.float64))) for f in (first, second)]
    distance = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    return max(0.0, distance)  # of nearly equal sets rounding leaves less than nothing


def kernel_distance(
    first: np.ndarray, second: np.ndarray, subset_size: int, subsets: int, seed: int = KID_SEED
) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel `(x.y / d + 1)^3` (KID, arXiv:1801.01401, equation 2).

    Unbiased at every n, so 0 on average for sets of the same distribution, and then below 0 half of the time.

    Args:
        first, second: `(n, d)` and `(m, d)` with n, m >= `subset_size`.
        subset_size: rows drawn from each set, without replacement, for one estimate.
        subsets: how many estimates there are.

    Returns:
        Mean and standard deviation of the estimates.
    """
    result = kid_features_to_metric(
        torch.from_numpy(first.astype(np.float64)),
        torch.from_numpy(second.astype(np.float64)),
        kid_subset_size=subset_size,
        kid_subsets=subsets,
        rng_seed=seed,
        verbose=False,
    )
    return result[KEY_METRIC_KID_MEAN], result[KEY_METRIC_KID_STD]


def precision_recall(generated: np.ndarray, real: np.ndarray, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """How much of `generated` lies in the real manifold, and the other way round (arXiv:1904.06991, equations 1 to 3).

    Args:
        generated, real: `(n, d)` and `(m, d)`, each of more than `neighbours` rows.
        neighbours: a point's ball reaches to its k-th nearest neighbour in its own set.

    Returns:
        Precision (fidelity) and recall (diversity), both in [0, 1].
    """
    result = prc_features_to_metric(
        torch.from_numpy(generated),
        torch.from_numpy(real),
        prc_neighborhood=neighbours,
        prc_batch_size=10_000,
        save_cpu_ram=True,
        verbose=False,
    )
    return result[KEY_METRIC_PRECISION], result[KEY_METRIC_RECALL]


def monge_distance(first: np.ndarray, second: np.ndarray, projections: int = PROJECTIONS, seed: int = 0) -> float:
    """MIND, the Monge Inception Distance (arXiv:2605.06797): made for sets of one or two thousand images.

    The squared 2-Wasserstein distance along random directions, which in one dimension is found by sorting, averaged
    over `projections` directions and multiplied by 3 d. It needs no covariance, and not only two moments count.

    Args:
        first, second: `(n, d)` and `(m, d)`; of the larger one, as many rows as the other has are drawn.

    Returns:
        0 for equal sets; biased upwards at small n like FID, but less.
    """
    random = np.random.default_rng(seed)
    least = min(len(first), len(second))
    first, second = (f if len(f) == least else f[random.permutation(len(f))[:least]] for f in (first, second))
    directions = random.standard_normal((first.shape[1], projections))
    directions = (directions / np.linalg.norm(directions, axis=0)).astype(np.float64)
    sorted_first, sorted_second = (np.sort(f.astype(np.float64) @ directions, axis=0) for f in (first, second))
    return float(3 * first.shape[1] * np.square(sorted_first - sorted_second).mean())


def _measure_fid(
    config: ReferenceConfig, extractor: FeatureExtractor, features: np.ndarray, real: np.ndarray
) -> dict[str, Any]:
    metric: dict[str, Any] = {"name": extractor.named("FID"), "value": frechet_distance(features, real)}
    least = extractor.least_for_frechet
    if min(len(features), len(real)) < least:
        metric["note"] = f"unreliable with fewer than {least:,} images on both sides"
    return {"fid": metric}


def _measure_kid(
    config: ReferenceConfig, extractor: FeatureExtractor, features: np.ndarray, real: np.ndarray
) -> dict[str, Any]:
    size, subsets = config.kid_subset_size, config.kid_subsets
    mean, std = kernel_distance(features, real, size, subsets)
    metric: dict[str, Any] = {"name": extractor.named("KID"), "value": mean, "std": std}
    metric |= {"subset_size": size, "subsets": subsets}
    if 2 * size > min(len(features), len(real)):
        metric["note"] = "the subsets overlap so much that std is too small"
    return {"kid": metric}


def _measure_precision_recall(
    config: ReferenceConfig, extractor: FeatureExtractor, features: np.ndarray, real: np.ndarray
) -> dict[str, Any]:
    values = zip(("precision", "recall"), precision_recall(features, real), strict=True)
    return {key: {"name": extractor.named(key), "value": value, "neighbours": NEIGHBOURS} for key, value in values}


def _measure_mind(
    config: ReferenceConfig, extractor: FeatureExtractor, features: np.ndarray, real: np.ndarray
) -> dict[str, Any]:
    value = monge_distance(features, real)
    return {"mind": {"name": extractor.named("MIND"), "value": value, "projections": PROJECTIONS}}


Measure = Callable[[ReferenceConfig, FeatureExtractor, np.ndarray, np.ndarray], dict[str, Any]]

# By their name in `--metrics`, in the order in which they are reported.
MEASURES: dict[str, Measure] = {
    "fid": _measure_fid,
    "kid": _measure_kid,
    "prc": _measure_precision_recall,
    "mind": _measure_mind,
}


def feature_metrics(
    config: ReferenceConfig, extractor: FeatureExtractor, features: np.ndarray, real: np.ndarray
) -> dict[str, Any]:
    """The wanted metrics between features, each with what it must be reported with.

    Args:
        features, real: `(n, d)` and `(m, d)`.

    Returns:
        By key, such as `{"kid": {"name": ..., "value": ..., "std": ..., "n": n, "real_n": m}}`.
    """
    metrics: dict[str, Any] = {}
    for name, measure in MEASURES.items():
        if name in config.wanted:
            metrics |= measure(config, extractor, features, real)
    return {key: metric | {"n": len(features), "real_n": len(real)} for key, metric in metrics.items()}
