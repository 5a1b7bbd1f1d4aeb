# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Runs of the recipe that something befalls, each in a process of its own, and what must be true after all of them.

`tests/end_to_end/test_faults.py` strikes at chosen moments, `benchmarks/faults.py` at random ones. The processes are
forked from a server that has imported everything once, so that a run takes a second or two.
"""

import contextlib
import csv
import dataclasses
import errno
import importlib
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch

HERE = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]
sys.path[:0] = HERE

from evaluation_data import save_tiny_vit  # noqa: E402
from fault_images import IMAGES, numbered_png, put_on_hub  # noqa: E402
from hub_server import HubServer  # noqa: E402
from recipe_runs import environment, flags, rank_environment  # noqa: E402

from pipeline_anime_ddpm.training.objective import diffusion_loss  # noqa: E402

PRELOADED = [
    "train_anime_ddpm", "pipeline_anime_ddpm.cli", "pipeline_anime_ddpm.evaluation.recipe", "matplotlib.figure",
    "transformers.models.dinov2.modeling_dinov2", "fault_runs",
]  # fmt: skip
NETWORK = {  # with dropout, for which randomness must come back too
    "_class_name": "UNet2DModel", "sample_size": 16, "layers_per_block": 1, "block_out_channels": [8, 16],
    "norm_num_groups": 4, "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "dropout": 0.1,
}  # fmt: skip
BATCH, STEPS = 4, 12
BROKEN_AT = (4, 5)
VIT = "tiny-vit"  # what evaluations look with
SETTINGS = {
    "max_train_steps": STEPS, "train_batch_size": BATCH, "checkpointing_steps": 3, "checkpoints_total_limit": 2,
    "logging_steps": 2, "save_images_epochs": 2, "save_model_epochs": 1, "eval_batch_size": 1,
    "ddpm_num_inference_steps": 1, "ema_sigma_rels": "0.05,0.10", "ema_snapshot_images": 16,
}  # fmt: skip


@dataclass(frozen=True)
class Strike:
    """A fault of a run, and its time.

    Attributes:
        where: a pattern for the beginning of a file operation, such as `os.rename .*/checkpoint-3`, `write .*csv` or
            `read`; or `step`.
        number: which of the operations that fit, from 1; or which step.
        how: a signal, which the run sends to itself; `full`, a disk without room at this operation and later ones that
            fit; `wait`, for a file `go` beside the log, with `here` to say that it waits; or `note`, which writes all
            operations that fit to the file `operations` there.
    """

    where: str
    number: int = 1
    how: int | str = signal.SIGKILL


def noted(folder: Path) -> Strike:
    """Nothing, but that all operations in `folder` are noted."""
    return Strike(rf"\S+ {re.escape(str(folder))}", how="note")


@dataclass
class Attempt:
    """One process, or that of the last rank and the others: how it ended, and what they said."""

    process: multiprocessing.Process
    folder: Path
    others: list[multiprocessing.Process] = field(default_factory=list)

    def end(self, timeout: float = 600) -> "Attempt":
        for process in (self.process, *self.others):
            process.join(timeout)
            assert process.exitcode is not None, "it does not end"
        return self

    def wait_until_here(self) -> None:
        """Until it has come to where `Strike(..., how="wait")` holds it."""
        while not (self.folder / "here").exists():
            assert self.process.exitcode is None, self.said
            time.sleep(0.01)

    def go_on(self) -> None:
        (self.folder / "go").touch()

    @property
    def code(self) -> int | None:
        return self.process.exitcode

    @property
    def succeeded(self) -> bool:
        return all(process.exitcode == 0 for process in (self.process, *self.others))

    @property
    def operations(self) -> tuple[str, ...]:
        """Those on files that `noted` has it note."""
        return tuple((self.folder / "operations").read_text().splitlines())

    @property
    def said(self) -> str:
        return (self.folder / "log").read_text()

    def line(self, begin: str) -> str:
        """The last line of what it said that begins so, with `runs/mine` for its output folder."""
        lines = [line for line in self.said.splitlines() if line.startswith(begin)]
        assert lines, f"nothing begins with {begin!r} in {self.said[-3000:]}"
        return lines[-1].replace(str(self.folder.parent / "run"), "runs/mine").replace(f"{self.folder.parent}/", "")


@dataclass
class Course:
    """One command, given again until it has ended well; `folder` holds all that it makes."""

    folder: Path
    work: Path
    hub: HubServer
    settings: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    patches: dict = field(default_factory=dict)  # module-level names, `package.module:NAME`, and their values
    lasting: dict = field(default_factory=dict)  # those that are part of the command
    ranks: int = 1
    attempts: list[Attempt] = field(default_factory=list)
    operations: tuple[str, ...] = ()  # on files, of a run that nothing has befallen, and how long that took
    seconds: float = 2.0

    @property
    def output(self) -> Path:
        return self.folder / "run"

    def arguments(self) -> list[str]:
        settings = {"train_data_dir": self.work / "faces", "cache_dir": self.folder / "cache"} | SETTINGS
        return flags(self.work, self.output, **settings | self.settings)

    def start(self, strike: Strike | None = None, **patches) -> Attempt:
        folder = self.folder / f"attempt-{len(self.attempts)}"
        folder.mkdir(parents=True)
        arguments = self.arguments()
        patches |= self.patches | self.lasting
        attempts = [
            start(None, arguments, folder, strike if rank == self.ranks - 1 else None, self.environment | its, patches)
            for rank, its in enumerate(rank_environment(self.ranks))
        ]
        *others, last = (attempt.process for attempt in attempts)
        self.attempts.append(Attempt(last, folder, others))
        return self.attempts[-1]

    def launch(self, step: int) -> tuple[subprocess.Popen, Attempt]:
        """By `accelerate launch`, as a user does; it waits before `step`."""
        folder = self.folder / f"attempt-{len(self.attempts)}"
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", __file__, str(folder), str(step)]
        launcher = subprocess.Popen(
            [*command, *self.arguments()], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.attempts.append(Attempt(None, folder))
        return launcher, self.attempts[-1]

    def run(self, strike: Strike | None = None, **patches) -> Attempt:
        return self.start(strike, **patches).end()

    def half(self) -> None:
        """Bring it to the middle, unless it has begun: killed after two checkpoints."""
        if not self.attempts:
            assert self.run(Strike("step", 7)).code == -signal.SIGKILL

    def renewed(self, folder: Path) -> "Course":
        """The same command in another folder, not yet given."""
        return dataclasses.replace(self, folder=folder, settings=dict(self.settings), patches={}, attempts=[])

    def copy(self, folder: Path) -> "Course":
        """A course that goes on from where this one is."""
        shutil.copytree(self.folder, folder)
        course = self.renewed(folder)
        course.attempts += [Attempt(None, folder / attempt.folder.name) for attempt in self.attempts]
        return course

    def finish(self) -> Attempt:
        """The same command again, undisturbed."""
        last = self.run()
        assert last.succeeded, last.said[-3000:]
        return last

    def undisturbed(self) -> "Course":
        """Run from the beginning to the end, and note what the others are measured by."""
        begin = time.monotonic()
        attempt = self.run(noted(self.folder))
        assert attempt.succeeded, attempt.said[-3000:]
        self.seconds = time.monotonic() - begin
        self.operations = attempt.operations
        return self

    def ids(self) -> dict[int, list[int]]:
        """The images of each step, over all attempts and ranks; a step that two have done had the same in both."""
        seen: dict[tuple[int, int], list[int]] = {}
        for attempt in self.attempts:
            for line in (attempt.folder / "ids").read_text().splitlines() if (attempt.folder / "ids").exists() else ():
                with contextlib.suppress(json.JSONDecodeError):  # a kill cuts a line off
                    step, rank, ids = json.loads(line)
                    assert seen.setdefault((step, rank), ids) == ids, f"step {step}: {ids} after {seen[step, rank]}"
        steps: dict[int, list[int]] = {}
        for (step, _), ids in sorted(seen.items()):
            steps.setdefault(step, []).extend(ids)
        return steps

    def files(self) -> set[str]:
        """What lies in the output folder and the cache, without trackers' own files.

        Checkpoints go by their order, since one that is due to Ctrl-C is of a step of its own.
        """
        roots = (self.output, self.folder / "cache" / "anime-ddpm")
        found = [p for root in roots for p in root.rglob("*") if p.is_file()]
        order = sorted((p.name for p in self.output.glob("checkpoint-*")), key=lambda name: int(name[11:]))
        names = {p.relative_to(self.folder).as_posix() for p in found}
        names = {re.sub(r"checkpoint-\d+", lambda m: f"checkpoint {order.index(m[0])}", name) for name in names}
        return {name for name in names if not name.startswith(("run/logs/", "run/wandb/"))}

    def evaluations(self) -> str:
        """The table of what it measured of itself, if it did."""
        path = self.output / "evaluation.csv"
        return path.read_text() if path.exists() else ""

    def events(self) -> str:
        """What it wrote down of gradients that were not finite."""
        path = self.output / "numerics.jsonl"
        return path.read_text() if path.exists() else ""

    def losses(self) -> list[str]:
        with open(self.output / "metrics.csv") as file:
            return [row["loss"] for row in csv.DictReader(file)]


def start(command: str | None, arguments: list[str], folder: Path, strike: Strike | None = None, environment=None,
          patches=None) -> Attempt:  # fmt: skip
    """A process that trains, or that runs a `command` of `anime-ddpm`; its log lies in `folder`."""
    process = server().Process(
        target=_run, args=(command, arguments, folder, strike, environment or {}, patches or {}), daemon=True
    )
    process.start()
    return Attempt(process, folder)


def make_work(folder: Path) -> Path:
    """A folder with pictures that show their number, and the config of a small network."""
    (folder / "faces").mkdir(parents=True)
    for number in range(IMAGES):
        (folder / "faces" / f"{number:02d}.png").write_bytes(numbered_png(number))
    (folder / "tiny").mkdir()
    (folder / "tiny" / "config.json").write_text(json.dumps(NETWORK))
    save_tiny_vit(folder / VIT)
    return folder


def make_courses(folder: Path, hub: HubServer) -> dict[str, Course]:
    """By name: a run on cached images, one on images that are streamed from a Hub, one that does that in workers, one
    that measures itself, one of two ranks, and one that meets gradients which are not finite."""
    work = make_work(folder / "work")
    streamed = put_on_hub(hub, folder / "tables")
    settings = {
        "cached": {}, "streamed": streamed, "workers": streamed | {"dataloader_num_workers": 2},
        "judged": {"eval_steps": 4, "eval_images": 8, "eval_extractor": work / VIT, "save_best": True},
        "ranks": {"train_batch_size": BATCH // 2}, "broken": {},
    }  # fmt: skip
    courses = {name: Course(folder / name, work, hub, more) for name, more in settings.items()}
    courses["ranks"].ranks = 2
    courses["broken"].lasting = {"train_anime_ddpm:step_loss": broken_loss}
    return courses


def broken_loss(run, part):
    """In place of the recipe's: no number in two steps."""
    loss, error = diffusion_loss(run.model, run.scheduler, part)
    return loss * float("nan" if run.state.step in BROKEN_AT else 1), error


