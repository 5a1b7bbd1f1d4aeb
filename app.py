#!/usr/bin/env python
"""Draw faces in the browser. The same file is the Space that `anime-ddpm publish --space` makes.

python app.py --model runs/mine        # a folder, or a repository of the Hub
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import secrets
from pathlib import Path

import gradio as gr
import torch
from PIL import Image

SETTINGS = Path(__file__).with_name("app_settings.json")  # of a Space: which model it shows, and at which revision
MOST_FACES, MOST_STEPS, MOST_SEED = 16, 100, 2**31 - 1
DEFAULT_FACES = 4
LEAST_SHOWN = 256  # pixels; smaller faces are enlarged for the eye


def main() -> None:
    """Load the model and open the page."""
    arguments = parse()
    pipeline = load_pipeline(arguments.model, arguments.revision)
    demo = build_demo(pipeline, arguments.model)
    demo.queue(max_size=16, default_concurrency_limit=1).launch(server_port=arguments.port)


def parse() -> argparse.Namespace:
    settings = json.loads(SETTINGS.read_text()) if SETTINGS.is_file() else {"model": None, "revision": None}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=settings["model"], required=settings["model"] is None)
    parser.add_argument("--revision", default=settings["revision"], help="commit of a repository on the Hub")
    parser.add_argument("--port", type=int)
    return parser.parse_args()


def load_pipeline(model: str, revision: str | None = None):
    """With the package, its own code; without it that of the model, which must be a folder or pinned to a revision."""
    if importlib.util.find_spec("pipeline_anime_ddpm"):
        from pipeline_anime_ddpm import AnimeDDPMPipeline

        pipeline = AnimeDDPMPipeline.from_pretrained(model, revision=revision)
    else:
        from diffusers import DiffusionPipeline

        if revision is None and not os.path.isdir(model):
            raise SystemExit(f"Give --revision, the commit of {model} whose code you have read.")
        pipeline = DiffusionPipeline.from_pretrained(model, revision=revision, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


def build_demo(pipeline, name: str) -> gr.Blocks:
    """The page."""

    def draw(faces: int, seed: int, steps: int, progress=gr.Progress()) -> list[tuple[Image.Image, str]]:  # noqa: B008 (how gradio finds it)
        """Draw `faces` faces from the seeds `seed`, `seed + 1`, ... in `steps` steps of the sampler."""
        seeds = [(int(seed) + number) % (MOST_SEED + 1) for number in range(int(faces))]

        def tell(_, step: int, timestep, values: dict) -> dict:
            progress((step + 1, steps), unit="steps")
            return values

        images = pipeline(
            len(seeds),
            generator=[torch.Generator().manual_seed(one) for one in seeds],
            num_inference_steps=int(steps),
            callback_on_step_end=tell,
        ).images
        return [(enlarged(image), f"seed {one}") for image, one in zip(images, seeds, strict=True)]

    with gr.Blocks(title=name.rstrip("/").split("/")[-1]) as demo:
        gr.Markdown(f"# Faces by {name.rstrip('/').split('/')[-1]}")
        with gr.Row():
            with gr.Column(scale=1):
                faces = gr.Slider(1, MOST_FACES, DEFAULT_FACES, step=1, label="Faces")
                default = min(MOST_STEPS, pipeline.default_num_inference_steps())
                steps = gr.Slider(1, MOST_STEPS, default, step=1, label="Steps")
                seed = gr.Number(0, label="Seed of the first face", precision=0, minimum=0, maximum=MOST_SEED)
                another = gr.Button("Another seed")
                button = gr.Button("Draw", variant="primary")
            with gr.Column(scale=2):
                gallery = gr.Gallery(label="Faces", columns=4, format="png")
        another.click(lambda: secrets.randbelow(MOST_SEED), outputs=seed, api_visibility="private")
        button.click(draw, [faces, seed, steps], gallery, api_name="generate")
    return demo


def enlarged(image: Image.Image) -> Image.Image:
    """By a whole factor, each pixel a square."""
    factor = max(1, -(-LEAST_SHOWN // min(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


if __name__ == "__main__":
    main()
