# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Draw anime faces with a diffusion model.

`from pipeline_anime_ddpm import AnimeDDPMPipeline` registers the pipeline and its scheduler with diffusers. They are
imported when they are first asked for: the command line answers `--help` without waiting for torch and diffusers.
"""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline_anime_ddpm import AnimeDDPMPipeline, coordinate_grid
    from .schedulers import AnimeNoiseScheduler

__version__ = "0.1.0"
__all__ = ["AnimeDDPMPipeline", "AnimeNoiseScheduler", "coordinate_grid"]

# Where bitsandbytes is installed it says, whatever is done, that it has no kernel for something that nothing here uses.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import diffusers

    from .pipeline_anime_ddpm import AnimeDDPMPipeline, coordinate_grid
    from .schedulers import AnimeNoiseScheduler

    diffusers.AnimeDDPMPipeline = AnimeDDPMPipeline  # so that a model index that names the bare class finds it
    found = (AnimeDDPMPipeline, AnimeNoiseScheduler, coordinate_grid)
    globals().update(zip(__all__, found, strict=True))
    return globals()[name]
