"""Pictures for the tests of the evaluation."""

import numpy as np
from PIL import Image

SIDE = 16


def pictures(count, seed, side=SIDE):
    """Smooth coloured blobs `(n, 3, side, side)` uint8: alike enough to be a distribution, no two the same."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    images = []
    for _ in range(count):
        centre, width, colour = random.uniform(0.3, 0.7, 2), random.uniform(0.1, 0.3), random.uniform(0, 255, (2, 3))
        blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / width**2)[..., None]
        images.append(blob * colour[0] + (1 - blob) * colour[1] + random.normal(0, 3, (side, side, 3)))
    return np.stack(images).clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2)


def save(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:03d}.png")
    return folder
