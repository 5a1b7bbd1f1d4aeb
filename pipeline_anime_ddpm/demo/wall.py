"""The wall of pre-drawn faces that the page begins with.

    python -m pipeline_anime_ddpm.demo.wall --model hub_model/labelled

draws those of the shipped model into `web/static/`, enlarged by its upscaler: seeds 0 to 63, none left out. A server
that shows another model draws its own while nobody waits, and keeps them in memory.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .drawing import Faces, face_job
from .jobs import Jobs, Watch
from .model import Model
from .pictures import enlarge, webp
from .recipe import Recipe, make_recipe

WEB = Path(__file__).parent / "web" / "static"
COLUMNS, ROWS, SIDE = 8, 8, 128  # of the sprite; pixels of a face in it
FIRST = 3  # the face that is shown large
AT_ONCE = 4  # faces that are drawn in the background


def wall_recipes(model: Model) -> list[Recipe]:
    """The seeds from 0 on, with all values of the labels in turn."""
    recipes = []
    for seed in range(COLUMNS * ROWS):
        labels = {
            attribute: values[((2 * turn + 1) * seed + turn * (seed // 12)) % len(values)]
            for turn, (attribute, values) in enumerate(model.labels.items())
        }
        recipes.append(make_recipe(model, seed, labels))
    return recipes


class Wall:
    """The sprite of the pre-drawn faces and the first face at 512 pixels, as WebP; empty while they are not drawn."""

    def __init__(self, model: Model):
        self.model, self.recipes = model, wall_recipes(model)
        self.sprite, self.first = b"", b""
        self.version = model.fingerprint()
        known = WEB / "wall.json"
        if known.is_file() and json.loads(known.read_text()) == self.facts():
            self.sprite, self.first = ((WEB / name).read_bytes() for name in ("wall.webp", "first.webp"))

    def facts(self) -> dict[str, Any]:
        return {"weights": self.version, "steps": self.model.default_steps, "guidance": self.model.default_guidance}

    @property
    def is_drawn(self) -> bool:
        return bool(self.sprite)

    def fill(self, images: Sequence[Image.Image]) -> None:
        """Put the wall together."""
        sprite = Image.new("RGB", (COLUMNS * SIDE, ROWS * SIDE))
        for number, image in enumerate(images):
            place = (number % COLUMNS * SIDE, number // COLUMNS * SIDE)
            sprite.paste(enlarge(self.model, image, SIDE).convert("RGB").resize((SIDE, SIDE)), place)
        self.first = webp(enlarge(self.model, images[FIRST], 512), 85)
        self.sprite = webp(sprite, 80)

    def draw_in_background(self, jobs: Jobs, faces: Faces) -> None:
        """Draw the wall while nobody else waits."""

        def draw() -> None:
            images: list[Image.Image] = []
            for start in range(0, len(self.recipes), AT_ONCE):
                part = self.recipes[start : start + AT_ONCE]
                (*_, drawn) = jobs.watch(jobs.submit(face_job(self.model, faces, "", part, is_background=True)))
                images += [image for image, _ in drawn]
            self.fill(images)

        threading.Thread(target=draw, name="wall", daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="hub_model/labelled", help="a folder, or a repository of the Hub")
    parser.add_argument("--upscaler", default="hub_model/upscaler", help="an upscaler for the model, likewise")
    arguments = parser.parse_args()
    model = Model(arguments.model, upscaler=arguments.upscaler)
    wall, faces, images = Wall(model), Faces(), []
    torch.set_num_threads(1)  # the same pixels on every machine
    for start in range(0, len(wall.recipes), AT_ONCE):
        job = face_job(model, faces, "", wall.recipes[start : start + AT_ONCE], is_background=True)
        images += [image for image, _ in job.run(job.items, Watch([job], job.calls))]
    wall.fill(images)
    (WEB / "wall.webp").write_bytes(wall.sprite)
    (WEB / "first.webp").write_bytes(wall.first)
    (WEB / "wall.json").write_text(json.dumps(wall.facts()) + "\n")
    print(f"{len(images)} faces: {len(wall.sprite) / 1e3:.0f} kB, the first one large: {len(wall.first) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
