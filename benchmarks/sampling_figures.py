#!/usr/bin/env python
"""The pictures of docs/sampling.md, from a trained pipeline and its own faces.

python benchmarks/sampling_figures.py --model runs/mine --distilled runs/four runs/two
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from common import ROOT
from diffusers import DDIMScheduler
from PIL import Image, ImageDraw

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler

FIGURES = ROOT / "model_card" / "figures"
SHOWN = 96  # pixels of a face in a sheet
STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
JUMPS = (1, 2, 4, 8)
SCALES = (1.0, 1.5, 2.0, 3.0)
MANY = 8  # seeds that are shown beside each other


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def sheet(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str], path: Path) -> None:
    """Rows of faces under the titles of their columns."""
    board = Image.new("RGB", (SHOWN * len(titles), SHOWN * len(rows) + 16), "white")
    draw = ImageDraw.Draw(board)
    for x, title in enumerate(titles):
        draw.text((x * SHOWN + 4, 2), title, fill="black")
    for y, row in enumerate(rows):
        for x, face in enumerate(row):
            board.paste(face.resize((SHOWN, SHOWN), Image.BICUBIC), (x * SHOWN, y * SHOWN + 16))
    board.save(path, optimize=True)


def masks(side: int) -> list[Image.Image]:
    """The eyes, and the right half."""
    eyes, half = (Image.new("L", (side, side)) for _ in range(2))
    eyes.paste(255, (side // 8, side * 5 // 16, side * 7 // 8, side * 11 // 16))
    half.paste(255, (side // 2, 0, side, side))
    return [eyes, half]


def covered(face: Image.Image, mask: Image.Image) -> Image.Image:
    return Image.composite(Image.new("RGB", face.size, "grey"), face, mask)


def variations(pipe: AnimeDDPMPipeline, faces: list[Image.Image], path: Path, **how) -> None:
    rows = [
        [face, *(pipe(image=face, strength=s, generator=seeded(7), **how).images[0] for s in STRENGTHS)]
        for face in faces
    ]
    sheet(rows, ["given", *(f"strength {s:g}" for s in STRENGTHS)], path)


def inversions(pipe: AnimeDDPMPipeline, faces: list[Image.Image], path: Path) -> None:
    rows = [
        [
            face,
            *(
                pipe(image=face, strength=s, inversion=True, num_inference_steps=50, generator=seeded(7)).images[0]
                for s in STRENGTHS
            ),
        ]
        for face in faces
    ]
    sheet(rows, ["given", *(f"strength {s:g}" for s in STRENGTHS)], path)


def repaintings(pipe: AnimeDDPMPipeline, faces: list[Image.Image], path: Path, **how) -> None:
    rows = []
    for face in faces:
        for mask in masks(face.width):
            painted = [
                pipe(image=face, mask_image=mask, jump_n_sample=jumps, generator=seeded(7), **how).images[0]
                for jumps in JUMPS
            ]
            rows.append([face, covered(face, mask), *painted])
    titles = ["given", "to be painted", *(f"jump_n_sample {jumps}" for jumps in JUMPS)]
    sheet(rows, titles, path)


def drawn(pipe: AnimeDDPMPipeline, **how) -> list[Image.Image]:
    return pipe(MANY, generator=seeded(*range(MANY)), **how).images


def guided(pipe: AnimeDDPMPipeline, path: Path) -> None:
    """By the guide if there is one, and by windows of half the side."""
    kinds = {"window": {"guidance_window": pipe.image_shape[-1] // 2}} | ({"guide": {}} if pipe.guide_unet else {})
    rows = [drawn(pipe)]
    rows += [
        drawn(pipe, guidance_scale=scale, **kind) for kind in reversed(kinds.values()) for scale in SCALES if scale != 1
    ]
    sheet(rows, [f"seed {seed}" for seed in range(MANY)], path)


def few_steps(pipe: AnimeDDPMPipeline, folders: Sequence[str], path: Path) -> None:
    rows = [drawn(pipe)]
    for folder in folders:
        few = AnimeDDPMPipeline.from_pretrained(folder)
        few.set_progress_bar_config(disable=True)
        rows.append(drawn(few))
    sheet(rows, [f"seed {seed}" for seed in range(MANY)], path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a pipeline that is not distilled")
    parser.add_argument("--distilled", nargs="+", default=[], help="what was made of it by --distill")
    parser.add_argument("--figures", type=Path, default=FIGURES)
    parser.add_argument("--seeds", type=int, nargs=3, default=(3, 4, 6), help="of the faces that are worked on")
    arguments = parser.parse_args()
    pipe = AnimeDDPMPipeline.from_pretrained(arguments.model)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = AnimeNoiseScheduler.from_config(pipe.scheduler.config, solver="dpmsolver++", thresholding=True)
    exact = AnimeDDPMPipeline(pipe.unet, DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False))
    exact.scheduler.register_to_config(thresholding=False)
    exact.set_progress_bar_config(disable=True)
    faces = pipe(3, generator=seeded(*arguments.seeds), num_inference_steps=50).images
    arguments.figures.mkdir(parents=True, exist_ok=True)
    variations(pipe, faces, arguments.figures / "sampling_variations.png")
    inversions(exact, faces, arguments.figures / "sampling_inversion.png")
    repaintings(pipe, faces[:2], arguments.figures / "sampling_inpainting.png")
    seeds = pipe.interpolate(8, generator=seeded(*arguments.seeds[:2])).images
    images = exact.interpolate(8, image=faces[1:], num_inference_steps=50).images
    titles = ["one end", *[""] * 6, "the other"]
    sheet([seeds, images], titles, arguments.figures / "sampling_interpolation.png")
    shown = pipe(3, generator=seeded(*arguments.seeds), return_trajectory=True, num_inference_steps=25).trajectory
    steps = (0, 3, 6, 9, 12, 16, 20, 24)
    rows = [[shown[step][face] for step in steps] for face in range(3)]
    sheet(rows, [f"step {step + 1}" for step in steps], arguments.figures / "sampling_trajectory.png")
    guided(pipe, arguments.figures / "sampling_guidance.png")
    if arguments.distilled:
        few_steps(pipe, arguments.distilled, arguments.figures / "sampling_distilled.png")


if __name__ == "__main__":
    main()
