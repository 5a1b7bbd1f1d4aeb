#!/usr/bin/env python
"""One training step: that of diffusers' `train_unconditional.py` against ours, plain, fast, lean and on patches.

    python benchmarks/training.py

Every contender runs in a process of its own; one round of each in turn, so that whatever else slows the machine slows
all of them. All train the same network on the same images, with the same batch and an EMA.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from common import FACES, RESULTS, ROOT, drawn_faces, gpu_name, write_result
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from render_speed import render_training
from torch.utils.flop_counter import FlopCounterMode
from training_contenders import HALF, OURS, flags_of, names, precision_of
from training_results import NOTES, rows_of, summary_of

PACKAGES = ["torch", "diffusers", "accelerate", "numpy"]
NETWORK = {  # the benchmark's own: four levels, attention at the lowest
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D",) * 3 + ("AttnDownBlock2D",),
    "up_block_types": ("AttnUpBlock2D",) + ("UpBlock2D",) * 3,
    "attention_head_dim": 32,
}


NEEDED = ("peer", "plain", "speed", "memory", "patch")  # for the summary


class Peer:
    """The step of `train_unconditional.py --use_ema` with its other defaults."""

    def __init__(self, name: str, settings: argparse.Namespace, images: torch.Tensor, folder: str):
        from accelerate import Accelerator

        self.accelerator = Accelerator(mixed_precision=precision_of(name))
        self.unet = UNet2DModel.from_config(UNet2DModel.load_config(f"{settings.folder}/unet"))
        self.noise = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        optimizer = torch.optim.AdamW(self.unet.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        schedule = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=10_000)
        self.ema = EMAModel(
            self.unet.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75,
            model_cls=UNet2DModel, model_config=self.unet.config,
        )  # fmt: skip
        self.model, self.optimizer, self.schedule = self.accelerator.prepare(self.unet, optimizer, schedule)
        self.ema.to(self.accelerator.device)
        self.images = (images.float() / 127.5 - 1).to(self.accelerator.device)  # not counted: it is the data path's
        self.sides = {settings.resolution: 1.0}

    def step(self, side: int) -> None:
        clean = self.images
        noise = torch.randn(clean.shape, device=clean.device)
        timesteps = torch.randint(0, 1000, (len(clean),), device=clean.device).long()
        noisy = self.noise.add_noise(clean, noise, timesteps)
        with self.accelerator.accumulate(self.model):
            loss = F.mse_loss(self.model(noisy, timesteps).sample.float(), noise.float())
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())
        loss.detach().item()  # as its log of every step does


class Ours:
    """`train_step` of train_anime_ddpm.py with the flags of a contender."""

    def __init__(self, name: str, settings: argparse.Namespace, images: torch.Tensor, folder: str):
        sys.path.insert(0, str(ROOT))
        from pipeline_anime_ddpm.data import Batch, open_data
        from pipeline_anime_ddpm.recipe.run import build_denoiser, build_run
        from pipeline_anime_ddpm.recipe.schedule import RunSchedule
        from pipeline_anime_ddpm.training.config import TrainingConfig
        from pipeline_anime_ddpm.training.hardware import build_accelerator, check_machine
        from pipeline_anime_ddpm.training.patches import PatchTrainingAdapter
        from train_anime_ddpm import train_step

        config = TrainingConfig(
            dataset_name=settings.data, cache_dir=f"{settings.folder}/cache", output_dir=folder, report_to="none",
            model_config_name_or_path=f"{settings.folder}/unet", resolution=settings.resolution, random_flip=True,
            train_batch_size=settings.batch, max_train_steps=10_000, **flags_of(name, settings),
        )  # fmt: skip
        accelerator = build_accelerator(config, precision_of(name))
        check_machine(config, accelerator.device)
        denoiser = build_denoiser(config)
        data = open_data(config, settings.resolution, show_progress=False)
        schedule = RunSchedule.plan(config, data.num_images, 1)
        self.run = build_run(config, accelerator, denoiser, schedule, data)
        self.run.unet.train()
        self.unet, self.images, self.train_step = self.run.unet, Batch(images), train_step
        self.draws_sides = isinstance(denoiser.patches, PatchTrainingAdapter)
        self.sides = shares(denoiser.patches) if self.draws_sides else {settings.resolution: 1.0}

    def step(self, side: int) -> None:
        if self.draws_sides:
            self.run.patches.side = lambda *_: side
        self.train_step(self.run, self.images)


def shares(patches) -> dict[int, float]:
    """The share of a run's steps on each side, the final phase included."""
    final = patches.full_image_fraction
    pairs = zip(patches.sides, patches.probabilities, patches.final_probabilities, strict=True)
    result = {side: (1 - final) * (first + last) / 2 for side, first, last in pairs}
    result[patches.resolution] = result.get(patches.resolution, 0.0) + final
    return result


