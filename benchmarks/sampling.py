#!/usr/bin/env python
"""How fast and how good: solvers and steps, guidance, repainting, few steps of a distilled network, and backends.

    python benchmarks/sampling.py --model runs/mine --distilled runs/four runs/two \
        --extractor FOLDER --label NAME

Run the same command again to go on: what is judged already is not judged again. Several processes with different
--stages may share --work. The results are those of everything that is there, and of what is not there any more as an
earlier --output has it. Another pipeline has a --work and an --output of its own.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from backends import backends
from common import FACES, RESULTS, gpu_name, spread, write_result
from diffusers import DDPMPipeline, DDPMScheduler
from judging import BATCH, add_flags, judge, line, measured, slug, values
from render import render_sampling
from sampling_figures import masks

from pipeline_anime_ddpm.common.errors import UserError, one_sentence_errors
from pipeline_anime_ddpm.evaluation import EvaluationConfig, evaluate
from pipeline_anime_ddpm.evaluation.drawing import choose_sampler, load_pipeline
from pipeline_anime_ddpm.evaluation.image_sets import DataSet
from pipeline_anime_ddpm.evaluation.settings import parse_sampler_options

PACKAGES = ["torch", "diffusers", "transformers", "torch-fidelity", "numpy"]
JUDGED = ("steps", "guidance", "distilled")
UNGUIDED = {"guidance_scale": 1.0}  # whatever the model recommends
BACKENDS = tuple(backends())
STAGES = (*JUDGED, "repaint", "speed", "backends")
KINDS = ("peer", *JUDGED, "repaint", "backend")  # of rows, in the table's order
PEER_STEPS = 1000  # DDPMPipeline's default
TIMED_STEPS = 50  # most that are timed; longer samplings are in proportion
SEED = 3
SCALES = (1.25, 1.5, 1.75, 2.0)
JUMPS = (1, 2, 4, 8)  # how often a step is done when a part is repainted; once only puts the known part in
FEW = 10  # steps of the pipeline's own


@dataclass(frozen=True)
class Way:
    """A way to draw.

    Attributes:
        kind: the stage that judges it.
        sampler, steps, options: as `anime-ddpm evaluate` takes them.
        guidance: settings of `EvaluationConfig` about guidance.
        jumps: `jump_n_sample` of repainting, 0 where whole images are drawn.
        distilled: the folder of the network that was distilled for it.
    """

    kind: str
    sampler: str
    steps: int
    options: str = ""
    guidance: dict[str, Any] = field(default_factory=dict)
    jumps: int = 0
    distilled: str | None = None

    @property
    def name(self) -> str:
        scale, window = self.guidance.get("guidance_scale"), self.guidance.get("guidance_window")
        by = "" if scale is None else f", guide {scale:g}" if window is None else f", window {window} {scale:g}"
        repainted = f", a part repainted, each step done {self.jumps}×" if self.jumps else ""
        sampler = f"distilled ({Path(self.distilled).name})" if self.distilled else self.sampler
        return f"{sampler}, {self.steps} step{'s' * (self.steps > 1)}{by}{repainted}"


def ways(side: int, has_guide: bool) -> list[Way]:
    """All that is judged of a network for images of `side` pixels."""
    fast, slow = "use_anime_sigmas=true", "clip_sample=true"
    steps = [Way("steps", "dpmsolver++", n, fast) for n in (FEW, 15, 20, 25, 50, 250)]
    steps += [Way("steps", "UniPCMultistepScheduler", n, "timestep_spacing=trailing") for n in (10, 25)]
    steps += [Way("steps", "ddim", n, slow) for n in (10, 15, 20, 25, 50, 250)]
    steps += [Way("steps", "ddpm", n, slow) for n in (10, 15, 20, 25, 50, 100, 250, PEER_STEPS)]
    guided = [Way("guidance", "dpmsolver++", FEW, fast, {"guidance_scale": scale}) for scale in SCALES * has_guide]
    guided += [
        Way("guidance", "dpmsolver++", FEW, fast, {"guidance_scale": scale, "guidance_window": side // 2})
        for scale in SCALES
    ]
    repainted = [Way("repaint", "dpmsolver++", FEW, fast, jumps=jumps) for jumps in JUMPS]
    return steps + guided + repainted


def distilled_way(folder: str) -> Way:
    """How a distilled network draws."""
    steps = load_pipeline(folder).scheduler.config.get("distilled_steps")
    if not steps:
        raise UserError(f"--distilled {folder} is not distilled; give what `train_anime_ddpm.py --distill` has made.")
    return Way("distilled", "ddim", steps, distilled=folder)


class Bench:
    """The networks, and what was measured of them."""

    def __init__(self, settings: argparse.Namespace):
        self.settings, self.work = settings, Path(settings.work)
        pipeline = load_pipeline(settings.model)
        self.side = pipeline.image_shape[-1]
        self.possible = ways(self.side, pipeline.guide_unet is not None)
        self.possible += [distilled_way(folder) for folder in settings.distilled]
        self.ways = [way for way in self.possible if way.steps <= settings.most_steps]

    def model(self, way: Way) -> str:
        """The folder of its pipeline."""
        return way.distilled or self.settings.model

    def judge(self, stage: str) -> None:
        for way in self.ways:
            if way.kind == stage:
                sampler = (way.sampler, way.steps, way.options)
                record = judge(
                    self.settings, self.folder(way), self.model(way), sampler, self.settings.images, SEED,
                    **UNGUIDED | way.guidance,
                )  # fmt: skip
                print(f"{way.name}: {line(record)}", flush=True)

    def folder(self, way: Way) -> Path:
        return self.work / way.kind / slug(way.name)

    def repaint(self) -> None:
        """Judge training images of which the network has drawn a part anew, one half the eyes, the other the right."""
        s, pipeline = self.settings, load_pipeline(self.settings.model)
        pipeline.set_progress_bar_config(disable=True)
        for way in self.ways:
            folder = self.folder(way)
            if way.kind != "repaint" or measured(folder, s.images):
                continue
            choose_sampler(pipeline, way.sampler, parse_sampler_options(way.options))
            images = DataSet(str(s.dataset), cache_dir=s.cache_dir).open("train", self.side).take(s.images).pixels
            (folder / "images").mkdir(parents=True, exist_ok=True)
            for start in range(0, s.images, BATCH):
                given = torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH])).float() / 255
                painted = pipeline(
                    image=given, mask_image=masks(self.side)[start >= s.images // 2], jump_n_sample=way.jumps,
                    num_inference_steps=way.steps, **UNGUIDED,
                    generator=[torch.Generator().manual_seed(start + i) for i in range(len(given))],
                )  # fmt: skip
                for number, face in enumerate(painted.images, start):
                    face.save(folder / "images" / f"{number:06d}.png")
            record = evaluate(
                EvaluationConfig(
                    images=str(folder / "images"), dataset=str(s.dataset), metrics="fid,kid,prc", floor=False,
                    extractor=s.extractor, extractor_label=s.label, num_images=s.images,
                    kid_subset_size=min(s.images // 2, 1000), output_dir=str(folder), cache_dir=s.cache_dir,
                ),
                show_progress=False,
            )  # fmt: skip
            shutil.rmtree(folder / "images")
            print(f"{way.name}: {line(record)}", flush=True)

    @torch.no_grad()
    def backends(self) -> None:
        """Seconds an image of one call of the network, by each backend in turn, and how far each is from the first."""
        unet = load_pipeline(self.settings.model).unet
        rows = []
        for count in (1, self.settings.batch):
            side = unet.config.sample_size
            inputs = (torch.randn(count, unet.config.in_channels, side, side), torch.tensor(500.0))
            calls = {name: make(unet, inputs) for name, make in backends().items() if name in BACKENDS}
            seconds: dict[str, list[float]] = {name: [] for name in calls}
            expected = calls["eager"](*inputs)
            far = {name: (call(*inputs) - expected).abs().max().item() for name, call in calls.items()}  # warms up too
            for _ in range(20 * self.settings.rounds):
                for name, call in calls.items():
                    begin = time.perf_counter()
                    call(*inputs)
                    seconds[name].append((time.perf_counter() - begin) / count)
            rows += [
                {
                    "kind": "backend",
                    "name": name,
                    "batch": count,
                    "call": spread(seconds[name]),
                    "difference": far[name],
                }
                for name in calls
            ]
        (self.work / "backends.json").write_text(json.dumps(rows))

    def speed(self) -> None:
        """Seconds an image, alone and in a batch, of every way in turn and of the peer, several times over."""
        calls = {"peer": self.peer_call()} | {way.name: self.call(way) for way in self.ways if not way.jumps}
        seconds: dict[str, dict[str, list[float]]] = {name: {"one": [], "batch": []} for name in calls}
        for round_ in range(self.settings.rounds + 1):
            for name, (draw, factor) in calls.items():
                for kind, count in (("one", 1), ("batch", self.settings.batch)):
                    begin = time.perf_counter()
                    draw(count)
                    if round_ > 0:  # the first warms up
                        seconds[name][kind].append((time.perf_counter() - begin) * factor / count)
            print(f"Round {round_} of {self.settings.rounds} is timed.", flush=True)
        timed = {name: {kind: spread(runs) for kind, runs in of.items()} for name, of in seconds.items()}
        facts = {"threads": torch.get_num_threads(), "batch": self.settings.batch, "rounds": self.settings.rounds}
        (self.work / "speed.json").write_text(json.dumps({"seconds": timed} | facts))

    def call(self, way: Way) -> tuple[Any, float]:
        """What draws so many images this way, and what its time has to be multiplied by."""
        pipeline = load_pipeline(str(self.model(way)))
        choose_sampler(pipeline, way.sampler, parse_sampler_options(way.options))
        steps = min(way.steps, TIMED_STEPS)
        pipeline.set_progress_bar_config(disable=True)

        def draw(count: int) -> None:
            pipeline(count, num_inference_steps=steps, output_type="np", **UNGUIDED | way.guidance)

        return draw, way.steps / steps

    def peer_call(self) -> tuple[Any, float]:
        """The same network in diffusers' own pipeline."""
        own = load_pipeline(self.settings.model)
        peer = DDPMPipeline(own.unet, DDPMScheduler.from_config(own.scheduler.config))
        peer.set_progress_bar_config(disable=True)

        def draw(count: int) -> None:
            peer(count, num_inference_steps=TIMED_STEPS, output_type="np")

        return draw, PEER_STEPS / TIMED_STEPS


