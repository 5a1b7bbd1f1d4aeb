# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Draw anime faces with a diffusion model, and train one.

`from pipeline_anime_ddpm import AnimeDDPMPipeline` registers the pipeline and its scheduler with diffusers;
`train(TrainingConfig(train_data_dir="faces/"))` is what `anime-ddpm train --train_data_dir faces/` does. Names are
imported when they are first asked for: the command line answers `--help` without waiting for torch and diffusers.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train_anime_ddpm import train

    from .exporting.drawing import AnimeONNX
    from .exporting.names import latents_for
    from .pipeline_anime_ddpm import AnimeDDPMPipeline, coordinate_grid
    from .schedulers import AnimeNoiseScheduler
    from .training.config import TrainingConfig

__version__ = "0.1.0"
__all__ = [
    "AnimeDDPMPipeline", "AnimeNoiseScheduler", "AnimeONNX", "TrainingConfig", "coordinate_grid", "latents_for",
    "train",
]  # fmt: skip

_PLACES = {
    "AnimeDDPMPipeline": ".pipeline_anime_ddpm",
    "AnimeNoiseScheduler": ".schedulers",
    "AnimeONNX": ".exporting.drawing",
    "TrainingConfig": ".training.config",
    "coordinate_grid": ".pipeline_anime_ddpm",
    "latents_for": ".exporting.names",
    "train": "train_anime_ddpm",  # which needs the extra `train`
}

# bitsandbytes warns at import about a kernel that this package does not use.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("AnimeDDPMPipeline", "AnimeNoiseScheduler", "coordinate_grid"):
        _register()
    globals()[name] = getattr(importlib.import_module(_PLACES[name], __name__), name)
    return globals()[name]


def _register() -> None:
    """Let diffusers find the pipeline and the scheduler, so that a model index that names the bare class loads."""
    import diffusers

    from .pipeline_anime_ddpm import AnimeDDPMPipeline
    from .schedulers import AnimeNoiseScheduler  # noqa: F401 (registers itself)

    diffusers.AnimeDDPMPipeline = AnimeDDPMPipeline
