"""What a training keeps in its output folder: checkpoints, averages, metrics, settings and where it came from."""
