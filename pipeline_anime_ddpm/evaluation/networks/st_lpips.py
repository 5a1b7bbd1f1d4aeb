"""The networks of ST-LPIPS, a shift-tolerant LPIPS (arXiv:2207.13686), with the weights that its package brings.

`pip install stlpips-pytorch` brings the weights, so that it works offline. Only they are read; the package's code is
never imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from ...common.errors import UserError

# One row a stage, whose output is compared: convolutions by their number in the file, with `pool` and `blur` between.
ALEX = (("0", "blur1", "relu"), ("pool", "blur4", "5", "relu"), ("pool", "blur8", "9", "relu"), ("11", "relu"),
        ("13", "relu"))  # fmt: skip
VGG = (
    ("0", "relu", "2", "relu"),
    ("pool", "blur5", "6", "relu", "8", "relu"),
    ("pool", "blur11", "12", "relu", "14", "relu", "16", "relu"),
    ("pool", "blur19", "20", "relu", "22", "relu", "24", "relu"),
    ("pool", "blur27", "28", "relu", "30", "relu", "32", "relu"),
)
STAGES = {"alex": ALEX, "vgg": VGG}
POOL = {"alex": 3, "vgg": 2}  # side of the max pooling, whose stride is 1: the blur after it is what makes less of it
PADDING = {"alex": {"0": 2, "5": 2}, "vgg": {}}  # of convolutions; 1 for all others


class ShiftTolerantFeatures(nn.Module):
    """The five feature maps that ST-LPIPS compares.

    Args:
        net: `alex` or `vgg`.
        state: the weights file's content.
    """

    def __init__(self, net: str, state: dict[str, torch.Tensor]):
        super().__init__()
        self.net = net
        self.weights = nn.ParameterDict()
        for name, tensor in state.items():
            if name.startswith("net."):
                self.weights[name.removeprefix("net.").replace(".", "_")] = nn.Parameter(tensor, requires_grad=False)
        self.register_buffer("shift", state["scaling_layer.shift"])
        self.register_buffer("scale", state["scaling_layer.scale"])
        self.lins = [state[f"lin{i}.model.1.weight"] for i in range(len(STAGES[net]))]

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps `(B, C, h, w)` of `images` `(B, 3, H, W)` in [-1, 1]."""
        state, outputs = images, []
        for number, steps in enumerate(STAGES[self.net], start=1):
            for step in steps:
                state = self._step(f"slice{number}", step, state)
            outputs.append(state)
        return outputs

    def _step(self, stage: str, step: str, x: torch.Tensor) -> torch.Tensor:
        if step == "relu":
            return functional.relu(x)
        if step == "pool":
            return functional.max_pool2d(x, POOL[self.net], stride=1)
        if step.startswith("blur"):
            kernel = self.weights[f"{stage}_{step.removeprefix('blur')}_filt"]
            padded = functional.pad(x, (2, 2, 2, 2), mode="reflect")
            return functional.conv2d(padded, kernel, stride=2, groups=x.shape[1])
        weight, bias = (self.weights[f"{stage}_{step}_{kind}"] for kind in ("weight", "bias"))
        return functional.conv2d(x, weight, bias, padding=PADDING[self.net].get(step, 1))


def find_weights(net: str) -> Path:
    """The weights in the installed package, found without importing it.

    Raises:
        UserError: if the package is not installed.
    """
    spec = importlib.util.find_spec("stlpips_pytorch")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "weights" / "vST0.0" / f"{net}_shift_tolerant.pth"
        if path.exists():
            return path
    raise UserError(
        f"--lpips st-{net} needs the weights of ST-LPIPS; run `pip install stlpips-pytorch`, or give its "
        f"{net}_shift_tolerant.pth as --lpips_weights."
    )
