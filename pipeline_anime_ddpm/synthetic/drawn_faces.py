"""Anime faces drawn from numbers: the data set for a first run with neither data nor network.

A face is sampled (`sample_face`), described as SVG (`face_svg`) and rendered by resvg (`draw_face`, `draw_faces`).
Everything is a pure function of (seed, index), so the set needs no storage and any part of it can be drawn alone.
How each feature looks is in `drawn_faces_parts.py`; this file holds the palettes, the sampling and the rendering.
"""

import io
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
from PIL import Image

if __package__:
    from .drawn_faces_parts import Face, render_svg
else:  # run as a script, see `draw_faces`
    from drawn_faces_parts import Face, render_svg

SUPERSAMPLE = 2  # on top of resvg's own antialiasing; 4 takes three times as long and looks the same
FACES_PER_WORKER = 100  # fewer than this are drawn sooner than a process starts

# (base, shade, shine, weight). Natural colours are more frequent, as in the shows.
HAIR = {
    "black": ("#40394f", "#292435", "#8178a0", 3),
    "brown": ("#7d503c", "#563229", "#bd8f70", 3),
    "chestnut": ("#a9683f", "#78432e", "#e2a878", 2),
    "blond": ("#f4d27a", "#d29f50", "#fff4c8", 3),
    "red": ("#cf4845", "#942a3b", "#f69a84", 2),
    "orange": ("#f0904c", "#c05d38", "#ffcf98", 1.5),
    "pink": ("#f7a3be", "#d26f99", "#ffdce7", 2.5),
    "magenta": ("#d65c97", "#9c3874", "#f7a9cb", 1),
    "violet": ("#9170c8", "#64489d", "#c9b2f0", 2),
    "lavender": ("#c6b5ec", "#9987ca", "#f1eaff", 1.5),
    "navy": ("#44558f", "#2c3766", "#8799d6", 2),
    "blue": ("#5d93e0", "#3c66b6", "#afd5ff", 2),
    "sky": ("#94d4f4", "#5fa4d5", "#def5ff", 1.5),
    "teal": ("#43b4b0", "#27818a", "#a2e9dd", 1.5),
    "mint": ("#a0e3c4", "#69b596", "#e2fbef", 1),
    "green": ("#64b268", "#3b7f54", "#b5e4a0", 1.5),
    "silver": ("#d6dae8", "#a3a8c3", "#ffffff", 2),
}
# (upper iris, lower iris, glow at the bottom)
EYES = {
    "blue": ("#1d3f8f", "#3f8de0", "#a6e3ff"),
    "sky": ("#23629a", "#58b9ea", "#d2f6ff"),
    "teal": ("#0e5560", "#26a9a4", "#a4f3dd"),
    "green": ("#1d5a34", "#48ab58", "#c8f29a"),
    "gold": ("#8a4a12", "#e3a021", "#fff09a"),
    "amber": ("#7a2f14", "#d9722a", "#ffd08a"),
    "brown": ("#47231c", "#8f5334", "#dfae7c"),
    "red": ("#6f1224", "#d2353f", "#ffab93"),
    "pink": ("#8a2157", "#e55c95", "#ffc6d8"),
    "violet": ("#42207f", "#8a55cf", "#dcb8ff"),
    "grey": ("#3b4056", "#7f8aa3", "#dfe8f2"),
}
# (base, shadow, blush, line, weight)
SKINS = (
    ("#fff0e5", "#f3cbbd", "#ff9d9d", "#b06a62", 3),
    ("#ffe6d4", "#f0bfa6", "#ff9088", "#a65f50", 4),
    ("#fbd7bb", "#e3a888", "#f7816f", "#98533f", 2),
    ("#e8b48e", "#c78863", "#dd6b55", "#7d432f", 1.2),
    ("#b97f5b", "#935a40", "#bb4f43", "#5c2e22", 1),
)
BACKDROPS = (
    ("#fdf1f4", "#f9c9d8"),
    ("#eef7ff", "#b7d9f5"),
    ("#f3fbf0", "#bfe3c4"),
    ("#fff9e6", "#fbdf9d"),
    ("#f5f0ff", "#cfc1f0"),
    ("#ffffff", "#dfe4ee"),
    ("#fff4ea", "#ffd0b0"),
    ("#7f8fc4", "#3f4a80"),
    ("#83c5c8", "#3d7d8c"),
    ("#d98ca6", "#8d4a74"),
)
CLOTHES = ("#f7f7fb", "#39456f", "#b9384c", "#3a3640", "#5a8f9c", "#f3c4cf", "#7d6aa8", "#e8d9b8")
ACCENTS = ("#e8415a", "#f7c948", "#4f8fe0", "#ffffff", "#8e5bd0", "#41b58a", "#ff8fb3", "#3a3145")

