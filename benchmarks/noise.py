#!/usr/bin/env python
"""Which noise suits anime faces? Trainings that differ in one thing, each judged by the sampler that suits it best.

    python benchmarks/noise.py --extractor FOLDER --label NAME                # everything; hours, and resumable
    python benchmarks/noise.py --extractor FOLDER --label NAME --arms A C.1   # two arms, one of them with seed 1

Run the same command again to go on: what is trained, drawn or measured already is not done again. Several processes
with different --arms may share --work. The results are those of every arm that is there.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from common import FACES, RESULTS, ROOT, write_result
from judging import add_flags, judge, line, measured, slug, values
from noise_arms import ARMS
from noise_results import summarise, winner
from render_noise import render_noise

from pipeline_anime_ddpm import coordinate_grid
from pipeline_anime_ddpm.common.errors import UserError, one_sentence_errors
from pipeline_anime_ddpm.evaluation.drawing import load_pipeline
from pipeline_anime_ddpm.evaluation.image_sets import DataSet
from pipeline_anime_ddpm.runs.ema_command import export_averages
from pipeline_anime_ddpm.runs.snapshots import list_snapshots
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.noise_levels import log_sigmas_at

PACKAGES = ["torch", "diffusers", "accelerate", "transformers", "torch-fidelity", "numpy"]
STAGES = ("train", "choose", "judge", "loss", "curve", "lengths", "steps")
PHOTOGRAPHS = FACES.parent / "photos_32"


# The fixed list that each arm's own best is chosen from: sampler, steps, options.
SAMPLERS = {
    "DDPM, 100 steps, clipped": ("ddpm", 100, "clip_sample=true"),
    "DDIM, 50 steps, clipped": ("ddim", 50, "clip_sample=true"),
    "DPM-Solver++, 25 steps, clipped": ("dpmsolver++", 25, "clip_sample=true,use_anime_sigmas=false"),
    "DPM-Solver++, 25 steps, not clipped": ("dpmsolver++", 25, "clip_sample=false,use_anime_sigmas=false"),
}
LOGSNR = np.linspace(-9, 9, 25)  # of the loss; every table has them
LOSS_IMAGES = 256
CURVE = (0.0625, 0.125, 0.25, 0.5, 0.75, 1.0)  # shares of the run
CURVE_LENGTH = 0.10  # of the average that is looked at on the way
# The pipeline's, a tenth of the work of the winner's best:
DEFAULT_SAMPLER = ("dpmsolver++", AnimeNoiseScheduler().default_num_inference_steps, "use_anime_sigmas=true")
LENGTHS = (0.03, 0.06, 0.10, 0.15, 0.20)
SPACINGS = {
    "even timesteps": ",use_anime_sigmas=false",
    "Karras": ",use_karras_sigmas=true",
    "anime": ",use_anime_sigmas=true",
}
STEPS = (10, 15, 20, 25)
MANY_STEPS = 250
OTHER_SOLVERS = {"DDIM": ("ddim", (25,)), "DDPM": ("ddpm", (25, 50))}  # in two of the spacings
CHOICE_SEED, JUDGE_SEED, CURVE_SEED = 1, 0, 2  # so that nothing is chosen on the images that are judged


class Bench:
    """The arms' folders, and what is done in them."""

    def __init__(self, settings: argparse.Namespace):
        self.settings, self.work = settings, Path(settings.work)

    def folder(self, run: str) -> Path:
        return self.work / run

    def is_trained(self, run: str) -> bool:
        folder = self.folder(run)
        if not (folder / "model_index.json").is_file():
            return False
        trained = yaml.safe_load((folder / "training_config.yaml").read_text())
        for name, value in self.basics.items():
            if trained.get(name) != value:
                raise UserError(f"{folder} was trained with --{name} {trained.get(name)}; give another --work.")
        snapshots = list_snapshots(folder)
        return bool(snapshots) and snapshots[-1].images >= self.settings.images

    @property
    def basics(self) -> dict[str, float]:
        """Flags of every training, beside its noise."""
        s = self.settings
        return {
            "resolution": s.resolution,
            "train_batch_size": s.batch,
            "learning_rate": float(s.learning_rate),
            "lr_warmup_steps": s.warmup,
        }

    def command(self, run: str) -> list[str]:
        """The training's own command."""
        s, (name, seed) = self.settings, parse_run(run)
        arm = ARMS[name]
        start = (
            f"--pretrained_model_name_or_path {self.folder(arm.start)}"
            if arm.start
            else f"--model_config_name_or_path {s.network}"
        )
        flags = (
            f"{start} --dataset_name {s.dataset if arm.data == 'faces' else s.photographs} --random_flip "
            f"{' '.join(f'--{name} {value}' for name, value in self.basics.items())} "
            f"--max_train_images {s.images} --ema_sigma_rels 0.05,0.10 --ema_snapshot_images {s.images // 20} "
            f"--save_images_epochs 5 --save_model_epochs 1000 --checkpoints_total_limit 1 --validation_images 64 "
            f"--eval_batch_size 64 --report_to none --seed {seed} --output_dir {self.folder(run)} "
        )
        noise = arm.noise.format(work=self.work)
        cache = f" --cache_dir {s.cache_dir}" if s.cache_dir else ""
        return [sys.executable, str(ROOT / "train_anime_ddpm.py"), *shlex.split(flags + noise + cache)]

    def train(self, run: str) -> None:
        if self.is_trained(run):
            return
        arm = ARMS[parse_run(run)[0]]
        if arm.start and not self.is_trained(arm.start):
            raise UserError(f"{run} goes on from {arm.start}, which is not trained; give --arms {arm.start} first.")
        if "{work}" in arm.noise and not (self.work / "calibration").is_dir():
            self.calibrate()
        if subprocess.run(self.command(run)).returncode:
            raise UserError(f"The training of {run} failed; see above, and run the same command again.")

    def calibrate(self) -> None:
        s = self.settings
        command = [sys.executable, "-m", "pipeline_anime_ddpm", "calibrate", "--dataset", str(s.dataset)]
        command += ["--resolution", str(s.resolution), "--output_dir", str(self.work / "calibration")]
        command += ["--compare", str(s.photographs)] if Path(s.photographs).is_dir() else []
        command += ["--cache_dir", s.cache_dir] if s.cache_dir else []
        subprocess.run(command, check=True, cwd=ROOT)

    def choose(self, run: str) -> None:
        """Each sampler of the list on a few images."""
        for name, sampler in SAMPLERS.items():
            record = judge(
                self.settings,
                self.folder(run) / "choose" / slug(name),
                self.folder(run),
                sampler,
                self.settings.chosen,
                CHOICE_SEED,
            )
            print(f"{run}: {name}: KID {record['metrics']['kid']['value']:.3f}", flush=True)

    def choices(self, run: str) -> dict[str, dict]:
        """The records of `choose`, those that are there."""
        records = {name: measured(self.folder(run) / "choose" / slug(name)) for name in SAMPLERS}
        return {name: record for name, record in records.items() if record}

    def best_sampler(self, run: str) -> str:
        choices = self.choices(run)
        if len(choices) < len(SAMPLERS):
            raise UserError(f"{run}'s sampler is not chosen; give --stages choose first.")
        return min(choices, key=lambda name: choices[name]["metrics"]["kid"]["value"])

    def judge(self, run: str) -> None:
        sampler, folder = self.best_sampler(run), self.folder(run) / "judge"
        record = judge(
            self.settings, folder, self.folder(run), SAMPLERS[sampler], self.settings.judged, JUDGE_SEED, floor=True
        )
        print(f"{run}: {sampler}: {line(record)}", flush=True)

    @torch.no_grad()
    def loss(self, run: str) -> None:
        """The error of ε at each noise level, on held-out images and always the same noise."""
        path = self.folder(run) / "loss.json"
        if path.is_file():
            return
        s, pipeline = self.settings, load_pipeline(str(self.folder(run)))
        data = DataSet(str(s.dataset), cache_dir=s.cache_dir)
        pixels = data.open(data.held_out(), s.resolution).take(LOSS_IMAGES).pixels
        clean = torch.from_numpy(np.ascontiguousarray(pixels)).float() / 127.5 - 1
        errors = [self.error(pipeline, clean, logsnr, index) for index, logsnr in enumerate(LOGSNR)]
        path.write_text(json.dumps({"logsnr": LOGSNR.tolist(), "error": errors, "images": len(clean)}))

    def error(self, pipeline: Any, clean: torch.Tensor, logsnr: float, seed: int) -> float:
        """Mean squared error of ε; that of x_0 is it over the SNR."""
        scheduler, snr = pipeline.scheduler, math.exp(logsnr)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
        timesteps = scheduler.timesteps_of(torch.full((len(clean),), snr**-0.5)).float()
        noisy = scheduler.add_noise(clean, noise, timesteps)
        total, grid = 0.0, coordinate_grid(*pipeline.image_shape[1:])
        for part in torch.arange(len(clean)).split(64):
            output = pipeline.predict(pipeline.unet, noisy[part], timesteps[part], grid)
            original = scheduler.pred_original_sample(output, timesteps[part], noisy[part])
            total += (original - clean[part]).square().mean((1, 2, 3)).sum().item()
        return snr * total / len(clean)

    def averaged(self, run: str, length: float, images: int, folder: Path) -> Path:
        """A pipeline with an average of another length, or of another time of the run."""
        model = folder / "model"
        if not model.is_dir():
            list(export_averages(self.folder(run), [length], images, model))
        return model

    def curve(self, run: str) -> None:
        """KID on the way, of the average of one relative length: A with its best sampler, others by default."""
        sampler = SAMPLERS[self.best_sampler(run)] if run == "A" else DEFAULT_SAMPLER
        for share in CURVE:
            images = int(share * self.settings.images)
            self.along(run, self.folder(run) / "curve" / str(images), CURVE_LENGTH, images, sampler)

    def lengths(self, run: str) -> None:
        """KID of averages of several lengths, drawn as the pipeline does by default."""
        for length in LENGTHS:
            folder = self.folder(run) / "lengths" / f"{length:g}"
            self.along(run, folder, length, self.settings.images, DEFAULT_SAMPLER)

    def along(self, run: str, folder: Path, length: float, images: int, sampler: tuple[str, int, str]) -> None:
        if measured(folder, self.settings.compared) is None:
            judge(
                self.settings,
                folder,
                self.averaged(run, length, images, folder),
                sampler,
                self.settings.compared,
                CURVE_SEED,
            )

    def steps(self, run: str) -> None:
        """KID of few steps, spaced in each way and with and without thresholding, and of many."""
        for name, sampler in step_samplers(self.settings.resolution).items():
            record = judge(
                self.settings,
                self.folder(run) / "steps" / slug(name),
                self.folder(run),
                sampler,
                self.settings.compared,
                CURVE_SEED,
            )
            print(f"{run}: {name}: {line(record)}", flush=True)


