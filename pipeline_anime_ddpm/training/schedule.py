"""How long a run is and when it pauses to save or draw: everything is converted to optimiser steps once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .config import TrainingConfig


@dataclass(frozen=True)
class RunSchedule:
    """Lengths and intervals of a run.

    Attributes:
        num_images: size of the data set.
        images_per_step: images of one optimiser step, over all devices and accumulation.
        total_steps: optimiser steps of the whole run.
    """

    num_images: int
    images_per_step: int
    total_steps: int

    @classmethod
    def plan(cls, config: TrainingConfig, num_images: int, num_processes: int) -> RunSchedule:
        images_per_step = config.train_batch_size * config.gradient_accumulation_steps * num_processes
        if config.max_train_steps:
            total_steps = config.max_train_steps
        else:
            total_steps = math.ceil((config.max_train_images or config.num_epochs * num_images) / images_per_step)
        return cls(num_images, images_per_step, total_steps)

    def images(self, step: int) -> int:
        """Images seen after `step` optimiser steps."""
        return step * self.images_per_step

    def epochs_end(self, step: int, every: int) -> bool:
        """True if `step` completes an epoch whose number (from 1) is a multiple of `every`."""
        span = every * self.num_images
        return self.images(step) // span > self.images(step - 1) // span
