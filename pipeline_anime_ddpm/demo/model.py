"""The model that is shown: its pipeline, and what it can do."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download

from .limits import MAX_GUIDANCE, MAX_STEPS

SAMPLERS = {  # label: solver of our scheduler, class of diffusers for others
    "DPM-Solver++ (fast)": ("dpmsolver++", "DPMSolverMultistepScheduler"),
    "DDIM": ("ddim", "DDIMScheduler"),
    "DDPM (many steps)": ("ddpm", "DDPMScheduler"),
}
OWN = "The model's own"
SMALL_CHANNELS = 4  # that an upscaler takes more than it gives


class Model:
    """A pipeline and what is known about it.

    Args:
        name: a folder, or a repository of the Hub.
        revision: commit of the repository.
        upscaler: a folder or repository with an upscaler, for a model without one.
    """

    def __init__(self, name: str, revision: str | None = None, upscaler: str | None = None):
        self.name, self.revision = name, revision
        self.pipeline = load_pipeline(name, revision)
        channels = self.pipeline.unet.config.in_channels - self.pipeline.unet.config.out_channels
        if channels == SMALL_CHANNELS:
            raise SystemExit(f"{name} is an upscaler and draws no faces; add it to a model that does.")
        if upscaler is not None:
            try:
                self.pipeline = self.pipeline.with_upscaler(load_pipeline(upscaler, flag="--upscaler"))
            except ValueError as error:
                raise SystemExit(f"{upscaler} does not fit {name}: {error}") from error
        self.title = name.rstrip("/").split("/")[-1]
        scheduler, config = self.pipeline.scheduler, self.pipeline.config
        self.is_ours = type(scheduler).__name__ == "AnimeNoiseScheduler"
        self.is_distilled = bool(scheduler.config.get("distilled_steps"))
        self.samplers = [OWN] if self.is_distilled else [OWN, *SAMPLERS]
        self.side = max(self.pipeline.image_shape[1:])
        labels = getattr(self.pipeline, "labels", {})
        self.labels = {name: labels[name] for name in sorted(labels, key=lambda name: (name != "hair", name))}
        self.has_guide = getattr(self.pipeline, "guide_unet", None) is not None
        self.can_guide = self.has_guide or bool(self.labels)
        guidance = config.get("default_guidance_scale", 1.0)
        self.default_guidance = min(MAX_GUIDANCE, guidance) if self.can_guide else 1.0
        self.least_steps, self.most_steps = 1, min(MAX_STEPS, scheduler.config.num_train_timesteps)
        self.default_steps = min(self.most_steps, self.pipeline.default_num_inference_steps())
        if self.is_distilled:
            self.least_steps = self.most_steps = self.default_steps
        self.can_upscale = getattr(self.pipeline, "upscaler_unet", None) is not None

    def with_sampler(self, label: str, **options: Any) -> Any:
        """A pipeline for one request, with the same networks."""
        own = self.pipeline.scheduler
        if label == OWN:
            scheduler = type(own).from_config(own.config, **options)
        elif self.is_ours:
            scheduler = type(own).from_config(own.config, solver=SAMPLERS[label][0], **options)
        else:
            scheduler = getattr(diffusers, SAMPLERS[label][1]).from_config(own.config, **options)
        pipeline = copy.copy(self.pipeline)
        pipeline.scheduler = scheduler
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def fingerprint(self) -> str:
        """Of the weights, in half precision, so that published copies have the same."""
        digest = hashlib.sha256()
        for weights in self.pipeline.unet.parameters():
            digest.update(weights.detach().half().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def read(self, name: str) -> Path | None:
        """A file beside the weights, if there is one."""
        if os.path.isdir(self.name):
            path = Path(self.name, name)
            return path if path.is_file() else None
        with contextlib.suppress(Exception):  # away, offline, not there: the page does without
            return Path(hf_hub_download(self.name, name, revision=self.revision))
        return None


def load_pipeline(model: str, revision: str | None = None, flag: str = "--model") -> Any:
    """With the package, its own code; without it that of the model, which must be a folder or pinned to a revision."""
    if importlib.util.find_spec("pipeline_anime_ddpm"):
        from pipeline_anime_ddpm import loading

        try:
            pipeline = loading.load_pipeline(model, revision=revision)
        except ValueError as error:
            raise SystemExit(f"{model} cannot be loaded as a pipeline ({error}); give another {flag}.") from error
    else:
        if revision is None and not os.path.isdir(model):
            raise SystemExit(f"Give --revision, the commit of {model} whose code you have read.")
        pipeline = DiffusionPipeline.from_pretrained(model, revision=revision, trust_remote_code=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
