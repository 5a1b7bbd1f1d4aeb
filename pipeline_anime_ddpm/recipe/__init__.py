"""The steps of `train_anime_ddpm.py` that are longer than a few lines."""