def step_samplers(resolution: int) -> dict[str, tuple[str, int, str]]:
    """Few steps of DPM-Solver++ in each spacing, few bounded otherwise, and many; few of the other solvers."""
    even, octaves = SPACINGS["even timesteps"], SPACINGS["anime"]
    few, own = STEPS[0], f",anime_log_sigmas={log_sigmas_at(resolution)}"
    spaced = {
        f"{steps} steps, {name}, clipped": ("dpmsolver++", steps, f"clip_sample=true{options}")
        for steps in STEPS
        for name, options in SPACINGS.items()
    }
    resized = {
        f"{few} steps, anime, octaves of the resolution, clipped": (
            "dpmsolver++", few, f"clip_sample=true{octaves}{own}",
        )
    }  # fmt: skip
    loose = {
        f"{steps} steps, even timesteps, not clipped": ("dpmsolver++", steps, f"clip_sample=false{even}")
        for steps in STEPS
    }
    dynamic = {
        f"{few} steps, anime, dynamic thresholding to ±1.5": (
            "dpmsolver++", few, f"thresholding=true,sample_max_value=1.5{octaves}",
        )
    }  # fmt: skip
    many = {f"{MANY_STEPS} steps, even timesteps, clipped": ("dpmsolver++", MANY_STEPS, f"clip_sample=true{even}")}
    others = {
        f"{label}, {count} steps, {name}, clipped": (solver, count, f"clip_sample=true{SPACINGS[name]}")
        for label, (solver, counts) in OTHER_SOLVERS.items()
        for count in counts
        for name in ("even timesteps", "anime")
    }
    return spaced | resized | loose | dynamic | many | others


