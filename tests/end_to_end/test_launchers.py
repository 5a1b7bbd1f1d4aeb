"""Every way to start several processes on CPUs starts that many, and one that does not is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from recipe_runs import ROOT, SCRIPT, environment, flags

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
ACCELERATE = [str(BIN / "accelerate"), "launch"]
TORCHRUN = [str(BIN / "torchrun"), "--nproc_per_node", "2", "--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0"]


def config(name):
    return ["--config_file", str(ROOT / "configs" / f"{name}.yaml"), "--main_process_port", "0"]


def launch(launcher, work, output):
    """A training of two steps by `launcher`, on a machine that has no GPU and says nothing of CPUs."""
    env = environment(CUDA_VISIBLE_DEVICES="")
    for name in ("ACCELERATE_USE_CPU", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name, None)
    arguments = flags(work, output, max_train_steps=2, checkpointing_steps=2, train_batch_size=2)
    return subprocess.run(
        [*launcher, str(SCRIPT), *arguments], env=env, capture_output=True, text=True, timeout=200, cwd=output.parent
    )


@pytest.mark.parametrize(
    "launcher, processes",
    [
        ([sys.executable], 1),
        (ACCELERATE, 1),
        (TORCHRUN, 2),
        ([*ACCELERATE, *config("cpu_ranks")], 2),
        ([*ACCELERATE, *config("multi_gpu"), "--num_processes", "2", "--mixed_precision", "no"], 2),
    ],
    ids=["python", "accelerate", "torchrun", "cpu_ranks.yaml", "multi_gpu.yaml"],
)
def test_as_many_processes_train_as_the_launcher_was_told(launcher, processes, work, tmp_path):
    done = launch(launcher, work, tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert [machine["processes"] for machine in record["machines"]] == [processes]
    assert done.stdout.count("images to go, ") == 1, "one training, and not one of each process"


def test_launcher_that_starts_fewer_processes_than_it_was_told_is_refused(work, tmp_path):
    done = launch([*ACCELERATE, "--cpu", "--num_processes", "2"], work, tmp_path / "run")
    assert done.returncode != 0 and "it started one; use `torchrun" in done.stderr
    assert not (tmp_path / "run").exists()
