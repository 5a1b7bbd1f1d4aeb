"""Distances between images and what belongs to them: their registry, statistics and judges."""
