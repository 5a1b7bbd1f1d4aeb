"""Runs of several ranks, forked from one process that has imported everything: what takes seconds is done once.

    rank_runs.py WORK OUT

Each run gets the folder OUT/<name>, but for the one that resumes another; what its ranks print is in
OUT/<name>_<rank>.txt, and how they ended, by run and rank, in OUT/exits.json.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import matplotlib.figure  # noqa: F401  used by the runs
import torch
from recipe_runs import flags, rank_environment

import train_anime_ddpm
from pipeline_anime_ddpm.common.errors import one_sentence_errors

GLOBAL_BATCH, STEPS, CHECKPOINTS, KILLED_AT, BROKEN_AT = 8, 12, 4, 6, 5


def fork_ranks(world: int, task, log: Path) -> list[int]:
    """Call `task(rank)` in `world` processes with the environment that `torchrun` gives; their exit codes."""
    children = []
    for rank, environment in enumerate(rank_environment(world)):
        if child := os.fork():
            children.append(child)
            continue
        os.environ |= environment
        file = os.open(f"{log}_{rank}.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        code = 0
        try:
            with one_sentence_errors():
                task(rank)
        except SystemExit as exit:
            code = exit.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def train(
    work: Path, out: Path, name: str, world: int, step_loss=None, run: str | None = None, **settings
) -> list[int]:
    """The recipe on so many ranks, in OUT/<run>, which is OUT/<name> unless it is given."""
    output = out / (run or name)
    arguments = flags(work, output, **{
        "model_config_name_or_path": work / "plain", "max_train_steps": STEPS, "eval_batch_size": 1,
        "train_batch_size": GLOBAL_BATCH // world, "checkpointing_steps": CHECKPOINTS, "save_images_epochs": 100,
        "ddpm_num_inference_steps": 1, "checkpoints_total_limit": "none", "logging_steps": 2,
    } | settings)  # fmt: skip

    def task(rank: int) -> None:
        torch.set_num_threads(1)
        train_anime_ddpm.step_loss = step_loss or train_anime_ddpm.step_loss
        sys.argv = ["train_anime_ddpm.py", *arguments]
        train_anime_ddpm.main()

    return fork_ranks(world, task, out / name)


def killed(run, part):
    """Rank 1 dies in the middle of a step."""
    if run.accelerator.process_index == 1 and run.state.step == KILLED_AT:
        os.kill(os.getpid(), signal.SIGKILL)
    return step_loss(run, part)


def broken(run, part):
    """Rank 1 alone meets a loss that is not finite, until the learning rate is lower."""
    loss, error = step_loss(run, part)
    fast = run.state.lr_scheduler.base_lrs[0] == run.config.learning_rate
    bad = run.accelerator.process_index == 1 and run.state.step >= BROKEN_AT and fast
    return loss * float("nan" if bad else 1), error


step_loss = train_anime_ddpm.step_loss


def main() -> None:
    work, out = map(Path, sys.argv[1:])
    os.environ["ACCELERATE_USE_CPU"] = "true"
    exits = {f"of_{world}": train(work, out, f"of_{world}", world) for world in (1, 2, 4)}
    exits["killed"] = train(work, out, "killed", 2, killed)
    exits["resumed"] = train(work, out, "resumed", 1, run="killed")
    exits["broken"] = train(work, out, "broken", 2, broken, max_nonfinite_steps=3)
    (out / "exits.json").write_text(json.dumps(exits))


if __name__ == "__main__":
    main()
