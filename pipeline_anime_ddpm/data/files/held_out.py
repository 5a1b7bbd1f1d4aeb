"""A part of the images that a run holds out of training, if the data set has no split of its own for that."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from ..reading import encoded_content
from ..units import EncodedImage, Source


class ContentSplit(Source):
    """The images of another source on one side of a split.

    An image is held out if the SHA-256 of its file is among the lowest `fraction` of all that are possible. So the
    files of one picture are on the same side, and adding pictures moves none of the others.

    Args:
        whole: all images.
        fraction: share to hold out, above 0 and below 1.
        is_held_out: Whether this is the side that is held out, rather than the one to train on.
    """

    def __init__(self, whole: Source, fraction: float, is_held_out: bool):
        self.whole, self.fraction, self.is_held_out = whole, fraction, is_held_out
        self.name, self.remote, self.files, self.column = whole.name, whole.remote, whole.files, whole.column
        self.num_units, self.unit_sizes = whole.num_units, None
        self.labels, self.label_files = whole.labels, whole.label_files

    def read(self, unit: int) -> Iterator[EncodedImage]:
        for image in self.whole.read(unit):
            content = encoded_content(image, self.remote)
            if content is None:  # it cannot be read, which is said where it would be trained on
                if not self.is_held_out:
                    yield image
            elif self._holds_out(content) == self.is_held_out:
                yield image._replace(content=content)

    def _holds_out(self, content: bytes) -> bool:
        return int.from_bytes(hashlib.sha256(content).digest()[:8]) < self.fraction * 2**64

    def _label_facts(self, files: Sequence) -> list:
        return [*self.whole._label_facts(files), [self.fraction, self.is_held_out]]
