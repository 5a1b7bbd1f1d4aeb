"""Ways to run a network on this processor: a function of (sample, timestep) for each."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable

import torch
from diffusers import UNet2DModel

Call = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class _Plain(torch.nn.Module):
    """A network whose output is a tensor."""

    def __init__(self, unet: UNet2DModel):
        super().__init__()
        self.unet = copy.deepcopy(unet).eval()

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return self.unet(sample, timestep, return_dict=False)[0]


def eager(unet: UNet2DModel, inputs: tuple[torch.Tensor, torch.Tensor]) -> Call:
    return _Plain(unet).to(memory_format=torch.contiguous_format)


def channels_last(unet: UNet2DModel, inputs: tuple[torch.Tensor, torch.Tensor]) -> Call:
    """What the project draws with where it draws many."""
    return _Plain(unet).to(memory_format=torch.channels_last)


def compiled(unet: UNet2DModel, inputs: tuple[torch.Tensor, torch.Tensor]) -> Call:
    return torch.compile(channels_last(unet, inputs))


def openvino(unet: UNet2DModel, inputs: tuple[torch.Tensor, torch.Tensor]) -> Call:
    import openvino

    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    shapes = [list(tensor.shape) for tensor in inputs]
    model = openvino.convert_model(eager(unet, inputs), example_input=inputs, input=shapes)
    network = openvino.Core().compile_model(model, "CPU", threads)
    return lambda sample, timestep: torch.from_numpy(network([sample.numpy(), timestep.numpy()])[0].copy())


def backends() -> dict[str, Callable[[UNet2DModel, tuple[torch.Tensor, torch.Tensor]], Call]]:
    """All that can be had here."""
    found = {"eager": eager, "eager, channels_last": channels_last, "torch.compile, channels_last": compiled}
    return found | ({"OpenVINO": openvino} if importlib.util.find_spec("openvino") else {})
