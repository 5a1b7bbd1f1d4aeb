"""The reference of an evaluation: real split, training split, networks and their cached results."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..common.errors import UserError
from .image_sets import ImageSet
from .metrics.distances import feature_metrics
from .metrics.judges import LEAST_MEANINGFUL
from .metrics.memorisation import FeatureDistance, Nearest, find_nearest, mean_pairwise
from .metrics.statistics import kept, real_features, statistics_root
from .networks.extractors import EfficientNetExtractor, FeatureExtractor, find_efficientnet, load_extractor
from .networks.perceptual import PerceptualDistance, load_distance
from .settings import COPIES, EFFICIENTNET, EFFICIENTNET_LABEL, INCEPTION, ReferenceConfig

logger = logging.getLogger(__name__)

SHOWN_NEAREST = 3  # training images beside each generated one in the sheet
DEVIATIONS = 3  # below the middle of unseen images' distances: unrelated images come so near once in 740 times
TENTH = 1.2816  # where the highest tenth of a normal distribution begins, in standard deviations above its middle
LEAST_SAMPLES, MOST_SAMPLES = 64, 256  # that are generated against fewer than LEAST_MEANINGFUL real images
MAX_HELD_OUT = 2000  # images that the threshold is calibrated on


@dataclass
class Reference:
    """The real side of an evaluation.

    Attributes:
        real: the split that distances are measured to.
        training: the images among which copies are searched for, and the floor is taken from; None if there are none,
            or they are not wanted.
        extractors: the judges, in the order of `--extractor`, without those that cannot be loaded.
        distance, copy_distance: None if they are not wanted or not available.
        skipped: what cannot be measured, and why.
    """

    config: ReferenceConfig
    real: ImageSet
    training: ImageSet | None
    extractors: list[FeatureExtractor] = field(default_factory=list)
    distance: PerceptualDistance | None = None
    copy_distance: FeatureDistance | None = None
    skipped: list[dict[str, str]] = field(default_factory=list)
    show_progress: bool = True

    @property
    def statistics(self) -> Path:
        return statistics_root(self.config.cache_dir)

    @property
    def is_held_out(self) -> bool:
        """Whether the real images are others than those that models were trained on."""
        return self.real.split != self.config.train_split

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        networks: list[FeatureExtractor | PerceptualDistance | FeatureDistance]
        networks = [*self.extractors, self.distance, self.copy_distance]
        return next(network.device for network in networks if network)

    def features(self, images: ImageSet, extractor: FeatureExtractor) -> np.ndarray:
        """`(n, d)` of real images, kept."""
        return real_features(images, extractor, self.statistics, self.config.extractor_batch_size, self.show_progress)

    def nearest_training(
        self, images: np.ndarray, distance: PerceptualDistance | FeatureDistance, count: int = 1,
        exclude: np.ndarray | None = None,
    ) -> Nearest:  # fmt: skip
        """The nearest training images to `images` `(n, 3, R, R)` uint8; see `find_nearest`."""
        embedded = None
        if isinstance(distance, FeatureDistance):  # the features of the training images are kept
            features = self.features(self.training, distance.extractor)
            embedded = distance.of_features(torch.from_numpy(features))
        return find_nearest(
            images, self.training.pixels, distance, count, exclude, self.show_progress, embedded=embedded
        )


def open_reference(
    config: ReferenceConfig, side: int, device: torch.device, show_progress: bool = True, count: int | None = None
) -> Reference:
    """Open the real images at `side` pixels, load the networks, and refuse what cannot be measured.

    Args:
        count: How many images are judged, where that does not follow from the config.

    Raises:
        UserError: if the data set is not there or too small, or none of the wanted metrics is available.
    """
    data = config.data_set
    split = data.held_out(config.split)
    real = data.open(split, side, show_progress)
    if config.num_real_images is not None:
        if config.num_real_images > len(real):
            raise UserError(f"--num_real_images is {config.num_real_images}, but {split} has {len(real):,} images.")
        real = real.take(config.num_real_images)
    skipped = check_counts(config, real)
    training = None
    if config.train_split not in (*data.splits, ReferenceConfig.train_split):
        raise UserError(f"--train_split {config.train_split} is not one of {', '.join(data.splits)} of {data.name}.")
    if config.wants_training and config.train_split in data.splits:
        training = data.open(config.train_split, side, show_progress)
        if len(training) <= SHOWN_NEAREST:
            raise UserError(
                f"There are {len(training)} images in the {training.split} split, too few to compare with; give "
                "another --train_split, or --no-floor and neither lpips nor copies in --metrics."
            )
    config = fit_counts(config, real, training, count)
    reference = Reference(config, real, training, skipped=skipped, show_progress=show_progress)
    load_networks(reference, side, device)
    return reference


def check_counts(config: ReferenceConfig, real: ImageSet) -> list[dict[str, str]]:
    """The metrics that need more real images than there are, with the reason.

    Raises:
        UserError: if `--metrics` asks for one of them.
    """
    skipped = []
    for metric in config.wanted:
        if len(real) < config.least_images(metric):
            reason = (
                f"There are {len(real):,} images in the {real.split} split, too few for {metric}, which needs "
                f"{config.least_images(metric)}; {config.advice(metric)}."
            )
            if "metrics" in config.given or "kid_subset_size" in config.given:
                raise UserError(reason)
            skipped.append({"metrics": metric, "reason": reason})
    return skipped


def fit_counts(
    config: ReferenceConfig, real: ImageSet, training: ImageSet | None, count: int | None
) -> ReferenceConfig:
    """The config with numbers of images that suit the real ones, where none are given.

    Against few real images, more samples hardly make KID more certain, but take as long to generate. There are no more
    of them than training images then, so that the floor has as many.

    Args:
        count: Images that there are to judge, if they are generated already.
    """
    if count is None:
        count = config.num_images
        if "num_images" not in config.given and len(real) < LEAST_MEANINGFUL:
            count = min(MOST_SAMPLES, max(LEAST_SAMPLES, len(training or ())))
    size, fewest = config.kid_subset_size, min(count, len(real))
    if "kid_subset_size" not in config.given and fewest < size:
        size = max(2, fewest // 2)
    metrics = [metric for metric in config.wanted if len(real) >= config.least_images(metric)]
    return config.with_chosen(num_images=count, kid_subset_size=size, metrics=",".join(metrics))


def load_networks(reference: Reference, side: int, device: torch.device) -> None:
    """Load what the wanted metrics need; skip one that is not available, with its reason, if others remain."""
    config = reference.config
    for name, label in config.extractors if config.wanted_features else []:
        weights = config.extractor_weights if name == INCEPTION else None
        judged = ", ".join(config.wanted_features) + f" by {Path(name).name}" * (len(config.extractors) > 1)
        with _skipping(reference, judged):
            reference.extractors.append(load_extractor(name, weights, label, device, config.cache_dir))
    if config.wanted_features and not reference.extractors and "extractor" not in config.given and find_efficientnet():
        logger.warning("%s Using %s instead.", reference.skipped.pop()["reason"], EFFICIENTNET_LABEL)
        reference.extractors.append(load_extractor(EFFICIENTNET, device=device))
    if "lpips" in config.wanted:
        with _skipping(reference, "lpips"):
            distance = load_distance(config.lpips, config.lpips_weights, device)
            distance.check_size(side)
            reference.distance = distance
    if COPIES in config.wanted:
        with _skipping(reference, COPIES):
            judge = next((e for e in reference.extractors if isinstance(e, EfficientNetExtractor)), None)
            extractor = judge or load_extractor(EFFICIENTNET, device=device)
            reference.copy_distance = FeatureDistance(extractor)
    if not (reference.extractors or reference.distance or reference.copy_distance):
        raise UserError(reference.skipped[0]["reason"])
    for skip in reference.skipped:
        logger.warning("Without %s: %s", skip["metrics"], skip["reason"])


@contextlib.contextmanager
def _skipping(reference: Reference, metrics: str) -> Iterator[None]:
    """Record that `metrics` cannot be measured, and why, if a UserError says so."""
    try:
        yield
    except UserError as error:
        reference.skipped.append({"metrics": metrics, "reason": str(error)})


def measure_floor(reference: Reference, extractor: FeatureExtractor, count: int) -> dict[str, Any]:
    """The metrics of `count` training images: what a perfect generator would get at this n."""
    training = reference.training
    if training is None or not reference.is_held_out:
        return {"skipped": "the data set has no other split than the one compared with"}
    chosen = training.take(count)
    if len(chosen) < count:
        return {"skipped": f"the {training.split} split has {len(chosen):,} images, too few for this n"}
    features, real = (reference.features(images, extractor) for images in (chosen, reference.real))
    return {"of": chosen.facts, "metrics": feature_metrics(reference.config, extractor, features, real)}


def memorisation(
    reference: Reference, distance: PerceptualDistance | FeatureDistance, distances: np.ndarray
) -> dict[str, Any]:
    """Count the images that are nearer to a training image than `copy_threshold`, and the unseen images that are.

    Args:
        distances: `(n,)` of each image to its nearest training image, by `distance`.
    """
    held_out, what = held_out_distances(reference, distance)
    threshold = copy_threshold(held_out)
    copies, unseen = int((distances <= threshold).sum()), int((held_out <= threshold).sum())
    return {
        "name": f"{distance.name} to the nearest training image",
        "feature": distance.facts,
        "value": float(distances.mean()),
        "median": float(np.median(distances)),
        "n": len(distances),
        "training": reference.training.facts,
        "threshold": threshold,
        "memorised": copies,
        "memorised_share": copies / len(distances),
        "suspicious": copies > chance_limit(len(distances), unseen, len(held_out)),
        "held_out": {
            "what": what,
            "n": len(held_out),
            "value": float(held_out.mean()),
            "median": float(np.median(held_out)),
            "memorised": unseen,
            "memorised_share": unseen / len(held_out),
        },
    }


def copy_threshold(held_out: np.ndarray) -> float:
    """The distance below which an image counts as a copy of its nearest training image.

    The logarithms of the distances of unseen images are about normal, but for a lower tail of images that the data set
    holds twice. The threshold is `DEVIATIONS` standard deviations below their median. The deviation is taken from the
    upper half alone, where the highest tenth begins, since no duplicate is there.

    Args:
        held_out: `(n,)` distances of unseen images to their nearest training image.
    """
    middle, tenth = np.quantile(np.log(np.maximum(held_out, np.finfo(np.float32).tiny)), [0.5, 0.9])
    return float(np.exp(middle - DEVIATIONS * (tenth - middle) / TENTH))


def chance_limit(count: int, unseen: int, held_out: int) -> float:
    """As many of `count` images may count as copies by chance, if `unseen` of `held_out` unseen images do.

    The expected number and three standard deviations of the difference between two samples.
    """
    share = max(unseen, 1) / held_out
    return count * share + 3 * math.sqrt(count * share * (1 - share) * (1 + count / held_out))


def held_out_distances(reference: Reference, distance: PerceptualDistance | FeatureDistance) -> tuple[np.ndarray, str]:
    """`(n,)` distances of unseen images to the nearest of training; of training images to the others, if need be."""
    training = reference.training
    if reference.is_held_out:
        images, what, exclude = reference.real.take(MAX_HELD_OUT), f"{reference.real.split} images", None
    else:
        exclude = np.sort(np.random.default_rng(0).permutation(len(training))[:MAX_HELD_OUT])
        images, what = ImageSet(training.pixels[exclude], training.source, training.split), "other training images"
    facts = {
        "kind": "nearest",
        "fingerprint": training.fingerprint,
        "split": training.split,
        "n": len(training),
        "images": images.fingerprint,
        "distance": distance.key,
        "weights": distance.digest,
        "resize": distance.resize,
        "leaving out itself": exclude is not None,
    }

    def compute() -> dict[str, np.ndarray]:
        nearest = reference.nearest_training(images.pixels, distance, exclude=exclude)
        return {"distances": nearest.distances[:, 0]}

    title = f"{Path(training.source).name} nearest {len(images)} {distance.key}"
    return kept(reference.statistics, title, facts, compute)["distances"], what


def real_diversity(reference: Reference) -> tuple[float, float]:
    """Mean distance between two real images, and its standard error, kept."""
    real, distance = reference.real, reference.distance
    facts = {
        "kind": "diversity",
        "fingerprint": real.fingerprint,
        "split": real.split,
        "n": len(real),
        "distance": distance.key,
        "weights": distance.digest,
        "resize": "none",
    }
    title = f"{Path(real.source).name} {real.split} diversity {len(real)} {distance.key}"
    values = kept(reference.statistics, title, facts, lambda: {"x": np.array(mean_pairwise(real.pixels, distance))})[
        "x"
    ]
    return float(values[0]), float(values[1])