def saved_bytes(contender: Peer | Ours, side: int) -> int:
    """The most that one forward pass of a step keeps for its backward pass, parameters apart.

    Each storage counts once; a backward pass begins with all that its forward pass has kept.
    """
    parameters = {p.untyped_storage().data_ptr() for p in contender.unet.parameters()}
    kept, most = {}, 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def forget(*_) -> None:
        nonlocal most
        most = max(most, sum(kept.values()))
        kept.clear()

    hook = contender.unet.register_forward_pre_hook(forget)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        contender.step(side)
    hook.remove()
    forget()
    return most


def memory_figures(contender: Peer | Ours) -> dict[str, float]:
    """Bytes: kept activations; the allocator's peak, on CUDA also what it reserves; all over the worst of the sides."""
    from pipeline_anime_ddpm.planning.plan import measured_peak_bytes

    figures = {"saved_activation_bytes": max(saved_bytes(contender, side) for side in contender.sides)}
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        for side in contender.sides:
            contender.step(side)
        figures["cuda_allocated_bytes"] = torch.cuda.max_memory_allocated()
        figures["cuda_reserved_bytes"] = torch.cuda.max_memory_reserved()
    else:
        peaks = [measured_peak_bytes(lambda side=side: contender.step(side)) for side in contender.sides]
        figures["allocated_bytes"] = max(peaks)
    return figures


def timed_round(contender: Peer | Ours) -> dict[int, float]:
    """Seconds of one step on each side, the second of two: the others have had the caches since this one's last."""
    seconds = {}
    for side in contender.sides:
        contender.step(side)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        begin = time.perf_counter()
        contender.step(side)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds[side] = time.perf_counter() - begin
    return seconds


