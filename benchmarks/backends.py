"""Ways to run a network on this processor: a function of (sample, timestep) for each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from diffusers import UNet2DModel

from pipeline_anime_ddpm import openvino_backend
from pipeline_anime_ddpm.openvino_backend import Call, Plain


def eager(unet: UNet2DModel, inputs: tuple[torch.Tensor, torch.Tensor]) -> Call:
    return Plain(unet).to(memory_format=torch.contiguous_format)


def channels_last(unet: UNet2DModel, inputs: tuple[torch.Tensor, torch.Tensor]) -> Call:
    """What the project draws with where it draws many."""
    return Plain(unet).to(memory_format=torch.channels_last)


def compiled(unet: UNet2DModel, inputs: tuple[torch.Tensor, torch.Tensor]) -> Call:
    return torch.compile(channels_last(unet, inputs))


def openvino(unet: UNet2DModel, inputs: tuple[torch.Tensor, torch.Tensor]) -> Call:
    return openvino_backend.compiled(eager(unet, inputs), inputs)


def backends() -> dict[str, Callable[[UNet2DModel, tuple[torch.Tensor, torch.Tensor]], Call]]:
    """All that can be had here."""
    found = {"eager": eager, "eager, channels_last": channels_last, "torch.compile, channels_last": compiled}
    return found | ({"OpenVINO": openvino} if importlib.util.find_spec("openvino") else {})
