"""A run measures itself at intervals, keeps its best pipeline, and trains no different for it."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
from accelerate import Accelerator
from evaluation_data import colour_extractor, pictures, save
from recipe_runs import assert_same_bits, final_state, flags, run
from safetensors.torch import load_file

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.evaluation import in_training
from pipeline_anime_ddpm.evaluation.drawing import draw_batch
from pipeline_anime_ddpm.evaluation.networks import extractors
from pipeline_anime_ddpm.runs.tracking import CsvTable
from pipeline_anime_ddpm.synthetic.drawn_faces import draw_faces
from pipeline_anime_ddpm.training.config import TrainingConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def judged(work, tiny_vit):
    """Settings of 24 steps, judged every 8."""
    return {
        "max_train_steps": 24,
        "checkpointing_steps": 8,
        "eval_steps": 8,
        "eval_images": 16,
        "eval_metrics": "kid,fid",
        "eval_extractor": tiny_vit,
        "eval_batch_size": 8,
        "learning_rate": 1e-2,
    }


@pytest.fixture(scope="module")
def whole(work, judged, tmp_path_factory):
    output = tmp_path_factory.mktemp("judged") / "run"
    return output, run(*flags(work, output, save_best=True, **judged))


def rows(folder):
    with open(folder / "evaluation.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_at_the_intervals_and_hold_what_was_requested(whole):
    output, done = whole
    table = rows(output)
    assert [(row["step"], row["images"]) for row in table] == [("8", "32"), ("16", "64"), ("24", "96")]
    assert all(float(row["kid_std"]) > 0 and float(row["fid"]) > 0 for row in table)
    assert len({row["kid"] for row in table}) == 3
    assert (
        "Every 8 steps: kid,fid of 16 sampled images against 20 images of the train split, with tiny-vit features"
        in done.stdout
    )


def test_rows_with_other_columns_stay_under_their_names(tmp_path):
    """A resumed run may measure more or less than before."""
    path = tmp_path / "evaluation.csv"
    CsvTable(path, 0, True).add({"images": 1, "step": 1, "kid": 0.5, "conditions": "ca"})
    CsvTable(path, 1, True).add({"images": 2, "step": 2, "fid": 9.0, "kid": 0.25, "conditions": "cb"})
    table = CsvTable(path, 2, True)
    table.add({"images": 3, "step": 3, "fid": 8.0, "conditions": "cb"})
    table.add({"images": 4, "step": 4, "kid": 0.125, "fid": 7.0, "conditions": "ca"})
    read = CsvTable(path, 4, True).rows
    assert [row["kid"] for row in read if row["images"] != 3] == [0.5, 0.25, 0.125]
    assert [row["fid"] for row in read[1:]] == [9, 8, 7]
    assert math.isnan(read[0]["fid"]) and math.isnan(read[2]["kid"])
    assert [row["conditions"] for row in read] == ["ca", "cb", "cb", "ca"]


def test_best_pipeline_is_kept(whole):
    output, _ = whole
    kids = [float(row["kid"]) for row in rows(output)]
    best = load_file(output / "best" / "unet" / "diffusion_pytorch_model.safetensors")
    last = load_file(output / "unet" / "diffusion_pytorch_model.safetensors")
    same = all(best[name].equal(last[name]) for name in last)
    assert same == (kids[-1] == min(kids))
    assert (output / "best" / "model_index.json").exists()


def test_measuring_does_not_change_what_is_trained(work, judged, whole, tmp_path):
    plain = {name: value for name, value in judged.items() if not name.startswith("eval_")}
    run(*flags(work, tmp_path / "plain", **plain))
    assert_same_bits(final_state(whole[0]), final_state(tmp_path / "plain"))


def test_interrupted_run_measures_the_same_values_again(work, judged, whole, tmp_path):
    output = tmp_path / "again"
    shutil.copytree(whole[0], output)
    shutil.rmtree(output / "checkpoint-24")  # as if it had been killed after the last measurement
    run(*flags(work, output, save_best=True, **judged))
    assert rows(output) == rows(whole[0])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"save_best": True}, "--save_best needs the KID of evaluations; give --eval_steps"),
        ({"eval_steps": 5, "eval_metrics": "fid", "save_best": True}, "and kid in --eval_metrics"),
        ({"eval_steps": 5, "eval_metrics": "kid,isc"}, "--eval_metrics knows fid, kid, mind, prc, copies, not isc"),
        ({"eval_images": 64}, "--eval_images does nothing without --eval_steps"),
        ({"eval_steps": 5, "eval_images": 7}, "--eval_images is 7; give 8 or more"),
        ({"eval_steps": 0}, "--eval_steps is 0; give 1 or more"),
        ({"eval_steps": 5, "eval_extractor": "no/net"}, "no/net cannot be loaded"),
        ({"eval_steps": 5, "eval_extractor_weights": "no.pth"}, "no.pth cannot be read"),
        ({"eval_steps": 5, "eval_extractor": "TINY", "eval_split": "test"}, "--split test is not one of"),
        ({"eval_steps": 5, "eval_extractor": "TINY", "eval_dataset": "no/where"}, "'no/where' cannot be loaded"),
    ],
)
def test_mistake_is_refused_before_training(work, tiny_vit, in_process, tmp_path, capsys, settings, sentence):
    settings = {name: tiny_vit if value == "TINY" else value for name, value in settings.items()}
    with pytest.raises(SystemExit) as stop:
        in_process(*flags(work, tmp_path / "run", **settings))
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_all_images_are_drawn_from_the_same_seeds_each_time(work, tiny_vit, tiny_unet, tmp_path, monkeypatch):
    config = TrainingConfig(
        train_data_dir=str(work / "faces"), cache_dir=str(tmp_path), eval_steps=1, eval_images=20, eval_batch_size=8,
        eval_extractor=str(tiny_vit),
    )  # fmt: skip
    judge = in_training.TrainingJudge(config, 16, 2, Accelerator(cpu=True))
    (extractor,) = judge.reference.extractors
    seen, extract = [], extractor.extract
    monkeypatch.setattr(extractor, "extract", lambda images, *rest: seen.append(images) or extract(images, *rest))
    pipeline = AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(num_train_timesteps=100))
    pipeline.set_progress_bar_config(disable=True)
    first, second = judge.measure(pipeline), judge.measure(pipeline)
    assert first == second
    expected = [draw_batch(pipeline, numbers, 2, 0) for numbers in (range(8), range(8, 16), range(16, 20))]
    assert (seen[0] == np.concatenate(expected)).all()


def test_efficientnet_judges_a_training_by_its_name(work, tiny_unet, tmp_path, monkeypatch):
    monkeypatch.setattr(extractors, "EfficientNetExtractor", colour_extractor())
    config = TrainingConfig(
        train_data_dir=str(work / "faces"), cache_dir=str(tmp_path), eval_steps=1, eval_images=20, eval_batch_size=8,
        eval_extractor="efficientnet-lite0",
    )  # fmt: skip
    judge = in_training.TrainingJudge(config, 16, 2, Accelerator(cpu=True))
    assert "with EfficientNet-Lite0 (ImageNet) features" in judge.description
    pipeline = AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(num_train_timesteps=100))
    pipeline.set_progress_bar_config(disable=True)
    assert math.isfinite(judge.measure(pipeline)["kid"])


def test_real_images_are_those_that_the_run_is_not_trained_on(work, tmp_path, monkeypatch):
    monkeypatch.setattr(in_training, "NUM_DRAWN_FACES", 60)

    def real(**settings):
        config = TrainingConfig(cache_dir=str(tmp_path / "cache"), eval_steps=1, **settings)
        return in_training.real_images(config, 16, show_progress=False)

    faces = str(work / "faces")
    assert real(train_data_dir=faces).split == "train"  # which holds out none
    other = save(tmp_path / "other" / "validation", pictures(30, seed=0)).parent
    assert (real(train_data_dir=faces, eval_dataset=str(other)).split, len(real(eval_dataset=str(other)))) == (
        "validation",
        30,
    )
    save(other / "train", pictures(5, seed=1))
    assert len(real(dataset_name=str(other))) == 30
    assert len(real(dataset_name=str(other), eval_split="train")) == 5
    drawn = real().pixels
    assert drawn.shape == (60, 3, 16, 16)
    trained_on = draw_faces(50, 16, seed=0).transpose(0, 3, 1, 2)
    assert not any((image == drawn).all((1, 2, 3)).any() for image in trained_on)


def test_copies_of_training_images_stand_out_beside_kid(work, tiny_unet, tmp_path, monkeypatch):
    """A pipeline that returns training images is caught, one that returns others is not."""
    monkeypatch.setattr(extractors, "EfficientNetExtractor", colour_extractor())
    faces = save(tmp_path / "faces", pictures(150, seed=0))
    config = TrainingConfig(
        train_data_dir=str(faces), cache_dir=str(tmp_path / "cache"), eval_steps=1, eval_images=64,
        eval_batch_size=64, eval_extractor="efficientnet-lite0", eval_metrics="kid,copies", validation_fraction=0.3,
    )  # fmt: skip
    judge = in_training.TrainingJudge(config, 16, 2, Accelerator(cpu=True))
    assert "of the validation split" in judge.description
    sets = {"copies": judge.reference.training.pixels[:64], "others": pictures(64, seed=9)}
    found = {}
    for name, images in sets.items():
        monkeypatch.setattr(in_training, "draw_batch", lambda *args, images=images, **kwargs: images)
        found[name] = judge.measure(None)
    assert found["copies"]["copies_stand_out"] == found["copies"]["memorised"] == 1 and found["copies"]["nearest"] < 0.1
    assert found["others"]["copies_stand_out"] == 0 and found["others"]["memorised"] < 0.1
    assert found["others"]["memorised_held_out"] == found["copies"]["memorised_held_out"] < 0.1
    assert 0.5 < found["others"]["nearest"] < 2 and math.isfinite(found["others"]["kid"])


def test_fine_tuning_on_few_images_needs_no_flag_and_its_evaluation_none(
    work, tiny_unet, tmp_path, monkeypatch, capsys
):
    """One command, then `evaluate` and `ema --choose`, with what was held out."""
    from pipeline_anime_ddpm import cli
    from pipeline_anime_ddpm.recipe import defaults

    monkeypatch.setattr(extractors, "EfficientNetExtractor", colour_extractor())
    monkeypatch.setattr("pipeline_anime_ddpm.evaluation.ema_choice.LENGTHS", (0.05, 0.1))
    monkeypatch.setattr(defaults, "MEASURED_FROM", 96)
    monkeypatch.setitem(defaults.LEAST_IMAGES, True, 96)
    monkeypatch.setitem(defaults.PASSES, True, 0.1)
    faces, run_folder = save(tmp_path / "faces", pictures(120, seed=0)), tmp_path / "run"
    AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(num_train_timesteps=100)).save_pretrained(tmp_path / "base")
    cache = ["--cache_dir", str(tmp_path / "cache")]
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    train = ["train", "--train_data_dir", str(faces), "--pretrained_model_name_or_path", str(tmp_path / "base"),
             "--output_dir", str(run_folder), "--report_to", "none", "--validation_images", "1", *cache]  # fmt: skip
    cli.main(train)
    printed = capsys.readouterr().out
    assert "120 images are few" in printed and "more are held out" in printed
    table = rows(run_folder)
    assert [int(row["images"]) for row in table] == [16, 32, 48, 64, 80, 96] and (run_folder / "best").is_dir()
    assert all(math.isfinite(float(row[name])) for row in table for name in ("kid", "memorised", "nearest"))
    cli.main([*train, "--max_train_images", "112"])
    assert "are few" not in capsys.readouterr().out and len(rows(run_folder)) == 7
    judged = tmp_path / "judged"
    cli.main(["evaluate", "--model", str(run_folder / "best"), "--dataset", str(faces), "--metrics", "kid,copies",
              "--extractor", "efficientnet-lite0", "--output_dir", str(judged), "--device", "cpu", *cache])  # fmt: skip
    record = json.loads((judged / "metrics.json").read_text())
    held_out = record["real"]["n"]
    assert (record["real"]["split"], record["judged"]["n"]) == ("validation", 120 - held_out)
    assert record["metrics"]["kid"]["subset_size"] == held_out // 2 and record["floor"]["metrics"]["kid"]["std"] > 0
    assert record["metrics"]["copies"]["training"]["n"] == 120 - held_out
    cli.main(["ema", str(run_folder), "--choose"])
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split(":")[0].strip() for line in lines[:3]] == [
        "the run's own EMA",
        "sigma_rel 0.05",
        "sigma_rel 0.1",
    ]
    assert lines[3].startswith(str(run_folder / "chosen")) and (run_folder / "chosen" / "model_index.json").is_file()
