"""Several ranks: the same training as one, whatever their number; one that dies, or meets what is not finite, alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from rank_runs import BROKEN_AT, CHECKPOINTS, GLOBAL_BATCH, KILLED_AT, STEPS
from recipe_runs import ROOT, final_state

pytestmark = pytest.mark.slow

SUPPORT = Path(__file__).resolve().parents[1] / "support"


@pytest.fixture(scope="module")
def runs(work, tiny_unet, tmp_path_factory):
    """The folder of all runs of `rank_runs.py`, and how each rank ended."""
    tiny_unet(add_attention=False).save_config(work / "plain")
    out = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SUPPORT / "rank_runs.py"), str(work), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, json.loads((out / "exits.json").read_text())


def said(out, name, rank):
    return (out / f"{name}_{rank}.txt").read_text()


def assert_same_weights(first, second):
    """Of the network and its average; the moments of the optimiser are as near, but on scales of their own."""
    names = [key for key in first if key[0].endswith(("unet.safetensors", "ema.safetensors", "pipeline"))]
    assert len(names) > 100 and first.keys() == second.keys()
    for name in names:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-6, msg=str(name))


@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_ranks_ends_with_the_weights_of_one(runs, world):
    out, exits = runs
    assert exits["of_1"] == [0] and exits[f"of_{world}"] == [0] * world
    assert f"{STEPS * GLOBAL_BATCH} images to go, {GLOBAL_BATCH} per step" in said(out, f"of_{world}", 0)
    assert_same_weights(final_state(out / "of_1"), final_state(out / f"of_{world}"))


def test_rank_that_is_killed_ends_the_job_with_a_sentence(runs):
    out, exits = runs
    assert exits["killed"] == [2, -9]
    (sentence,) = [line for line in said(out, "killed", 0).splitlines() if line.startswith("error: ")]
    assert "Another process of this run has ended" in sentence and "run the same command again" in sentence
    assert "Traceback" not in said(out, "killed", 0)
    assert KILLED_AT > CHECKPOINTS and (out / "killed" / f"checkpoint-{CHECKPOINTS}").is_dir()


def test_another_number_of_ranks_goes_on_and_says_what_changes(runs):
    out, exits = runs
    assert exits["resumed"] == [0]
    text = said(out, "resumed", 0)
    assert f"Resuming from {out / 'killed' / f'checkpoint-{CHECKPOINTS}'}. It had 2 processes and has 1 now" in text
    assert "only rounding will differ" in text
    assert_same_weights(final_state(out / "of_1"), final_state(out / "killed"))


def test_nonfinite_step_of_one_rank_is_skipped_on_all(runs):
    out, exits = runs
    assert exits["broken"] == [0, 0]
    events = [json.loads(line) for line in (out / "broken" / "numerics.jsonl").read_text().splitlines()]
    steps = [event["step"] for event in events if event["event"] == "skipped"]
    assert steps == list(range(BROKEN_AT + 1, BROKEN_AT + 1 + len(steps))) and len(steps) >= 3
    assert all(len(event["batch"]) == GLOBAL_BATCH for event in events if event["event"] == "skipped")
    assert len({row["image"] for row in events[0]["batch"]}) == GLOBAL_BATCH, "of both ranks"
    assert [e["checkpoint"] for e in events if e["event"] == "went back"] == [f"checkpoint-{CHECKPOINTS}"]
    progress = json.loads((out / "broken" / f"checkpoint-{STEPS}" / "progress.json").read_text())
    assert progress["lr_scheduler"]["base_lrs"] == [5e-5]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_are_accelerate_s_and_plain_data_parallel(path):
    config = ClusterConfig.from_yaml_file(path)
    assert config.distributed_type.value in ("MULTI_CPU", "MULTI_GPU") and config.num_processes > 1
    assert path.name in (ROOT / "configs" / "README.md").read_text()
    assert config.mixed_precision in ("no", "bf16", "fp16") and not {"fsdp_config", "deepspeed_config"} & set(
        yaml.safe_load(path.read_text())
    )
