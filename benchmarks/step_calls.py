#!/usr/bin/env python
"""How many operations that launch kernels does a training step have? A GPU waits for them where images are small.

    python benchmarks/step_calls.py

Counted on the CPU, for the step of diffusers' `train_unconditional.py` and for ours: on full images, on patches of the
whole step, and with crops by noise level. The contenders are those of `training.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from common import RESULTS, drawn_faces, write_result
from render_patches import render_step_calls
from render_speed import TRAINING_NAMES
from torch.utils._python_dispatch import TorchDispatchMode
from training import Ours, Peer, write_images
from training_contenders import flags_of

PACKAGES = ["torch", "diffusers", "accelerate"]
PARTS = ("drawing", "passes", "update")
CONTENDERS = ("peer", "speed", "patch", "gated")
# Operations that launch nothing: allocation, and reading a value.
FREE = ("empty", "new_empty", "_unsafe_view", "lift_fresh", "detach", "_local_scalar_dense", "resize_", "set_")
NOTES = [
    "An operation is a call of PyTorch's dispatcher below autograd (seen by a `TorchDispatchMode`) that is neither a "
    "view nor an allocation: about what the host must launch. Operations on lists of tensors (`_foreach_…`, "
    "`_fused_…`) count once. A library may launch several kernels for one. Data loading is left out.",
]


class OperationCounter(TorchDispatchMode):
    """Counts the operations that launch kernels, by the part of the step: `operations[part]`, and `calls` by name."""

    def __init__(self) -> None:
        super().__init__()
        self.part = "passes"
        self.operations = dict.fromkeys(PARTS, 0)
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if not function.is_view and not name.startswith(FREE):
            self.operations[self.part] += 1
            self.calls[name] += 1
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def marked_parts(contender: Peer | Ours, counter: OperationCounter) -> Iterator[list[int]]:
    """Tell the counter which part of a step it is in; yields a list that gets an entry for each network call."""
    import train_anime_ddpm as recipe

    accelerator = contender.run.accelerator if isinstance(contender, Ours) else contender.accelerator
    clip, draw, calls = accelerator.clip_grad_norm_, recipe.step_parts, []
    hook = contender.unet.register_forward_pre_hook(lambda *_: calls.append(1))

    def clip_and_go_on(*args):
        counter.part = "update"
        return clip(*args)

    def draw_marked(*args):
        counter.part = "drawing"
        parts = draw(*args)
        counter.part = "passes"
        return parts

    accelerator.clip_grad_norm_, recipe.step_parts = clip_and_go_on, draw_marked
    try:
        yield calls
    finally:
        accelerator.clip_grad_norm_, recipe.step_parts = clip, draw
        hook.remove()


def counted_step(contender: Peer | Ours, side: int) -> dict[str, float]:
    """Operations of one step, by part, and its network calls."""
    contender.step(side)  # makes optimiser states
    with OperationCounter() as counter, marked_parts(contender, counter) as calls:
        contender.step(side)
    return counter.operations | {
        "operations": sum(counter.operations.values()),
        "network_calls": len(calls),
        "most_frequent": dict(counter.calls.most_common(12)),
    }


def row_of(name: str, settings: argparse.Namespace) -> dict:
    """The mean over a contender's steps, on each side as often as in a run."""
    images = torch.load(f"{settings.folder}/images.pt", weights_only=True)
    contender = (Peer if name == "peer" else Ours)(name, settings, images, f"{settings.folder}/{name}")
    if name == "peer":
        for group in contender.optimizer.param_groups:
            group["foreach"] = True  # PyTorch's default on CUDA
    steps = {side: counted_step(contender, side) for side in contender.sides}
    shares = contender.sides
    keys = (*PARTS, "operations", "network_calls")
    means = {key: sum(share * steps[side][key] for side, share in shares.items()) for key in keys}
    flags = flags_of(name, settings)
    title = TRAINING_NAMES[name].format(**flags)
    return {"contender": name, "name": title, "flags": flags, **means, "by_side": steps, "step_shares": shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--channels", type=int, nargs=4, default=[32, 64, 128, 256], help="of the network's levels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--output", type=Path, default=RESULTS / "step_calls.json")
    settings = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    with tempfile.TemporaryDirectory() as settings.folder:
        settings.data = drawn_faces(settings.folder, 2 * settings.batch, settings.resolution)
        write_images(settings)
        rows = [row_of(name, settings) for name in CONTENDERS]
    operations = {row["contender"]: row["operations"] for row in rows}
    summary = {f"{name}_over_full_operations": operations[name] / operations["speed"] for name in ("patch", "gated")}
    summary["full_over_peer_operations"] = operations["speed"] / operations["peer"]
    summary["gated_over_peer_operations"] = operations["gated"] / operations["peer"]
    what = (
        f"Operations of a training step of a network of {settings.parameters / 1e6:.1f} M parameters at "
        f"{settings.resolution} px, batch {settings.batch}"
    )
    command = " ".join(["python benchmarks/step_calls.py", *sys.argv[1:]])
    write_result(settings.output, what, command, PACKAGES, rows=rows, summary=summary, notes=NOTES)
    print(render_step_calls(json.loads(settings.output.read_text())))


if __name__ == "__main__":
    main()
