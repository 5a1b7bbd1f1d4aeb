"""Streaming runs, stopped in the middle and gone on with: every combination of source, workers and ranks."""

import io
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hub_server import HubServer
from PIL import Image
from resume_runs import EPOCHS, IMAGES, RANK_BATCH, STEPS_CUT
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

SUPPORT = Path(__file__).resolve().parents[1] / "support"
WORKERS = (0, 2, 3)


def numbered_png(number: int) -> bytes:
    """A 16 x 16 picture that shows its number in the red channel."""
    file = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """48 numbered pictures in 5 parquet files of unequal length, with unequal row groups."""
    folder = tmp_path_factory.mktemp("tables") / "data"
    folder.mkdir()
    bounds = [0, 7, 20, 29, 41, IMAGES]
    for number, (first, last) in enumerate(itertools.pairwise(bounds)):
        rows = [{"bytes": numbered_png(n), "path": f"{n}.png"} for n in range(first, last)]
        table = pyarrow.table({"image": rows, "caption": ["a face"] * len(rows)})
        pyarrow.parquet.write_table(table, folder / f"train-{number:05d}-of-00005.parquet", row_group_size=4)
    return folder.parent


@pytest.fixture(scope="module")
def http(tables):
    """The same pictures on a Hub on loopback."""
    with HubServer() as hub:
        repo = hub.add_dataset("me/numbers", {p.relative_to(tables).as_posix(): p for p in tables.rglob("*.parquet")})
        assert len(repo.files) == 5
        yield hub


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def runs(request, tmp_path_factory, tiny_unet, tables, http):
    """All runs of one number of ranks: their folder, the ranks, and the number of each (source, workers) in it."""
    out = tmp_path_factory.mktemp(f"runs{request.param}")
    tiny_unet(dropout=0.1).save_config(out / "tiny")
    pairs = [(source, workers) for source in ("local", "http") for workers in WORKERS]
    names = {"local": str(tables), "http": "me/numbers"}
    arguments = [str(part) for source, workers in pairs for part in (names[source], workers)]
    launch = [sys.executable]
    if request.param > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={request.param}"]
    env = os.environ | http.env | {
        "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_DATASETS_OFFLINE": "0", "HF_HOME": str(out / "home"),
    }  # fmt: skip
    done = subprocess.run(
        [*launch, str(SUPPORT / "resume_runs.py"), str(out), *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out, request.param, {pair: number for number, pair in enumerate(pairs)}


def ids_of(runs, pair, name):
    """Ids by step, those of all ranks one after the other."""
    out, world, numbers = runs
    by_rank = [json.loads((out / str(numbers[pair]) / f"ids_{name}_{r}.json").read_text()) for r in range(world)]
    return {int(step): [by_rank[r][step] for r in range(world)] for step in by_rank[0]}


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("source", ["local", "http"])
def test_stopped_run_resumes_bit_exact(runs, source, workers):
    out, _, numbers = runs
    whole, again = (ids_of(runs, (source, workers), name) for name in ("whole", "again"))
    assert list(again) == [step for step in whole if step >= STEPS_CUT] != []
    assert all(again[step] == whole[step] for step in again)
    folder = out / str(numbers[source, workers])
    last = max((folder / "whole").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1])).name
    files = sorted(p.name for p in (folder / "whole" / last).glob("*.safetensors"))
    assert {"unet.safetensors", "ema.safetensors", "optimizer.safetensors"} <= set(files)
    for name in files:
        one, two = (load_file(folder / run / last / name) for run in ("whole", "again"))
        different = [key for key in one if not torch.equal(one[key], two[key])]
        assert not different, (name, different[:3])


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("source", ["local", "http"])
def test_each_image_comes_once_an_epoch_over_all_ranks_and_workers(runs, source, workers):
    _, world, _ = runs
    ids = ids_of(runs, (source, workers), "whole")
    per_epoch = IMAGES // (RANK_BATCH * world)
    for epoch in range(EPOCHS):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        assert sorted(i for step in steps for batch in ids[step] for i in batch) == list(range(IMAGES))
    orders = [[ids[s] for s in range(e * per_epoch, (e + 1) * per_epoch)] for e in range(EPOCHS)]
    assert orders[0] != orders[1], "each epoch has an order of its own"


def test_source_that_is_cut_five_times_still_gives_every_image_once(tables, http):
    """Once through the files of the Hub while it cuts the connection in the middle of each of them."""
    program = """
import sys
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.data import FeedPlan, open_data
config = TrainingConfig(dataset_name="me/numbers", streaming=True, shuffle_buffer_size=5, cache_dir=sys.argv[1])
data = open_data(config, 16, False)
print("reading", flush=True)
sys.stdin.readline()
print(*(i for batch in data.feed(FeedPlan(4, 0, 12)) for i in batch.images[:, 0, 0, 0].tolist()))
"""
    env = os.environ | http.env | {"HF_DATASETS_OFFLINE": "0", "PYTHONPATH": str(SUPPORT.parents[1])}
    command = [sys.executable, "-c", program, str(tables.parent / "cut")]
    process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "reading\n"
    http.served, http.cuts_made = 0, []
    size = min(p.stat().st_size for p in tables.rglob("*.parquet"))
    http.cuts = [size // 2 + number * 2 * size for number in range(5)]
    output = process.communicate("\n", timeout=100)[0]
    assert len(http.cuts_made) == 5 and not http.cuts
    assert sorted(map(int, output.split())) == list(range(IMAGES))