def server() -> multiprocessing.context.BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@contextlib.contextmanager
def started_server():
    """A Hub on loopback, and the server that runs are forked from, which knows no other Hub."""
    before = dict(os.environ)
    with HubServer() as hub, tempfile.TemporaryDirectory() as home:
        paths = [*HERE, *filter(None, [before.get("PYTHONPATH")])]
        os.environ.update(hub.env | {"HF_DATASETS_OFFLINE": "0", "HF_HOME": home, "PYTHONPATH": os.pathsep.join(paths)})
        try:
            server().Process(target=len, args=((),)).start()  # whoever starts a run waits until all is imported
        finally:
            os.environ.clear()
            os.environ.update(before)
        yield hub


# ------------------------------------------------------------------------------------- in the process of the run


def _run(
    command: str | None, arguments: list[str], folder: Path, strike: Strike | None, environment: dict, patches: dict
) -> None:
    multiprocessing.current_process()._config["daemon"] = False  # which may have no workers
    multiprocessing.set_start_method("fork", force=True)  # they need not import everything again
    log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    sys.stdout.reconfigure(line_buffering=True)
    os.environ.update({"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | environment)
    torch.set_num_threads(1)  # the server has read the environment before
    for name, value in patches.items():
        module, _, attribute = name.partition(":")
        setattr(importlib.import_module(module), attribute, value)
    if strike and strike.where != "step":
        strike_at_operation(folder, strike)
    if command is not None:
        from pipeline_anime_ddpm import cli

        return cli.main([command, *arguments])
    import train_anime_ddpm
    from pipeline_anime_ddpm.common.errors import one_sentence_errors

    _note_steps(train_anime_ddpm, folder, strike if strike and strike.where == "step" else None)
    sys.argv = ["train_anime_ddpm.py", *arguments]
    with one_sentence_errors():
        train_anime_ddpm.main()


def _note_steps(recipe: ModuleType, folder: Path, strike: Strike | None) -> None:
    train_step, ids = recipe.train_step, os.open(folder / "ids", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def noting(run, batch):
        line = [run.state.step, run.accelerator.process_index, batch.images[:, 0, 0, 0].tolist()]
        os.write(ids, json.dumps(line).encode() + b"\n")
        if strike and run.state.step == strike.number:
            _do(folder, strike)
        return train_step(run, batch)

    recipe.train_step = noting


def strike_at_operation(folder: Path, strike: Strike) -> None:
    """Python tells an audit hook of every file that is opened, renamed or removed, just before it is."""
    count = itertools.count(1)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            event = "write" if isinstance(arguments[1], str) and arguments[1][0] in "wax" else "read"
        elif event not in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            return
        text = f"{event} {_place(event, *arguments)}"
        if re.match(strike.where, text) and (number := next(count)) >= strike.number:
            if strike.how == "note":
                os.write(notes, f"{text}\n".encode())
            elif number == strike.number or strike.how == "full":
                _do(folder, strike)

    notes = os.open(folder / "operations", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    sys.addaudithook(hook)


def _place(event: str, path: str, other: str | int | None = None, *_) -> str:
    """What an operation is about; `shutil.rmtree` names files by the descriptor of their folder."""
    if event in ("os.remove", "os.rmdir") and other != -1:
        return f"{os.readlink(f'/proc/self/fd/{other}')}/{path}"
    return f"{path} {other}" if event == "os.rename" else f"{path}"


def _do(folder: Path, strike: Strike) -> None:
    if strike.how == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if strike.how == "wait":
        (folder / "here").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)
    else:
        os.kill(os.getpid(), strike.how)


if __name__ == "__main__":  # of `Course.launch`, on one core as the other runs of a course
    one_thread = {"pipeline_anime_ddpm.training.hardware:use_cpu_cores": lambda device: 1}
    _run(None, sys.argv[3:], Path(sys.argv[1]), Strike("step", int(sys.argv[2]), "wait"), {}, one_thread)
