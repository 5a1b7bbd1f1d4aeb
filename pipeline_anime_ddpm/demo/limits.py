"""Limits of one request, checked on the server independently of the page."""

from __future__ import annotations

from typing import Any

import gradio as gr

MAX_FACES, MAX_STEPS, MAX_FRAMES, MAX_SEED = 16, 100, 32, 2**31 - 1
MAX_GUIDANCE = 4.0
MAX_BYTES, MAX_PIXELS = 8_000_000, 16_000_000  # of an upload
SECONDS = 120  # that a request may take once it is its turn
WAITING = 32  # waiting requests; further visitors read that the page is busy
MAX_LAYERS, MAX_CANVAS, CANVASES = 4, 4_000_000, 16  # bytes of a part of a canvas; canvases that wait for their turn
HOURS = 3  # that pictures are kept on the server
VISITORS = 100  # whose last picked face is remembered; each takes a fifth of a megabyte
KEPT = 24  # faces that a visitor can put aside


def checked(value: Any, least: float, most: float, name: str, kind: type = int) -> Any:
    """A number of a request.

    Raises:
        gr.Error: if it is none, or out of bounds.
    """
    try:
        number = kind(value)
        fits = number == value and least <= number <= most
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise gr.Error(f"{name} must be from {least:,} to {most:,}.")
    return number
