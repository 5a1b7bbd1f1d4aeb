"""`TrainingState`: everything that decides how a training goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import UNet2DModel

from ..common.errors import UserError
from ..schedulers import AnimeNoiseScheduler
from .averages import WeightAverage
from .numerics import Numerics
from .tracking import LossMeter


@dataclass
class TrainingState:
    """Everything that decides how training goes on; noise needs no state, it follows from `step`.

    Attributes:
        averages: of the UNet's parameters, by a name that is also their file's: `ema` is the one that is drawn with.
        data: facts about the data set; like images_per_step they must be the same when the run resumes.
        images_per_step: images of one optimiser step, over all ranks and accumulation.
        step: optimiser steps done.
        feeds: where the data of each rank stand, by rank; None for a rank whose images follow from the step.
        kept_step: of the newest checkpoint that this process has written or gone on from; None without one.
        numerics: how often a gradient was not finite, and what the run has done about it.
    """

    unet: UNet2DModel
    scheduler: AnimeNoiseScheduler
    averages: dict[str, WeightAverage]
    optimizer: torch.optim.Optimizer
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler | None
    meter: LossMeter
    data: dict[str, Any]
    images_per_step: int
    step: int = 0
    feeds: list[dict[str, Any] | None] = field(default_factory=list)
    kept_step: int | None = None
    numerics: Numerics = field(default_factory=Numerics)

    @property
    def ema(self) -> WeightAverage | None:
        """The average that is drawn with and saved, if there is one."""
        return self.averages.get("ema")

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The EMA in place of the weights, for drawing and saving, which are not worth a compilation of their own."""
        self.unet.eval()
        try:
            with (
                torch.compiler.set_stance("force_eager"),
                self.ema.swapped_in(self.unet.parameters()) if self.ema else contextlib.nullcontext(),
            ):
                yield
        finally:
            self.unet.train()

    def feed_of(self, rank: int, world: int) -> dict[str, Any] | None:
        """The position of `rank` in the data.

        Raises:
            UserError: if they were read by another number of processes, and depend on it.
        """
        if len(self.feeds) != world and any(self.feeds):
            raise UserError(
                f"The run was streaming with {len(self.feeds)} processes and has {world} now; to resume at exactly the "
                "next image, use the same number."
            )
        return self.feeds[rank] if any(self.feeds) else None