def parse_run(run: str) -> tuple[str, int]:
    """`C.1` is arm C with the training seed 1."""
    name, _, seed = run.partition(".")
    if name not in ARMS or run != (f"{name}.{int(seed)}" if seed.isdecimal() and int(seed) else name):
        raise UserError(f"--arms {run} is not known; give some of {', '.join(ARMS)}, or such as C.1 for another seed.")
    return name, int(seed or 0)


def runs_there(bench: Bench) -> list[str]:
    """Every run that is judged, in the order of the arms."""
    seen = [path.parent.parent.name for path in bench.work.glob("*/judge/metrics.json")]
    known = [run for run in seen if run.partition(".")[0] in ARMS]
    return sorted(known, key=lambda run: (list(ARMS).index(run.partition(".")[0]), run))


def sigma_quantiles(folder: Path) -> list[float]:
    """σ below which a run has 5, 25, 50, 75 and 95 % of its training."""
    scheduler = AnimeNoiseScheduler.from_pretrained(folder, subfolder="scheduler")
    below = scheduler.timestep_density().cumsum(0)
    sigma = (-scheduler.logsnr(torch.arange(len(scheduler))) / 2).exp()
    return [sigma[torch.searchsorted(below, share)].item() for share in (0.05, 0.25, 0.5, 0.75, 0.95)]


