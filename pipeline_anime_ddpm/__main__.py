"""`python -m pipeline_anime_ddpm` is `anime-ddpm`, in the form that launchers of several processes take."""

from .cli import main

main()
