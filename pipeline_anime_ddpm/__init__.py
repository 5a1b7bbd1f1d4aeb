# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Draw anime faces with a diffusion model. Importing this registers the pipeline and its scheduler with diffusers."""

import diffusers

from schedulers import AnimeNoiseScheduler

from .pipeline_anime_ddpm import AnimeDDPMPipeline, coordinate_grid

__all__ = ["AnimeDDPMPipeline", "AnimeNoiseScheduler", "coordinate_grid"]

diffusers.AnimeDDPMPipeline = AnimeDDPMPipeline  # so that a model index that names the bare class finds it
