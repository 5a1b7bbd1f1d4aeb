"""What an upscaler makes of synthetic faces, to be looked at while it learns.

The project draws them itself, so that the pictures show nobody's data and may be published.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image

from pipeline_anime_ddpm import AnimeDDPMPipeline

from ...synthetic.drawn_faces import draw_faces


def upscale_drawn_faces(
    pipeline: AnimeDDPMPipeline, count: int, steps: int | None = None, batch_size: int = 16
) -> list[Image.Image]:
    """`count` synthetic faces, each reduced to the side that the upscaler takes, and enlarged again by it.

    Args:
        pipeline: of an upscaler.
        steps: of the solver; by default the pipeline's own.
        batch_size: faces in one network call.
    """
    side, ratio = pipeline.image_shape[-1], pipeline.config.upscale_ratio
    large = torch.from_numpy(draw_faces(count, side, 0)).permute(0, 3, 1, 2).float() / 255
    small = F.interpolate(large, size=side // ratio, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
    pictures = []
    for start, part in enumerate(small.split(batch_size)):
        generators = [torch.Generator().manual_seed(start * batch_size + number) for number in range(len(part))]
        pictures += pipeline.upscale(part, num_inference_steps=steps, generator=generators).images
    return pictures
