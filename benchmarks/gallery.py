#!/usr/bin/env python
"""The pictures of docs/models.md, from the model that comes with the project.

With as many threads on the same machine they are the same files bit for bit.

python benchmarks/gallery.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import ROOT
from diffusers.utils import export_to_gif, make_image_grid
from PIL import Image
from sampling_figures import FIGURES, repaintings, seeded, variations

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler

SHOWN, COLUMNS = 64, 8  # faces of the grid: seeds from 0 on
FRAMES = 24  # from one seed to the next


def film(pipe: AnimeDDPMPipeline, seeds: list[int], path: Path, **how) -> None:
    """From each seed to the next and back to the first, twice as large."""
    frames: list[Image.Image] = []
    for pair in zip(seeds, seeds[1:] + seeds[:1], strict=True):
        frames += pipe.interpolate(FRAMES, generator=seeded(*pair), **how).images[:-1]
    export_to_gif([frame.resize((2 * frame.width,) * 2, Image.BICUBIC) for frame in frames], str(path), fps=12)


def grid(pipe: AnimeDDPMPipeline, path: Path, **how) -> None:
    faces = pipe(SHOWN, generator=seeded(*range(SHOWN)), **how).images
    make_image_grid(faces, SHOWN // COLUMNS, COLUMNS).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=str(ROOT / "hub_model"))
    parser.add_argument("--guidance_scale", type=float, default=1.5, help="with the model's own sampler")
    parser.add_argument("--ddpm_guidance_scale", type=float, default=1.25, help="for grid.png, which DDPM draws")
    parser.add_argument("--ddpm_num_inference_steps", type=int, default=50, help="of grid.png")
    parser.add_argument("--figures", type=Path, default=FIGURES / "gallery")
    parser.add_argument("--seeds", type=int, nargs=3, default=(1, 5, 9), help="of the faces that are worked on")
    arguments = parser.parse_args()
    pipe = AnimeDDPMPipeline.from_pretrained(arguments.model)
    pipe.set_progress_bar_config(disable=True)
    guided = {"guidance_scale": arguments.guidance_scale}
    arguments.figures.mkdir(parents=True, exist_ok=True)
    grid(pipe, arguments.figures / "grid_fast.png", **guided)
    chosen = pipe(3, generator=seeded(*arguments.seeds), **guided).images
    variations(pipe, chosen, arguments.figures / "variations.png", **guided)
    repaintings(pipe, chosen[:2], arguments.figures / "inpainting.png", **guided)
    film(pipe, list(arguments.seeds), arguments.figures / "interpolation.gif", **guided)
    pipe.scheduler = AnimeNoiseScheduler.from_config(pipe.scheduler.config, solver="ddpm")
    steps, scale = arguments.ddpm_num_inference_steps, arguments.ddpm_guidance_scale
    grid(pipe, arguments.figures / "grid.png", num_inference_steps=steps, guidance_scale=scale)


if __name__ == "__main__":
    main()