def gather(bench: Bench) -> list[dict[str, Any]]:
    """A row for each thing that was measured."""
    return [row for run in runs_there(bench) for row in rows_of(bench, run)]


def rows_of(bench: Bench, run: str) -> Iterator[dict[str, Any]]:
    name, seed = parse_run(run)
    folder, record = bench.folder(run), measured(bench.folder(run) / "judge")
    choices = {sampler: values(choice) for sampler, choice in bench.choices(run).items()}
    yield {
        "kind": "arm", "run": run, "arm": name, "seed": seed, "what": ARMS[name].what, "flags": ARMS[name].noise,
        "peer": "PA" if ARMS[name].start else "A", "images": list_snapshots(folder)[-1].images,
        "sigma_quantiles": sigma_quantiles(folder),
        "sampler": bench.best_sampler(run), "choices": choices, **values(record),
        "extractor": record["extractor"]["name"], "real": record["real"]["split"],
        "floor": values({**record["floor"], "judged": record["judged"]}),
    }  # fmt: skip
    if (folder / "loss.json").is_file():
        yield {"kind": "loss", "run": run, **json.loads((folder / "loss.json").read_text())}
    for kind in ("curve", "lengths"):
        for path in sorted((folder / kind).glob("*/metrics.json"), key=lambda path: float(path.parent.name)):
            yield {"kind": kind, "run": run, "at": float(path.parent.name), **values(json.loads(path.read_text()))}
    for name, (_, count, _) in step_samplers(bench.settings.resolution).items():
        if found := measured(folder / "steps" / slug(name)):
            yield {"kind": "steps", "run": run, "sampler": name, "steps": count, **values(found)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arms", nargs="+", help="by default all; C.1 is arm C with the training seed 1")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="by default all, in this order")
    parser.add_argument("--work", default="runs/noise", help="where trainings and evaluations are kept")
    add_flags(parser, FACES)
    parser.add_argument("--photographs", default=str(PHOTOGRAPHS))
    parser.add_argument("--images", type=int, default=100_000, help="that each arm trains on")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--network", default="small")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning_rate", default="8e-4")
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--chosen", type=int, default=500, help="images that a sampler is chosen on")
    parser.add_argument("--judged", type=int, default=2_000, help="images that an arm is judged by")
    parser.add_argument("--compared", type=int, default=1_000, help="images of a point of the other curves")
    parser.add_argument("--output", type=Path, default=RESULTS / "noise.json")
    return parser.parse_args()


def main() -> None:
    settings = parse()
    bench = Bench(settings)
    for run in settings.arms or ():
        parse_run(run)
    for stage in settings.stages:
        for run in settings.arms or ARMS:
            if stage in ("lengths", "steps", "curve") and run not in (stage == "curve" and "A", winner(gather(bench))):
                continue  # of the winner alone, and the way of the peer
            if stage != "train" and ARMS[parse_run(run)[0]].data != "faces":
                continue  # a pre-training draws no faces
            getattr(bench, stage)(run)
    rows = gather(bench)
    command = shlex.join(["python", "benchmarks/noise.py", *sys.argv[1:]])
    what = f"Noise of a DDPM of real faces at {settings.resolution} px, {settings.images:,} images an arm"
    write_result(settings.output, what, command, PACKAGES, rows=rows, summary=summarise(rows))
    print(render_noise(json.loads(settings.output.read_text())))
    print(f"To reproduce: {command}")


if __name__ == "__main__":
    with one_sentence_errors():
        main()