def serve(name: str, settings: argparse.Namespace, pipe) -> None:
    """One contender: builds its run, then does what it is told."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(settings.threads)
    images = torch.load(f"{settings.folder}/images.pt", weights_only=True)
    contender = (Ours if name.removesuffix(HALF) in OURS else Peer)(name, settings, images, f"{settings.folder}/{name}")
    timed_round(contender)  # allocates optimiser states, chooses kernels
    pipe.send("ready")
    while (order := pipe.recv()) != "end":
        if order == "round":
            pipe.send(timed_round(contender))
        elif order == "memory":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            flops = {side: counted_flops(contender, side) for side in contender.sides}
            pipe.send({"peak_rss_bytes": peak, "flops": flops, "sides": contender.sides} | memory_figures(contender))


def counted_flops(contender: Peer | Ours, side: int) -> int:
    """Floating point operations of one step, two for each multiplication and addition, recomputation included."""
    with FlopCounterMode(display=False) as counter:
        contender.step(side)
    return counter.get_total_flops()


def run_contenders(settings: argparse.Namespace) -> dict[str, dict]:
    """Seconds of each step on each side, and memory, of all contenders."""
    context, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    for name in settings.contenders:
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(name, settings, theirs), daemon=True))
        processes[-1].start()
        theirs.close()  # so that a contender that fails ends the benchmark
    for pipe in pipes.values():  # they get ready side by side
        pipe.recv()
    results = {name: {"rounds": []} for name in pipes}
    for _ in range(settings.rounds):
        for name, pipe in pipes.items():
            pipe.send("round")
            results[name]["rounds"].append(pipe.recv())
    for name, pipe in pipes.items():
        pipe.send("memory")
        results[name] |= pipe.recv()
        pipe.send("end")
    for process in processes:
        process.join()
    return results


def convolution_rate(settings: argparse.Namespace, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of this machine in 3×3 convolutions of the network's widths, forward and backward: the best of them."""
    torch.set_num_threads(settings.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    best, kind = 0.0, {"device": device, "dtype": dtype, "requires_grad": True}
    last = torch.channels_last if dtype != torch.float32 else torch.contiguous_format  # as each is trained
    for level, channels in enumerate(settings.channels):
        side = settings.resolution >> level
        x = torch.randn(settings.batch, channels, side, side, **kind).to(memory_format=last)
        weight = torch.randn(channels, channels, 3, 3, **kind)
        for _ in range(5):
            begin = time.perf_counter()
            output = F.conv2d(x, weight, padding=1)
            torch.autograd.grad(output, (x, weight), output)
            if device == "cuda":
                torch.cuda.synchronize()
            flops = 3 * 2 * settings.batch * channels**2 * 9 * side**2
            best = max(best, flops / (time.perf_counter() - begin))
    return best


def planned(name: str, settings: argparse.Namespace) -> int:
    """The peak that `anime-ddpm plan` estimates for a contender without patches."""
    from pipeline_anime_ddpm.planning.plan import plan_step

    flags = flags_of(name, settings)
    cost = plan_step(
        dict(UNet2DModel.load_config(f"{settings.folder}/unet")), side=settings.resolution, batch=settings.batch,
        recomputation=flags.get("gradient_checkpointing"), fold_upsampling=flags.get("fold_upsampling", True),
    )  # fmt: skip
    return cost.peak_bytes


def write_images(settings: argparse.Namespace) -> None:
    """One batch of the data set, and the config of the network, for all contenders."""
    from pipeline_anime_ddpm.data import FeedPlan, open_data
    from pipeline_anime_ddpm.training.config import TrainingConfig

    config = TrainingConfig(
        dataset_name=settings.data, cache_dir=f"{settings.folder}/cache", output_dir=f"{settings.folder}/none"
    )
    data = open_data(config, settings.resolution, show_progress=False)
    settings.epoch_images = data.num_images
    torch.save(next(data.feed(FeedPlan(settings.batch, 0, 1))).images.clone(), f"{settings.folder}/images.pt")
    unet = UNet2DModel(sample_size=settings.resolution, block_out_channels=settings.channels, **NETWORK)
    unet.save_config(f"{settings.folder}/unet")
    settings.parameters = unet.num_parameters()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder or name of a data set; by default the real faces, else drawn ones")
    parser.add_argument("--drawn", action="store_true", help="take drawn faces even where the real ones are")
    parser.add_argument("--images", type=int, default=10_000, help="drawn faces, if they are needed")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--channels", type=int, nargs=4, default=[32, 64, 128, 256], help="of the network's levels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--contenders", nargs="+", default=names(), choices=names())
    parser.add_argument("--output", type=Path, default=RESULTS / "training.json")
    settings = parser.parse_args()
    if missing := [name for name in NEEDED if name not in settings.contenders]:
        parser.error(f"the summary needs {', '.join(NEEDED)} among the --contenders; {', '.join(missing)} are missing")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    command = " ".join(["python benchmarks/training.py", *sys.argv[1:]])
    real = settings.data is None and not settings.drawn and FACES.is_dir()
    with tempfile.TemporaryDirectory() as settings.folder:
        faces = str(FACES) if real else settings.data
        settings.data = faces or drawn_faces(settings.folder, settings.images, settings.resolution)
        write_images(settings)
        kinds = {"no": torch.float32} | ({"bf16": torch.bfloat16} if torch.cuda.is_available() else {})
        before = {name: convolution_rate(settings, dtype) for name, dtype in kinds.items()}
        results = run_contenders(settings)
        rates = {  # a limit is what the machine can do at its best
            name: max(before[name], convolution_rate(settings, dtype)) for name, dtype in kinds.items()
        }
        plans = {} if torch.cuda.is_available() else {n: planned(n, settings) for n in ("plain", "speed", "memory")}
    what = (
        f"Training steps of a UNet2DModel with {settings.parameters / 1e6:.1f} M parameters "
        f"({', '.join(map(str, settings.channels))} channels) on {'real' if real else 'drawn'} faces of "
        f"{settings.resolution} px, batch {settings.batch}, {settings.threads} threads, "
        f"{settings.rounds} rounds"
    )
    rows = rows_of(results, settings, rates)
    rows += [{"kind": "limit", "precision": name, "convolution_gflops": rate / 1e9} for name, rate in rates.items()]
    rows += [{"kind": "plan", "contender": name, "planned_peak_bytes": peak} for name, peak in plans.items()]
    summary = summary_of([r for r in rows if "kind" not in r], plans)
    write_result(settings.output, what, command, PACKAGES, gpu_name(), rows=rows, summary=summary, notes=NOTES)
    print(render_training(json.loads(settings.output.read_text())))
    print(f"\nTo reproduce: {command}")


if __name__ == "__main__":
    main()
