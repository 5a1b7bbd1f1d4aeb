#!/usr/bin/env python
"""The quality table: what each part of the system adds, from one network that was pre-trained on photographs.

    python benchmarks/quality.py --extractor FOLDER --label NAME                      # everything; hours, and resumable
    python benchmarks/quality.py --extractor FOLDER --label NAME --arms noise patch   # some of it

Each arm is a file of benchmarks/quality/. Run the same command again to go on: what is trained, drawn or measured
already is not done again, and rows of arms whose folders are not there any more stay as they were measured.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from common import FACES, RESULTS, ROOT, gpu_name, write_result
from judging import add_flags, judge, line, measured, slug, values
from render import render_quality

from pipeline_anime_ddpm.common.errors import UserError, one_sentence_errors
from pipeline_anime_ddpm.runs.ema_command import export_averages
from pipeline_anime_ddpm.runs.snapshots import list_snapshots

PACKAGES = ["torch", "diffusers", "accelerate", "transformers", "torch-fidelity", "numpy"]
STAGES = ("speed", "train", "choose", "judge")
FOLDER = Path(__file__).with_name("quality")
ORDER = ("pretrained", "baseline", "optimised", "noise", "patch", "fading", "full", "scratch")
PHOTOGRAPHS = FACES.parent / "photos_32"
# The fixed list that each arm's own best is chosen from: sampler, steps, options.
SAMPLERS = {
    "DDPM, 50 steps": ("ddpm", 50, "clip_sample=true"),
    "DDIM, 50 steps": ("ddim", 50, "clip_sample=true"),
    "DPM-Solver++, 25 steps": ("dpmsolver++", 25, "clip_sample=true,use_anime_sigmas=false"),
    "DPM-Solver++, 10 steps by octaves": ("dpmsolver++", 10, "clip_sample=true,use_anime_sigmas=true"),
}
AVERAGE = 0.10  # relative length of the averaged weights that are judged, unless an arm says another
CHOICE_SEED, JUDGE_SEEDS = 100, (0, 1)  # so that nothing is chosen on the images that are judged
TIMED_STEPS, ROUNDS = 40, 5


@dataclass(frozen=True)
class Arm:
    """A training, or another way to draw from one.

    Attributes:
        what: in words, for the table.
        flags: of train_anime_ddpm.py, beside those that all arms share.
        start: another arm whose network it goes on from; by default from scratch.
        data: "faces" or "photographs".
        like: another arm whose training it is; it then only draws otherwise.
        guide_at: share of the run after which a copy is kept as its guide.
        ema: relative length of the averaged weights.
        guidance: settings of `EvaluationConfig` about guidance.
    """

    name: str
    what: str
    flags: dict[str, Any] = field(default_factory=dict)
    start: str | None = None
    data: str = "faces"
    like: str | None = None
    guide_at: float | None = None
    ema: float = AVERAGE
    guidance: dict[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> str:
        """The arm whose training this is."""
        return self.like or self.name


ARMS = {name: Arm(name, **yaml.safe_load((FOLDER / f"{name}.yaml").read_text())) for name in ORDER}


class Bench:
    """The arms' folders, and what is done in them."""

    def __init__(self, settings: argparse.Namespace):
        self.settings, self.work = settings, Path(settings.work)

    def folder(self, name: str) -> Path:
        return self.work / name

    # --- training ---

    def command(self, arm: Arm, images: int, output: Path, checkpoints: int = 500) -> list[str]:
        """The training's own command. A constant learning rate: the run could end at any time and be as good."""
        s = self.settings
        start = (
            {"pretrained_model_name_or_path": self.start_of(arm)}
            if arm.start
            else {"model_config_name_or_path": s.network}
        )
        flags = start | {
            "dataset_name": s.dataset if arm.data == "faces" else s.photographs,
            "resolution": s.resolution,
            "random_flip": True,
            "train_batch_size": s.batch,
            "learning_rate": s.learning_rate,
            "lr_scheduler": "constant_with_warmup",
            "lr_warmup_steps": s.warmup,
            "max_train_images": images,
            "ema_sigma_rels": "0.05,0.10",
            "ema_snapshot_images": max(s.images // 30, s.batch),
            "save_images_epochs": 1000,
            "save_model_epochs": 1000,
            "checkpointing_steps": checkpoints,
            "checkpoints_total_limit": 1,
            "validation_images": 16,
            "report_to": "none",
            "output_dir": output,
        }
        flags |= {"cache_dir": s.cache_dir} if s.cache_dir else {}
        flags |= {"save_guide_at": round(arm.guide_at * images)} if arm.guide_at else {}
        flags |= {"mixed_precision": self.mixing(arm)} if self.mixing(arm) else {}
        flags |= arm.flags
        return [sys.executable, str(ROOT / "train_anime_ddpm.py"), *map(as_flag, flags.items())]

    def mixing(self, arm: Arm) -> str | None:
        """What its training is mixed with; the peer does not do that unless told to."""
        return None if arm.trained == "baseline" else self.settings.mixed_precision

    def start_of(self, arm: Arm) -> Path:
        """The folder of the pipeline that an arm goes on from: the given one, or that of this bench."""
        if arm.start == "pretrained" and self.settings.pretrained:
            return Path(self.settings.pretrained)
        if not self.is_trained(ARMS[arm.start]):
            raise UserError(
                f"{arm.name} goes on from {arm.start}, which is not trained; give --arms {arm.start} first."
            )
        return self.folder(arm.start)

    def images_of(self, arm: Arm) -> dict[str, int]:
        """Images at which an arm is judged: as many as all, and those of the time that the baseline takes for them."""
        equal, speeds = self.settings.images, self.speeds()
        if arm.trained not in speeds:
            return {"images": equal}
        return {"images": equal, "time": round(equal * speeds[arm.trained])}

    def is_trained(self, arm: Arm) -> bool:
        folder = self.folder(arm.trained)
        snapshots = list_snapshots(folder) if (folder / "model_index.json").is_file() else []
        return bool(snapshots) and snapshots[-1].images >= max(self.images_of(arm).values())

    def train(self, arm: Arm) -> None:
        if arm.like or self.is_trained(arm) or (arm.name == "pretrained" and self.settings.pretrained):
            return
        command = self.command(arm, max(self.images_of(arm).values()), self.folder(arm.name))
        if subprocess.run(command).returncode:
            raise UserError(f"The training of {arm.name} failed; see above, and run the same command again.")

    def speeds(self) -> dict[str, float]:
        """Images a second of each arm's training, over those of the baseline, as far as measured."""
        path = self.work / "speed.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def speed(self, arms: list[Arm]) -> None:
        """Time a few steps of the baseline and of each new arm in turn, several times over; needs the machine alone."""
        new = [arm for arm in arms if arm.data == "faces" and not arm.like and arm.name not in self.speeds()]
        if not new:
            return
        timed = [ARMS["baseline"], *(arm for arm in new if arm.name != "baseline")]
        rates: dict[str, list[float]] = {arm.name: [] for arm in timed}
        for round_ in range(ROUNDS):
            for arm in timed:
                output = self.work / "timed" / f"{arm.name}-{round_}"
                command = self.command(arm, TIMED_STEPS * self.settings.batch, output)
                subprocess.run([*command, "--logging_steps=5", "--overwrite_output_dir"], check=True)
                rates[arm.name].append(rate_of(output / "metrics.csv"))
        medians = {name: statistics.median(found) for name, found in rates.items()}
        ratios = {name: value / medians["baseline"] for name, value in medians.items()}
        (self.work / "speed.json").write_text(json.dumps(self.speeds() | ratios))

    # --- judging ---

    def model(self, arm: Arm, images: int) -> Path:
        """The arm's averaged weights at a time of its training, as a pipeline."""
        folder = self.folder(arm.trained) / "at" / f"{images}-{arm.ema:g}"
        if not (folder / "model_index.json").is_file():
            list(export_averages(self.folder(arm.trained), [arm.ema], images, folder))
        return folder

    def choose(self, arm: Arm) -> None:
        """Each sampler of the list on a few images."""
        for name, sampler in SAMPLERS.items():
            folder = self.folder(arm.name) / "choose" / slug(name)
            model = self.model(arm, self.settings.images)
            record = judge(self.settings, folder, model, sampler, self.settings.chosen, CHOICE_SEED, **arm.guidance)
            print(f"{arm.name}: {name}: {line(record)}", flush=True)

    def best_sampler(self, arm: Arm) -> str:
        records = {name: measured(self.folder(arm.name) / "choose" / slug(name)) for name in SAMPLERS}
        if not all(records.values()):
            raise UserError(f"{arm.name}'s sampler is not chosen; give --stages choose first.")
        return min(records, key=lambda name: records[name]["metrics"]["kid"]["value"])

    def judge(self, arm: Arm) -> None:
        sampler = self.best_sampler(arm)
        for kind, images in self.images_of(arm).items():
            for seed in JUDGE_SEEDS:
                first = kind == "images" and seed == JUDGE_SEEDS[0]
                record = judge(
                    self.settings, self.folder(arm.name) / "judge" / kind / str(seed), self.model(arm, images),
                    SAMPLERS[sampler], self.settings.judged, seed, floor=first, lpips=first, **arm.guidance,
                )  # fmt: skip
                print(f"{arm.name}, equal {kind}, seed {seed}: {sampler}: {line(record)}", flush=True)

    def rows(self, arm: Arm) -> list[dict[str, Any]]:
        """A row for equal images and one for equal time, the mean of the seeds."""
        rows = []
        for kind, images in self.images_of(arm).items():
            records = [measured(self.folder(arm.name) / "judge" / kind / str(seed)) for seed in JUDGE_SEEDS]
            if not all(records):
                continue
            found = [values(record) for record in records]
            row = {"kind": kind, "arm": arm.name, "what": arm.what, "images": images, "sampler": self.best_sampler(arm)}
            row |= {"speed": self.speeds().get(arm.trained), "device": records[0]["device"]}
            row |= {"trained_in": self.mixing(arm) or "float32"}
            row |= {name: statistics.mean(one[name] for one in found) for name in found[0]}
            row |= {"kid_seeds": [one["kid"] for one in found], "fd_seeds": [one["fd"] for one in found]}
            row |= {"extractor": records[0]["extractor"]["name"], "real": records[0]["real"]["split"]}
            if kind == "images":
                row["lpips"] = lpips_of(records[0])
                row["floor"] = values({**records[0]["floor"], "judged": records[0]["judged"]})
            rows.append(row)
        return rows


def as_flag(item: tuple[str, Any]) -> str:
    name, value = item
    return f"--{name}" if value is True else f"--no-{name}" if value is False else f"--{name}={value}"


def rate_of(path: Path) -> float:
    """Images a second over all lines of a run's metrics.csv but the first, in which it warms up."""
    header, _, *lines = (text.split(",") for text in path.read_text().splitlines())
    return statistics.harmonic_mean(float(text[header.index("images_per_second")]) for text in lines)


def lpips_of(record: dict[str, Any]) -> dict[str, float]:
    """The LPIPS numbers of an evaluation: to the nearest training image, and between images."""
    return {name: metric["value"] for name, metric in record["metrics"].items() if name.startswith("lpips")}


def merged(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`rows`, and those of an earlier file that are of other arms, perhaps from another machine."""
    earlier = json.loads(path.read_text())["rows"] if path.is_file() else []
    here = {(row["kind"], row["arm"]) for row in rows}
    every = rows + [row for row in earlier if (row["kind"], row["arm"]) not in here]
    return sorted(every, key=lambda row: (row["kind"], ORDER.index(row["arm"])))


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The ratios that can be told from what is there."""
    by = {(row["kind"], row["arm"]): row for row in rows}

    def ratio(kind: str, top: str, bottom: str, key: str) -> float | None:
        pair = [by.get((kind, name)) for name in (top, bottom)]
        return pair[0][key] / pair[1][key] if all(pair) else None

    return {
        "noise_fd_ratio": ratio("images", "noise", "baseline", "fd"),
        "noise_kid_ratio": ratio("images", "noise", "baseline", "kid"),
        "full_fd_ratio": ratio("images", "full", "baseline", "fd"),
        "full_kid_ratio": ratio("images", "full", "baseline", "kid"),
        **{
            f"{arm}_over_noise_fd{'_equal_time' * (kind == 'time')}": ratio(kind, arm, "noise", "fd")
            for arm in ("patch", "fading")
            for kind in ("images", "time")
        },
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arms", nargs="+", choices=ORDER, default=ORDER, help="by default all")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="by default all, in this order")
    parser.add_argument("--work", default="runs/quality", help="where trainings and evaluations are kept")
    parser.add_argument("--pretrained", help="a pipeline to start from, instead of training the arm `pretrained`")
    add_flags(parser, FACES)
    parser.add_argument("--photographs", default=str(PHOTOGRAPHS))
    parser.add_argument("--images", type=int, default=150_000, help="that each arm trains on")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--network", default="small")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning_rate", default="4e-4")
    parser.add_argument("--mixed_precision", choices=("bf16", "fp16"), help="of all arms but the baseline")
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--chosen", type=int, default=250, help="images that a sampler is chosen on")
    parser.add_argument("--judged", type=int, default=2_000, help="images that an arm is judged by")
    parser.add_argument("--output", type=Path, default=RESULTS / "quality.json")
    return parser.parse_args()


def main() -> None:
    settings = parse()
    bench, arms = Bench(settings), [ARMS[name] for name in ORDER if name in settings.arms]
    bench.work.mkdir(parents=True, exist_ok=True)
    for arm in arms:
        if arm.data == "photographs" and "train" in settings.stages:
            bench.train(arm)
    if "speed" in settings.stages:
        bench.speed(arms)
    for arm in (arm for arm in arms if arm.data == "faces"):  # what is finished can be looked at
        for stage in settings.stages:
            if stage != "speed":
                getattr(bench, stage)(arm)
    rows = merged(settings.output, [row for arm in arms if arm.data == "faces" for row in bench.rows(arm)])
    if not rows:
        print("Nothing is judged yet; give --stages choose judge for that.")
        return
    command = shlex.join(["python", "benchmarks/quality.py", *sys.argv[1:]])
    what = f"Faces at {settings.resolution} px, {settings.images:,} images an arm"
    write_result(settings.output, what, command, PACKAGES, gpu_name(), rows=rows, summary=summarise(rows))
    print(render_quality(json.loads(settings.output.read_text())))
    print(f"To reproduce: {command}")


if __name__ == "__main__":
    with one_sentence_errors():
        main()
