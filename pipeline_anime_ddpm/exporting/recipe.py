"""`recipe.json`: all that a program needs to draw with an exported network."""

from __future__ import annotations

from typing import Any

from .. import __version__
from ..common.errors import UserError
from ..pipeline_anime_ddpm import AnimeDDPMPipeline
from .drawing import FORMAT


def check_exportable(pipeline: AnimeDDPMPipeline, source: str) -> None:
    """Refuse a pipeline that draws in many steps, or with guidance, or with fresh noise.

    Raises:
        UserError: that says which command makes one that can be exported.
    """
    config = pipeline.scheduler.config
    if not config.get("distilled_steps") or config.get("solver") != "ddim" or config.get("thresholding"):
        raise UserError(
            f"{source} takes {pipeline.default_num_inference_steps()} steps, and only distilled models are exported; "
            f"distil it first: `anime-ddpm train --distill 4 --pretrained_model_name_or_path {source} ...`."
        )
    if pipeline.choose_guidance_scale(None, None, is_labelled=True) != 1:
        raise UserError(
            f"{source} draws with guidance, which takes two networks or calls; distil the guidance into it with "
            "--distill_guidance_scale, or publish a copy with `anime-ddpm publish --guidance_scale 1`."
        )


def build_recipe(pipeline: AnimeDDPMPipeline, title: str, licence: str) -> dict[str, Any]:
    """The recipe without what is known of the file only once it is written."""
    channels, height, width = pipeline.image_shape
    config = pipeline.scheduler.config
    return {
        "format": FORMAT,
        "made_by": f"anime-ddpm {__version__}",
        "title": title,
        "licence": licence,
        "image": {"channels": channels, "height": height, "width": width},
        "noise": {"generator": "philox4x32-10", "key": "fnv1a-64", "normal": "box-muller", "stream": 0},
        "labels": pipeline.labels,
        "networks": {
            "base": {
                "file": "model.onnx",
                "clip": config.clip_sample_range if config.clip_sample else None,
                "block": pipeline.config.space_to_depth,
                "steps": steps_of(pipeline),
            }
        },
    }


def steps_of(pipeline: AnimeDDPMPipeline) -> list[dict[str, Any]]:
    """Each step of DDIM (Song et al., 2010.02502, Eq. 12, η = 0) as three pairs of coefficients.

    With the state x and the network's output y, `original` gives x_0 = o_0 x + o_1 y, which is then clipped, `noise`
    gives ε = n_0 x + n_1 y, and `next` gives the new state q_0 x_0 + q_1 ε.
    """
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(scheduler.config.distilled_steps)
    levels = [(level.signal, level.noise) for level in pipeline.noise_levels()]
    original_and_noise = {
        "v_prediction": lambda a, s: ([a, -s], [s, a]),
        "epsilon": lambda a, s: ([1 / a, -s / a], [0.0, 1.0]),
        "sample": lambda a, s: ([0.0, 1.0], [1 / s, -a / s]),
    }[scheduler.config.prediction_type]
    steps = []
    for timestep, here, there in zip(scheduler.timesteps.tolist(), levels[:-1], levels[1:], strict=True):
        original, noise = original_and_noise(*here)
        steps.append({"timestep": timestep, "original": original, "noise": noise, "next": list(there)})
    return steps
