"""Length of a run, and when it saves and samples, converted to optimiser steps once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..common.errors import UserError
from ..training.config import TrainingConfig


@dataclass(frozen=True)
class RunSchedule:
    """Lengths and intervals of a run.

    Attributes:
        num_images: size of the data set; None if that is known only after reading it, so that no epoch can end.
        images_per_step: images of one optimiser step, over all devices and accumulation.
        total_steps: optimiser steps of the whole run.
    """

    num_images: int | None
    images_per_step: int
    total_steps: int

    @classmethod
    def plan(cls, config: TrainingConfig, num_images: int | None, num_processes: int) -> RunSchedule:
        """Raises a UserError if the length is given in epochs and nobody knows how long one is."""
        images_per_step = config.train_batch_size * config.gradient_accumulation_steps * num_processes
        if config.max_train_steps:
            total_steps = config.max_train_steps
        elif num_images is None and not config.max_train_images:
            raise UserError(
                "The size of the data set is unknown until it is read; give --max_train_images or --max_train_steps."
            )
        else:
            total_steps = math.ceil((config.max_train_images or config.num_epochs * num_images) / images_per_step)
        if (config.save_guide_at or 0) >= total_steps * images_per_step:
            raise UserError(
                f"--save_guide_at {config.save_guide_at} is after the end of the run; give about a sixteenth of its "
                f"{total_steps * images_per_step} images."
            )
        return cls(num_images, images_per_step, total_steps)

    def images(self, step: int) -> int:
        """Images seen after `step` optimiser steps."""
        return step * self.images_per_step

    def epochs_end(self, step: int, every: int) -> bool:
        """True if `step` completes an epoch whose number (from 1) is a multiple of `every`."""
        if self.num_images is None:
            return False
        return self.passes(step, every * self.num_images)

    def reaches(self, step: int, images: int) -> bool:
        """True if `step` is the first by which so many images are seen."""
        return self.images(step) >= images > self.images(step - 1)

    def passes(self, step: int, every_images: int) -> bool:
        """True if `step` brings the images seen to, or past, a multiple of `every_images`."""
        return self.images(step) // every_images > self.images(step - 1) // every_images
