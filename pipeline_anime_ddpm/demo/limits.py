"""Limits of one request and of one visitor, checked on the server independently of the page."""

from __future__ import annotations

from typing import Any

MAX_FACES, MAX_STEPS, MAX_FRAMES, MAX_SEED = 16, 100, 32, 2**31 - 1
MAX_GUIDANCE = 4.0
MAX_VARIATIONS = 12  # of a variation of a variation
MAX_STOPS = 6  # faces of a walk
MAX_BYTES, MAX_PIXELS = 8_000_000, 16_000_000  # of an upload
MAX_BODY = 1_500_000  # bytes of a request to the page's own routes, whose pictures are small
MAX_UPLOADS = 200_000_000, 40_000_000  # bytes within `HOURS`: of all visitors, of one
SECONDS = 120  # that a request may take once it is its turn
WAITING, OF_ONE_VISITOR = 32, 4  # requests that wait: in all, and (with those that run) of one visitor
UNHEARD = 5  # seconds after which a request ends whose answer nobody reads
MAX_LAYERS, MAX_CANVAS, CANVASES = 4, 4_000_000, 16  # bytes of a part of a canvas; canvases that wait for their turn
HOURS = 3  # that pictures are kept on the server
SIZES = (512, 1024)  # of an enlarged face, in pixels
KEPT = 60  # faces of a shelf
LOGGED = 300  # characters of a line of the log


class Refused(ValueError):
    """A request that cannot be served. The sentence is for the visitor; `field` is the control that it is about."""

    def __init__(self, sentence: str, field: str = ""):
        super().__init__(sentence)
        self.field = field


def checked(value: Any, least: float, most: float, name: str, kind: type = int) -> Any:
    """A number of a request.

    Raises:
        Refused: it is none, or out of bounds.
    """
    try:
        number = kind(value)
        fits = not isinstance(value, bool) and number == float(value) and least <= number <= most
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        what = "a whole number" if kind is int else "a number"
        raise Refused(f"{name} must be {what} from {least:,} to {most:,}.", name.split()[-1].lower())
    return number