def gather(bench: Bench) -> list[dict[str, Any]]:
    """A row for each way that was judged or timed."""
    path = bench.work / "speed.json"
    speed = json.loads(path.read_text()) if path.is_file() else {"seconds": {}}
    rows = []
    if "peer" in speed["seconds"]:
        rows.append({"kind": "peer", "name": f"DDPMPipeline, {PEER_STEPS} steps", "seconds": speed["seconds"]["peer"]})
    for way in bench.ways:
        record, seconds = measured(bench.folder(way)), speed["seconds"].get(way.name)
        if record or seconds:
            row = {"kind": way.kind, "name": way.name, "sampler": way.sampler, "steps": way.steps, **way.guidance}
            row |= values(record) | {"device": record["device"]} if record else {}
            rows.append(row | ({"seconds": seconds} if seconds else {}))
    path = bench.work / "backends.json"
    return rows + (json.loads(path.read_text()) if path.is_file() else [])


def earlier_result(path: Path, what: str) -> dict[str, Any]:
    """What an earlier run has left in `path`; one of another pipeline is not written over."""
    found = json.loads(path.read_text()) if path.is_file() else {}
    if found.get("what", what) != what:
        raise UserError(f"{path} is of another pipeline ({found['what']}); give another --output and --work.")
    return found


