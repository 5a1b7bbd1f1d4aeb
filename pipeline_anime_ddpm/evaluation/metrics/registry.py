"""The metrics between features of images. To add one, add an entry here and its function to `distances.MEASURES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..settings import ReferenceConfig

LEAST_FOR_KID = 4  # images, so that each subset of half of them has a pair
NEIGHBOURS = 3  # the k of precision and recall, as in their paper


@dataclass(frozen=True)
class FeatureMetric:
    """Properties of a metric.

    Attributes:
        keys: Its values in metrics.json, each with whether lower is better.
        least_images: How many images it needs on either side.
        advice: What to do if there are fewer, beside leaving it out.
    """

    keys: dict[str, bool]
    least_images: Callable[[ReferenceConfig], int] = lambda config: 2
    advice: str | None = None


FEATURE_METRICS = {
    "fid": FeatureMetric({"fid": True}),
    "kid": FeatureMetric(
        {"kid": True},
        lambda config: config.kid_subset_size if "kid_subset_size" in config.given else LEAST_FOR_KID,
        "lower --kid_subset_size",
    ),
    "mind": FeatureMetric({"mind": True}),
    "prc": FeatureMetric({"precision": False, "recall": False}, lambda config: NEIGHBOURS + 1),
}

LOWER_IS_BETTER = {key: lower for metric in FEATURE_METRICS.values() for key, lower in metric.keys.items()}