# Lower edge of the fringe from temple to temple: valley, tip, valley, tip, ..., valley.
FRINGES = {
    "straight": "-30.5,0 -27,10 -21,-6 -16,-1.5 -11.5,-5 -6,-1 0,-5 6,-1 11.5,-5 16,-1.5 21,-6 27,10 30.5,0",
    "round": "-30.5,2 -27,13 -22,-2 -18,2 -13,-6 -7,-3.5 -1,-9 5,-4 11,-7 17,1 22,-2 27,13 30.5,2",
    "parted": "-30.5,2 -27,14 -22,-4 -17,0 0,-28 17,0 22,-4 27,14 30.5,2",
    "swept": "-30.5,2 -27,14 -23,-2 -19,2 -14,-7 -8,-1 10,-27 18,-2 22,-7 27,13 30.5,2",
    "spiky": "-30.5,0 -28,12 -22,-9 -17,2 -11,-12 -4,3 1,-14 8,-2 12,-11 18,2 22,-8 28,11 30.5,0",
    "messy": "-30.5,0 -28,11 -22,-7 -19,2 -13,-9 -8,-2 -5,-8 1,1 6,-11 12,-3 15,-8 20,3 23,-6 28,10 30.5,0",
    "lock": "-30.5,2 -27,13 -20,-9 -15,-2 -6,-16 0,5 6,-16 15,-2 20,-9 27,13 30.5,2",
    "open": "-30.5,1 -28,13 -24,-8 -20,-5 -13,-20 -6,-15 2,-28 17,-7 22,-12 28,13 30.5,1",
    "wispy": "-30.5,1 -27,13 -22,-10 -18,0 -13,-12 -8,-1 -4,-14 1,0 5,-13 10,-2 14,-12 18,0 22,-10 27,13 30.5,1",
}
# name: (back hair, possible fringes, possible side locks, weight)
HAIRSTYLES = {
    "short": ("short", ("spiky", "messy", "swept", "parted", "open"), ("none", "short"), 3),
    "messy": ("spikes", ("spiky", "messy", "lock", "swept"), ("short",), 2.5),
    "bob": ("bob", ("straight", "round", "parted", "swept", "wispy"), ("short", "long"), 3),
    "long": ("long", ("straight", "round", "parted", "swept", "lock", "wispy", "open"), ("short", "long"), 4),
    "wavy": ("wavy", ("round", "parted", "swept", "wispy", "lock"), ("long", "short"), 2.5),
    "hime": ("long", ("straight",), ("hime",), 1.5),
    "twin tails": ("twin tails", ("straight", "round", "parted", "lock", "wispy"), ("short", "long"), 3),
    "ponytail": ("ponytail", ("swept", "parted", "round", "lock", "open"), ("long", "short"), 2),
    "buns": ("buns", ("straight", "round", "parted", "wispy"), ("long", "short"), 1.2),
}
MOUTHS = {"smile": 4, "small": 2, "neutral": 2, "open": 3, "grin": 2, "cat": 1.5, "frown": 0.8}
ACCESSORIES = {"none": 9, "ribbon": 1.5, "hairband": 1.2, "glasses": 1.6, "cat ears": 1.2, "clip": 1.5, "flower": 1.0}


def pick(rng, options):
    """One of `options`, each as likely as the others."""
    return options[rng.integers(len(options))]


def pick_weighted(rng, table):
    """One entry of `table`, whose entries end with their weight; returned without it."""
    entries = list(table)
    weights = np.array([entry[-1] for entry in entries], float)
    return entries[rng.choice(len(entries), p=weights / weights.sum())][:-1]


def sample_fringe(rng, name, flip):
    """The fringe edge `name` with every tip moved a little, mirrored when `flip` is -1."""
    edge = np.array([point.split(",") for point in FRINGES[name].split()], float)
    edge[1:-1] += rng.normal(0, (0.7, 0.9), edge[1:-1].shape).clip(-1.6, 1.6)
    edge = edge[::-1] * (-1, 1) if flip < 0 else edge
    return tuple((float(x), float(y)) for x, y in edge)


def contrasting(colours, other):
    """Those of `colours` that stand out against the colour `other`."""
    red_green_blue = {c: np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in (*colours, other)}
    return [c for c in colours if np.abs(red_green_blue[c] - red_green_blue[other]).sum() > 150]


def sample_looks(rng) -> dict:
    """The parameters that are choices: colours, hairstyle, mouth, clothes, accessory."""
    back, fringes, side_locks = pick_weighted(rng, HAIRSTYLES.values())
    hair, flip = pick_weighted(rng, HAIR.values()), int(pick(rng, (-1, 1)))
    return {
        "hair": hair,
        "eyes": pick(rng, tuple(EYES.values())),
        "skin": pick_weighted(rng, SKINS),
        "backdrop": pick(rng, BACKDROPS),
        "backdrop_kind": pick(rng, ("flat", "gradient", "gradient", "circles")),
        "circles": tuple(tuple(circle) for circle in rng.uniform((-50, -50, 5), (50, 20, 14), (5, 3)).tolist()),
        "clothes": pick(rng, CLOTHES),
        "collar": pick(rng, ("round", "sailor", "shirt")),
        "accent": pick(rng, contrasting(ACCENTS, hair[0])),
        "back": back,
        "fringe": sample_fringe(rng, pick(rng, fringes), flip),
        "side_locks": pick(rng, side_locks),
        "mouth": pick_weighted(rng, MOUTHS.items())[0],
        "accessory": pick_weighted(rng, ACCESSORIES.items())[0],
        "flip": flip,
    }


