"""`from schedulers import AnimeNoiseScheduler` in a clone. The code is in `pipeline_anime_ddpm/schedulers/`, and only
that is installed."""

from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler

__all__ = ["AnimeNoiseScheduler"]
