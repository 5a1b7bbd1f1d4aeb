"""The distance to real images at intervals of a training: the same seeds each time, drawn on all ranks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from .. import AnimeDDPMPipeline
from ..common.errors import UserError
from ..common.settings import listed
from ..data.config import NUM_DRAWN_FACES
from ..runs.tracking import COPIES_STAND_OUT
from ..synthetic.drawn_faces import draw_faces
from ..training.config import TrainingConfig
from .drawing import draw_batch
from .image_sets import DataSet, ImageSet
from .metrics.distances import feature_metrics
from .metrics.memorisation import FeatureDistance
from .metrics.registry import LEAST_FOR_KID
from .networks.extractors import load_extractor
from .reference import Reference, memorisation
from .settings import COPIES, ReferenceConfig

MAX_REAL = 2000  # real images that are compared with
KID_SUBSET = 1000  # at most; with fewer images half of them, so that the subsets differ


class TrainingJudge:
    """Measures a run's pipeline against real images that it is not trained on, where there are any.

    Args:
        config: of the training; `--eval_*` say what is measured.
        resolution: of the model.
        steps: of sampling.

    Raises:
        UserError: if the extractor or the real images cannot be loaded, or there are too few images.
    """

    def __init__(self, config: TrainingConfig, resolution: int, steps: int, accelerator: Accelerator):
        self.count, self.batch_size = config.eval_images, config.eval_batch_size
        self.steps, self.accelerator = steps, accelerator
        self.description = self.conditions = ""
        if accelerator.is_main_process:  # the others only draw
            self._prepare(config, resolution)
        accelerator.wait_for_everyone()

    def _prepare(self, config: TrainingConfig, resolution: int) -> None:
        extractor = load_extractor(
            config.eval_extractor, config.eval_extractor_weights, None, self.accelerator.device, config.cache_dir
        )
        real = real_images(config, resolution, show_progress=True).take(MAX_REAL)
        if len(real) < LEAST_FOR_KID:
            raise UserError(f"There are {len(real)} real images to compare with; give an --eval_dataset of 4 or more.")
        watches = COPIES in listed(config.eval_metrics) and not config.uses_drawn_faces
        training = own_data(config).open("train", resolution, show_progress=True) if watches else None
        subset = min(KID_SUBSET, self.count // 2, len(real) // 2)
        settings = ReferenceConfig(
            dataset=real.source,
            num_images=self.count,
            metrics=config.eval_metrics,
            cache_dir=config.cache_dir,
            kid_subset_size=subset,
        )
        self.reference = Reference(settings, real, training, [extractor], show_progress=False)
        self.reference.features(real, extractor)  # before training, so that what is wrong with it is known now
        if training is not None:
            self.reference.copy_distance = FeatureDistance(extractor)
        facts = [extractor.facts, real.facts, self.count, self.batch_size, self.steps, subset]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
        self.conditions = f"c{digest}"  # never a number, whatever the digest
        self.description = (
            f"Every {config.eval_steps} steps: {config.eval_metrics} of {self.count:,} sampled images "
            f"against {len(real):,} images of the {real.split} split, with {extractor.label or 'inception'} features."
        )

    def measure(self, pipeline: AnimeDDPMPipeline) -> dict[str, float]:
        """Draw this rank's share and measure on the first one: `{"kid": ..., "kid_std": ...}`; {} on the others."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        drawn = []
        for start in range(0, self.count, self.batch_size)[rank::world]:
            numbers = range(start, min(start + self.batch_size, self.count))
            drawn.append((start, draw_batch(pipeline, numbers, self.steps, seed=0)))
        batches = gather_object(drawn)
        if not self.accelerator.is_main_process:
            return {}
        images = np.concatenate([images for _, images in sorted(batches, key=lambda batch: batch[0])])
        reference, size = self.reference, self.reference.config.extractor_batch_size
        (extractor,) = reference.extractors
        features, real = extractor.extract(images, size), reference.features(reference.real, extractor)
        metrics = feature_metrics(reference.config, extractor, features, real)
        values = {name: metric["value"] for name, metric in metrics.items()}
        values |= {f"{name}_std": metric["std"] for name, metric in metrics.items() if "std" in metric}
        return values | self._copies(images)

    def _copies(self, images: np.ndarray) -> dict[str, float]:
        """How near the samples come to training images, beside held-out images; {} without `copies` in the metrics.

        `memorised` and `memorised_held_out` are shares of images. `nearest` is the median distance of the samples to
        their nearest training image, divided by that of held-out images; below 1 they are nearer.
        """
        distance = self.reference.copy_distance
        if distance is None:
            return {}
        nearest = self.reference.nearest_training(images, distance).distances[:, 0]
        found = memorisation(self.reference, distance, nearest)
        return {
            "memorised": found["memorised_share"],
            "memorised_held_out": found["held_out"]["memorised_share"],
            "nearest": found["median"] / max(found["held_out"]["median"], 1e-9),
            COPIES_STAND_OUT: float(found["suspicious"]),
        }


def real_images(config: TrainingConfig, resolution: int, show_progress: bool) -> ImageSet:
    """What `--eval_dataset` or else the training's data set holds out; its training images if it holds out none."""
    if config.eval_dataset is None and config.uses_drawn_faces:
        count = min(NUM_DRAWN_FACES, MAX_REAL)
        faces = draw_faces(count, resolution, config.seed + 1)  # of another seed: none that it is trained on
        return ImageSet(np.ascontiguousarray(faces.transpose(0, 3, 1, 2)), "drawn faces", "held-out")
    data = own_data(config)
    if config.eval_dataset is not None:
        data = replace(data, name=config.eval_dataset, config_name=None, validation_fraction=None)
    return data.open(data.held_out(config.eval_split), resolution, show_progress)


def own_data(config: TrainingConfig) -> DataSet:
    """The data set of a training."""
    return DataSet(
        config.name,
        config.dataset_config_name,
        config.image_column,
        config.cache_dir,
        config.max_skipped_fraction,
        config.validation_fraction,
    )