def sample_geometry(rng) -> dict:
    """The parameters that are numbers: proportions, expression, pose."""

    def between(low, high):
        return float(rng.uniform(low, high))

    def around(spread, limit):
        return float(np.clip(rng.normal(0, spread), -limit, limit))

    lively = between(-1, 1)  # moves brows and slant together, so that the expression agrees
    return {
        "width": between(25.5, 28.5),
        "chin": (between(35, 38), between(3, 10)),
        "eye_x": between(13.2, 14.4),
        "eye_y": between(8, 10),
        "eye_size": (between(7.6, 8.8), between(8.6, 10.4)),
        "slant": 5 * lively + between(-3, 3),
        "lid": between(0, 1) if rng.random() < 0.2 else 0.0,
        "brow": (between(13.5, 15.5), 8 * lively + between(-3, 3)),
        "gaze": (between(-1.1, 1.1), between(-0.5, 0.6)),
        "blush": between(0.3, 0.9),
        "turn": around(1.1, 2.4),
        "tilt": around(3, 7),
        "scale": between(1.04, 1.16),
        "shift": (around(1.3, 3), between(-1, 3)),
    }


def sample_face(rng: np.random.Generator) -> Face:
    """Draw every parameter of a face from `rng`."""
    return Face(**sample_looks(rng), **sample_geometry(rng))


def face_svg(index: int, seed: int = 0) -> str:
    """The picture of face `index` (>= 0) of the set `seed` (>= 0) as SVG, 100 units wide."""
    return render_svg(sample_face(np.random.default_rng([seed, index])))


def _check(resolution: int, count: int = 1, workers: int | None = None) -> None:
    if not 8 <= resolution <= 512:
        raise ValueError(f"`resolution` must be from 8 to 512 pixels, not {resolution}.")
    if count < 1:
        raise ValueError(f"`count` must be at least 1, not {count}.")
    if workers is not None and workers < 1:
        raise ValueError(f"`workers` must be at least 1 (or None to choose by itself), not {workers}.")


def draw_face(index: int, resolution: int, seed: int = 0) -> Image.Image:
    """Face `index` of the set `seed` as an RGB picture, `resolution` x `resolution` pixels (8 to 512)."""
    _check(resolution)
    try:
        import resvg_py
    except ImportError as error:
        raise ImportError('Drawing faces needs resvg: `pip install "anime-ddpm[train]"`.') from error
    side = resolution * SUPERSAMPLE
    png = resvg_py.svg_to_bytes(svg_string=face_svg(index, seed), width=side, height=side, skip_system_fonts=True)
    return Image.open(io.BytesIO(png)).convert("RGB").reduce(SUPERSAMPLE)


def draw_faces(count: int, resolution: int, seed: int = 0, workers: int | None = None) -> np.ndarray:
    """Draw the faces 0 ... count - 1 of the set `seed`, the same bytes for any number of workers.

    resvg holds the GIL, so the work is spread over processes. They run this file as a script: no fork under a
    running torch, no guard needed around the caller's main module, no torch to load.

    Args:
        count: how many, at least 1.
        resolution: side of a picture in pixels, 8 to 512.
        seed: which set of faces; 0 or more.
        workers: processes to use; None takes one for each CPU, fewer when there is little to draw.

    Returns:
        `np.ndarray` of uint8, (count, resolution, resolution, 3), RGB in 0 ... 255.
    """
    _check(resolution, count, workers)
    if workers is None:
        workers = min(os.cpu_count() or 1, count // FACES_PER_WORKER)
    workers = max(1, min(workers, count))
    if workers == 1:
        return _draw_range(0, count, resolution, seed)
    draw_face(0, resolution, seed)  # a missing package or a bad seed is reported here, once
    bounds = [count * k // workers for k in range(workers + 1)]
    command = [sys.executable, os.path.abspath(__file__), str(resolution), str(seed)]
    spans = pairwise(bounds)
    running = [subprocess.Popen([*command, *map(str, span)], stdout=subprocess.PIPE) for span in spans]
    try:
        output = b"".join(process.communicate()[0] for process in running)
        if any(process.returncode for process in running):
            raise RuntimeError("A process that draws faces failed (its message is above); try `workers=1`.")
    finally:
        for process in running:
            process.kill()
    return np.frombuffer(bytearray(output), np.uint8).reshape(count, resolution, resolution, 3)


def _draw_range(start: int, stop: int, resolution: int, seed: int) -> np.ndarray:
    return np.stack([np.asarray(draw_face(index, resolution, seed)) for index in range(start, stop)])


if __name__ == "__main__":  # a worker of `draw_faces`
    resolution, seed, start, stop = map(int, sys.argv[1:])
    sys.stdout.buffer.write(_draw_range(start, stop, resolution, seed).tobytes())
