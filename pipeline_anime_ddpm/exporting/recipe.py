"""`recipe.json`: all that a program needs to draw with an exported network."""

from __future__ import annotations

from typing import Any

from .. import __version__
from ..common.errors import UserError
from ..pipeline_anime_ddpm import DETAIL_SCALE, AnimeDDPMPipeline, is_upscaler
from .drawing import FORMAT

UPSCALER_STREAM = 1  # of the noise that an upscaler starts from; the face's own is 0


def check_exportable(pipeline: AnimeDDPMPipeline, source: str) -> None:
    """Refuse a pipeline that draws in many steps, or with guidance, or with fresh noise.

    Raises:
        UserError: that says which command makes one that can be exported.
    """
    if is_upscaler(pipeline.unet):
        raise UserError(f"{source} is an upscaler, which draws no faces; give it as --upscaler to a model that does.")
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


def check_upscaler_exportable(upscaler: AnimeDDPMPipeline, source: str) -> None:
    """Refuse an upscaler with a scheduler of diffusers. Ours takes a single step, or the steps of DDIM if distilled.

    Raises:
        UserError: that says so.
    """
    config = upscaler.scheduler.config
    if not config.get("solver") or config.get("thresholding"):
        name = "thresholding" if config.get("solver") else type(upscaler.scheduler).__name__
        raise UserError(
            f"The upscaler of {source} samples with {name}, which is not exported; give one with the "
            "AnimeNoiseScheduler that its training has saved."
        )


def build_recipe(
    pipeline: AnimeDDPMPipeline, upscaler: AnimeDDPMPipeline | None, title: str, licence: str
) -> dict[str, Any]:
    """The recipe without what is known of the files only once they are written."""
    channels, height, width = pipeline.image_shape
    networks = {"base": _network(pipeline, "model.onnx")}
    if upscaler is not None:
        networks["upscaler"] = _network(upscaler, "upscaler.onnx") | {
            "ratio": upscaler.config.upscale_ratio, "detail_scale": DETAIL_SCALE, "stream": UPSCALER_STREAM,
        }  # fmt: skip
    return {
        "format": FORMAT,
        "made_by": f"anime-ddpm {__version__}",
        "title": title,
        "licence": licence,
        "image": {"channels": channels, "height": height, "width": width},
        "noise": {"generator": "philox4x32-10", "key": "fnv1a-64", "normal": "box-muller", "stream": 0},
        "labels": pipeline.labels,
        "networks": networks,
    }


def _network(pipeline: AnimeDDPMPipeline, file: str) -> dict[str, Any]:
    config = pipeline.scheduler.config
    return {
        "file": file,
        "clip": config.clip_sample_range if config.clip_sample else None,
        "block": pipeline.config.space_to_depth,
        "steps": steps_of(pipeline),
    }


def steps_of(pipeline: AnimeDDPMPipeline) -> list[dict[str, Any]]:
    """Each step of DDIM (Song et al., 2010.02502, Eq. 12, η = 0) as three pairs of coefficients.

    With the state x and the network's output y, `original` gives x_0 = o_0 x + o_1 y, which is then clipped, `noise`
    gives ε = n_0 x + n_1 y, and `next` gives the new state q_0 x_0 + q_1 ε.
    """
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(pipeline.default_num_inference_steps())
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
