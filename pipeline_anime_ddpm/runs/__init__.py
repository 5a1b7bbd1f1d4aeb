"""The output folder of a training: checkpoints, EMA, metrics, settings, provenance."""
