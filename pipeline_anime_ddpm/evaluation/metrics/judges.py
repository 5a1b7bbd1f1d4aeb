"""Read a `metrics.json`: the results of each judge, and those that need no judge.

The first judge's results are the record's own `extractor`, `metrics` and `floor`. Each entry of `other_judges` has the
same three for one more. Records of one judge, and those of earlier versions, have no `other_judges`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..settings import COPIES, INCEPTION
from .registry import LOWER_IS_BETTER

LEAST_MEANINGFUL = 500  # images on either side; with fewer, chance decides more than the model does


@dataclass(frozen=True)
class Judge:
    """The results of one extractor.

    Attributes:
        extractor: its `facts`; None where no extractor was used.
        metrics: by key, distances between features alone.
        floor: the same of training images; empty where it was not measured.
    """

    extractor: dict[str, Any] | None
    metrics: dict[str, Any]
    floor: dict[str, Any]

    @property
    def name(self) -> str:
        return self.extractor["name"] if self.extractor else ""

    @property
    def is_fid(self) -> bool:
        """Whether it is the network that FID is defined by."""
        return self.name == INCEPTION


def judges(record: dict[str, Any]) -> list[Judge]:
    """The results of each judge in the content of a `metrics.json`, the first one first; none without features."""
    found = []
    for part in (record, *record.get("other_judges", ())):
        metrics = {key: metric for key, metric in part["metrics"].items() if key in LOWER_IS_BETTER}
        if metrics:
            found.append(Judge(part.get("extractor"), metrics, (part.get("floor") or {}).get("metrics", {})))
    return found


def other_metrics(record: dict[str, Any]) -> dict[str, Any]:
    """The metrics that are no distances between features of a judge."""
    return {key: metric for key, metric in record["metrics"].items() if key not in LOWER_IS_BETTER}


def cautions(record: dict[str, Any]) -> list[str]:
    """Why the numbers of a record say little about the model, in sentences; empty if they do not.

    A record of an earlier version does not say whether its real images were trained on; it counts as held out.
    """
    found, judged, real = [], record["judged"]["n"], record["real"]["n"]
    if min(judged, real) < LEAST_MEANINGFUL:
        found.append(
            f"{judged:,} generated and {real:,} real images are too few for these numbers to mean anything, "
            f"except KID within its ±. Use {LEAST_MEANINGFUL:,} or more of each."
        )
    if record["real"].get("is_held_out") is False:
        found.append(
            "The real images are a training split. If the model was trained on them, copying them scores best. Hold "
            "some images out, for example in a folder test/."
        )
    return found


def copy_check(record: dict[str, Any]) -> dict[str, Any] | None:
    """The result of the search for copies of training images, by the best feature that was used."""
    return record["metrics"].get(COPIES) or record["metrics"].get("lpips_nearest")
