"""Synthetic faces, so that a first run needs no data set."""
