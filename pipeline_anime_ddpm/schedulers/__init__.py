"""Importing this package makes `AnimeNoiseScheduler` one of diffusers' own schedulers, to load and to swap."""

import diffusers
from diffusers.schedulers import KarrasDiffusionSchedulers

from .scheduling_anime_noise import AnimeNoiseScheduler

__all__ = ["AnimeNoiseScheduler"]


def _register(scheduler: type) -> None:
    """Let diffusers find `scheduler` by name, and let every stock scheduler read its config without a warning."""
    for namespace in (diffusers, diffusers.schedulers):
        setattr(namespace, scheduler.__name__, scheduler)
    for member in KarrasDiffusionSchedulers:
        compatibles = getattr(getattr(diffusers, member.name), "_compatibles", None)  # None: needs a missing package
        if compatibles is not None and scheduler.__name__ not in compatibles:
            compatibles.append(scheduler.__name__)


_register(AnimeNoiseScheduler)
