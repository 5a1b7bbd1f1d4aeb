"""One command after another, as a user types them: what each writes, the next can read, on every kind of data set."""

import json
import shutil
import subprocess
import sys

import datasets
import numpy as np
import pytest
from hub_server import HubServer
from huggingface_hub import ModelCard
from PIL import Image
from recipe_runs import ROOT, environment, flags

from pipeline_anime_ddpm.cli import main

pytestmark = pytest.mark.slow

JUDGED = 12
CARD = "license: other\nlicense_name: research-only\ndata: Drawn by a test.\nlimits: No hands.\nwho_is_drawn: Nobody.\n"


def pictures(folder, count, first=0):
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")


@pytest.fixture(scope="module", params=["flat", "splits"])
def faces(request, tmp_path_factory):
    """A folder of pictures, or one with a folder for each split."""
    folder = tmp_path_factory.mktemp(request.param) / "faces"
    if request.param == "flat":
        pictures(folder, 64)
    else:
        pictures(folder / "train", 64)
        pictures(folder / "test", 20, first=64)
    return folder


@pytest.fixture
def do(capsys):
    """`anime-ddpm` with these arguments, in this process; what it printed."""

    def call(*arguments):
        capsys.readouterr()
        main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return call


@pytest.fixture
def train(in_process, work, tmp_path, faces):
    """Train a few steps on `faces`; the output folder."""

    def call(name, **settings):
        short = {"max_train_steps": 6, "checkpointing_steps": 6, "train_data_dir": faces}
        chosen = flags(work, tmp_path / name, **(short | settings))
        in_process(*(flag for flag in chosen if not flag.endswith("=None")))
        return tmp_path / name

    return call


@pytest.fixture
def evaluate(do, faces, tiny_vit, tmp_path):
    """Judge a pipeline; the folder of metrics.json and what was printed."""

    def call(model, name):
        printed = do(
            "evaluate", "--model", model, "--dataset", faces, "--num_images", JUDGED, "--extractor", tiny_vit,
            "--metrics", "fid,kid,prc", "--kid_subset_size", 6, "--num_inference_steps", 2, "--device", "cpu",
            "--output_dir", tmp_path / name, "--cache_dir", tmp_path / "cache",
        )  # fmt: skip
        return tmp_path / name, printed

    return call


def test_each_command_reads_what_the_previous_ones_wrote(train, evaluate, do, faces, tiny_vit, tmp_path):
    (tmp_path / "card.yaml").write_text(CARD)
    run = train("run", ema_sigma_rels="0.1", save_guide_at=8)
    judged, printed = evaluate(run, "judged")
    assert "too few for these numbers to mean anything" in printed
    assert ("The real images are a training split" in printed) == (not (faces / "test").is_dir())
    published = tmp_path / "published"
    do("publish", run, "--evaluation", judged, "--card", tmp_path / "card.yaml", "--output_dir", published,
       "--guidance_scale", 1.5)  # fmt: skip
    card = ModelCard.load(published / "README.md")
    assert "KID-tiny-vit" in card.text and "too few for these numbers to mean anything" in card.text
    assert "model-index" not in card.data.to_dict() and "an early snapshot of the same training" in card.text

    # What was published is evaluated, compared, published again and trained on.
    again, _ = evaluate(published, "again")
    assert json.loads((again / "metrics.json").read_text())["drawn"]["guidance"] == {"guidance_scale": 1.5}
    assert "again" in do("compare", judged / "metrics.json", again / "metrics.json", "--allow_unlike")
    do("publish", published, "--evaluation", published, "--output_dir", tmp_path / "republished")
    derived = train("derived", pretrained_model_name_or_path=published, model_config_name_or_path=None)
    do("publish", derived, "--output_dir", tmp_path / "derived card")
    text = (tmp_path / "derived card" / "README.md").read_text()
    data = ModelCard(text).data
    assert (data.license, data.license_name) == ("other", "research-only")
    for said in ("whose card says about its training data: Drawn by a test.", "Nobody. No hands.",
                 "It was taken over from the base model.", "No `guidance_scale` has been measured"):  # fmt: skip
        assert said in text, said
    assert "an early snapshot of the same training" not in text

    # Averages, calibration and plans.
    do("ema", run, "--sigma_rel", 0.1, "--output_dir", tmp_path / "average")
    average, _ = evaluate(tmp_path / "average", "of the average")
    do("publish", tmp_path / "average", "--evaluation", average, "--output_dir", tmp_path / "average published")
    do("calibrate", "--dataset", faces, "--resolution", 16, "--num_images", 64, "--output_dir",
       tmp_path / "calibration")  # fmt: skip
    train("calibrated", noise_calibration=tmp_path / "calibration" / "calibration.json", ddpm_beta_schedule="anime")
    do("stats", "--dataset", faces, "--resolution", 16, "--extractor", tiny_vit, "--metrics", "fid,kid", "--num_images",
       JUDGED, "--kid_subset_size", 6, "--device", "cpu", "--cache_dir", tmp_path / "cache")  # fmt: skip
    judged, _ = evaluate(tmp_path / "calibrated", "of the calibrated")
    do("publish", tmp_path / "calibrated", "--evaluation", judged, "--output_dir", tmp_path / "calibrated published")


