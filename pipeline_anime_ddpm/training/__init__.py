"""What `train_anime_ddpm.py` composes: configuration, data, models, objective, checkpoints and tracking."""