def merged(bench: Bench, what: str) -> list[dict[str, Any]]:
    """What was gathered, over the rows that an earlier file has of the same pipeline and number of images."""
    images, found = bench.settings.images, earlier_result(bench.settings.output, what)
    earlier = [row for row in found.get("rows", ()) if row.get("n", images) == images]
    every: dict[Any, dict[str, Any]] = {}
    for row in (*earlier, *gather(bench)):
        key = (row["kind"], row["name"], row.get("batch"))
        every[key] = every.get(key, {}) | row
    names = [way.name for way in bench.possible]
    place = {name: number for number, name in enumerate(names)}
    return sorted(every.values(), key=lambda row: (KINDS.index(row["kind"]), place.get(row["name"], len(names))))


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The ratios that can be told from what is there; None for the others."""
    by = {row["name"]: row for row in rows}
    base, usual, many = (by.get(f"dpmsolver++, {steps} steps", {}) for steps in (FEW, 25, 250))
    peer = next((row for row in rows if row["kind"] == "peer"), {})
    few = [row for row in rows if row["kind"] == "distilled" and "kid" in row and row["steps"] > 1]
    best = min(few, key=lambda row: row["kid"], default={})
    guided = min((row for row in rows if row["kind"] == "guidance" and "fd" in row), key=lambda r: r["fd"], default={})

    def ratio(top: dict, bottom: dict, key: str) -> float | None:
        return top[key] / bottom[key] if key in top and key in bottom else None

    def speedup(slow: dict, quick: dict) -> float | None:
        both = "seconds" in slow and "seconds" in quick
        return slow["seconds"]["batch"]["median"] / quick["seconds"]["batch"]["median"] if both else None

    return {
        "kid_few_over_250": ratio(base, many, "kid"),
        "kid_25_over_250": ratio(usual, many, "kid"),
        "speedup_over_peer": speedup(peer, base),
        "distilled_kid_over_25": ratio(best, usual, "kid"),
        "distilled_steps": best.get("steps"),
        "guided_fd_ratio": ratio(guided, base, "fd"),
        "guided_by": guided.get("name"),
        "seconds_per_face": base["seconds"]["one"]["median"] if "seconds" in base else None,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="the pipeline that is measured, with its guide")
    parser.add_argument("--distilled", nargs="+", default=[], help="what `train_anime_ddpm.py --distill` made of it")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="by default all, in this order")
    parser.add_argument("--work", default="runs/sampling", help="where evaluations are kept")
    parser.add_argument("--images", type=int, default=1_000, help="that each way is judged by")
    parser.add_argument("--most_steps", type=int, default=PEER_STEPS, help="leave out what takes more")
    parser.add_argument("--batch", type=int, default=16, help="images that are drawn at once for the speed")
    parser.add_argument("--rounds", type=int, default=5, help="of timing, one after the other")
    add_flags(parser, FACES)
    parser.add_argument("--output", type=Path, default=RESULTS / "sampling.json")
    return parser.parse_args()


def main() -> None:
    settings = parse()
    bench = Bench(settings)
    what = f"Sampling from {settings.model} at {bench.side} px"
    earlier_result(settings.output, what)
    bench.work.mkdir(parents=True, exist_ok=True)
    for stage in settings.stages:
        bench.judge(stage) if stage in JUDGED else getattr(bench, stage)()
    rows = merged(bench, what)
    if not rows:
        raise UserError("Nothing was measured; give --stages steps or speed, or a --distilled network.")
    command = shlex.join(["python", "benchmarks/sampling.py", *sys.argv[1:]])
    write_result(settings.output, what, command, PACKAGES, gpu_name(), rows=rows, summary=summarise(rows))
    print(render_sampling(json.loads(settings.output.read_text())))
    print(f"To reproduce: {command}")


if __name__ == "__main__":
    with one_sentence_errors():
        main()