@pytest.fixture
def hub(work):
    """A Hub with the data set `me/faces`."""
    with HubServer() as server:
        table = work / "table"
        images = sorted((work / "faces").glob("*.png"))
        rows = [{"bytes": path.read_bytes(), "path": path.name} for path in images]
        data = datasets.Dataset.from_dict({"image": rows}, datasets.Features({"image": datasets.Image()}))
        (table / "data").mkdir(parents=True)
        for split in ("train", "validation"):
            data.to_parquet(table / "data" / f"{split}-00000-of-00001.parquet")
        server.add_dataset("me/faces", {p.relative_to(table).as_posix(): p for p in table.rglob("*.parquet")})
        yield server
        shutil.rmtree(table)


def test_hub_data_set_is_trained_on_measured_and_named_in_a_card_that_is_pushed(hub, work, tiny_vit, tmp_path):
    home = environment(**hub.env, HF_DATASETS_OFFLINE="0", HF_HOME=str(tmp_path / "home"), PYTHONPATH=str(ROOT))

    def do(*arguments):
        done = subprocess.run(
            [sys.executable, *map(str, arguments)], env=home, cwd=tmp_path, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    tool, run, judged = ("-m", "pipeline_anime_ddpm"), tmp_path / "run", tmp_path / "judged"
    short = {"train_data_dir": None, "dataset_name": "me/faces", "max_train_steps": 4, "checkpointing_steps": 4}
    settings = [flag for flag in flags(work, run, **short) if not flag.endswith("=None")]
    do(ROOT / "train_anime_ddpm.py", *settings)
    do(*tool, "evaluate", "--model", run, "--dataset", "me/faces", "--extractor", tiny_vit, "--num_images", JUDGED,
       "--metrics", "fid,kid", "--kid_subset_size", 6, "--num_inference_steps", 2, "--output_dir", judged)  # fmt: skip
    do(*tool, "publish", run, "--evaluation", judged, "--repo_id", "tester/faces")
    card = ModelCard(hub.repos["models/tester/faces"].files["README.md"].decode())
    assert card.data.datasets == ["me/faces"] and "<!-- repository: tester/faces -->" in card.text
    again = tmp_path / "again"
    settings = [flag for flag in settings if "model_config" not in flag and "output_dir" not in flag]
    do(ROOT / "train_anime_ddpm.py", *settings, "--pretrained_model_name_or_path=tester/faces", f"--output_dir={again}")
    do(*tool, "publish", again, "--output_dir", "card")
    assert ModelCard.load(tmp_path / "card" / "README.md").data.base_model == "tester/faces"
