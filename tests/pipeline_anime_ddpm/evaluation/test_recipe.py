"""One evaluation from beginning to end, as a function and as a command."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluation_data import colour_extractor, pictures, save
from PIL import Image

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.evaluation import EvaluationConfig, evaluate
from pipeline_anime_ddpm.evaluation.drawing import Drawing
from pipeline_anime_ddpm.evaluation.metrics.judges import cautions
from pipeline_anime_ddpm.evaluation.networks import extractors
from pipeline_anime_ddpm.evaluation.recipe import is_held_out, locked_folder


def judge(settings, **changes):
    settings = settings | changes
    if settings.get("images"):  # drawn already
        settings = {
            name: value for name, value in settings.items() if name not in ("num_inference_steps", "batch_size")
        }
    return evaluate(EvaluationConfig(**settings), show_progress=False)


def test_model_is_drawn_from_measured_and_reported(settings, tiny_pipeline, tmp_path):
    record = judge(settings, model=str(tiny_pipeline), seed=7)
    folder = tmp_path / "evaluation"
    assert json.loads((folder / "metrics.json").read_text()) == record
    assert sorted(path.name for path in folder.iterdir()) == ["grid.png", "metrics.json", "nearest.png"]
    assert record["judged"] == {"source": str(tiny_pipeline), "n": 24, "resolution": 16}
    assert record["drawn"]["seed"] == 7
    assert record["drawn"]["num_inference_steps"] == 2
    assert record["drawn"]["sampler"]["class"] == "AnimeNoiseScheduler"
    assert record["real"]["split"] == "validation"
    assert len(record["real"]["fingerprint"]) == 16
    assert record["extractor"]["name"] == "tiny-vit"
    assert len(record["extractor"]["weights"]) == 16
    assert record["extractor"]["resize"] == "to 28x28 by antialiased bicubic"
    assert {"torch", "torch-fidelity", "python"} <= record["versions"].keys()
    metrics = record["metrics"]
    assert list(metrics) == ["fid", "kid", "precision", "recall", "mind", "lpips_diversity", "lpips_nearest"]
    assert metrics["fid"]["name"] == "FD-tiny-vit"
    assert {metric["n"] for metric in metrics.values()} == {24}
    assert (metrics["kid"]["subset_size"], metrics["kid"]["subsets"]) == (12, 10)
    assert "note" not in metrics["kid"]
    floor = record["floor"]
    assert floor["of"]["n"] == 24
    assert floor["of"]["split"] == "train"
    # noise from random weights is further from the blobs than other blobs are
    assert floor["metrics"]["fid"]["value"] < metrics["fid"]["value"]
    assert metrics["lpips_nearest"]["memorised"] == 0
    assert metrics["lpips_diversity"]["real"] > 0
    with Image.open(folder / "grid.png") as grid:
        assert grid.size == (80, 80)  # 24 images of 16 pixels in 5 x 5 places


def test_second_run_gives_the_same_numbers(settings, tiny_pipeline, tmp_path):
    first, second = (
        judge(settings, model=str(tiny_pipeline), output_dir=str(tmp_path / name)) for name in ("one", "two")
    )
    assert first["metrics"] == second["metrics"]


def test_kept_images_are_evaluated_alike_as_a_folder(settings, tiny_pipeline, tmp_path):
    drawn = judge(settings, model=str(tiny_pipeline), keep_images=True)
    images = tmp_path / "evaluation" / "images"
    assert len(list(images.glob("*.png"))) == 24
    again = judge(settings, images=str(images), output_dir=str(tmp_path / "again"))
    assert again["metrics"] == drawn["metrics"]
    assert again["drawn"] is None


def test_pipeline_in_memory_is_evaluated_too(settings, tiny_pipeline, tmp_path):
    pipeline = AnimeDDPMPipeline.from_pretrained(tiny_pipeline)
    config = EvaluationConfig(**settings | {"model": "my model", "metrics": "kid"})
    record = evaluate(config, pipeline, show_progress=False)
    assert record["judged"]["source"] == "my model"
    assert list(record["metrics"]) == ["kid"]


@pytest.mark.parametrize("disguise", ["none", "mirrored", "noise"])
def test_generator_that_returns_training_images_is_caught(settings, tmp_path, disguise):
    images = pictures(60, seed=0)[:24]  # of the training split
    if disguise == "mirrored":
        images = images[..., ::-1]
    if disguise == "noise":
        noise = np.random.default_rng(0).normal(0, 4, images.shape)
        images = (images + noise).clip(0, 255).astype(np.uint8)
    record = judge(settings, images=str(save(tmp_path / "copies", images)), metrics="lpips")
    nearest = record["metrics"]["lpips_nearest"]
    assert nearest["memorised_share"] > 0.9
    assert nearest["suspicious"]


def test_images_that_no_model_has_seen_are_not(settings, tmp_path):
    record = judge(settings, images=str(save(tmp_path / "new", pictures(24, seed=9))), metrics="lpips")
    nearest = record["metrics"]["lpips_nearest"]
    assert nearest["memorised_share"] < 0.2
    assert not nearest["suspicious"]
    assert nearest["held_out"]["n"] == 40


def test_without_a_held_out_split_copies_are_told_by_the_other_training_images(settings, tmp_path):
    settings |= {"dataset": str(save(tmp_path / "only", pictures(50, seed=0))), "metrics": "kid,lpips"}
    record = judge(settings, images=str(save(tmp_path / "copies", pictures(24, seed=0))))
    assert record["real"]["split"] == "train"
    assert record["floor"] == {"skipped": "the data set has no other split than the one compared with"}
    nearest = record["metrics"]["lpips_nearest"]
    assert nearest["held_out"]["what"] == "other training images"
    assert nearest["memorised_share"] == 1
    assert nearest["suspicious"]


def test_unavailable_metrics_are_skipped_with_a_reason(settings, tiny_pipeline, monkeypatch, caplog):
    def offline(*args, **kwargs):
        raise UserError("The network of FID cannot be fetched (no network); give a file.")

    monkeypatch.setattr(extractors, "InceptionExtractor", offline)
    record = judge(settings, model=str(tiny_pipeline), extractor="inception")
    assert record["skipped"] == [
        {"metrics": "fid, kid, prc, mind", "reason": "The network of FID cannot be fetched (no network); give a file."}
    ]
    assert list(record["metrics"]) == ["lpips_diversity", "lpips_nearest"]
    assert "Without fid, kid, prc, mind: The network of FID" in caplog.text
    with pytest.raises(UserError, match="cannot be fetched"):
        judge(settings, model=str(tiny_pipeline), extractor="inception", metrics="kid")


def test_few_real_images_fit_the_numbers_that_are_not_given(settings, tmp_path, monkeypatch):
    """At the first try, without a flag: what cannot be measured is left out, and the rest says how sure it is."""
    monkeypatch.setattr(extractors, "EfficientNetExtractor", colour_extractor())
    few = save(tmp_path / "few" / "train", pictures(60, seed=0)).parent
    save(few / "validation", pictures(9, seed=1))
    given = {name: settings[name] for name in ("cache_dir", "output_dir", "device", "lpips")}
    images = str(save(tmp_path / "finished", pictures(70, seed=2)))
    record = judge(given, dataset=str(few), images=images, extractor="efficientnet-lite0")
    assert record["judged"]["n"] == 70 and record["real"]["n"] == 9
    kid = record["metrics"]["kid"]
    assert (kid["n"], kid["real_n"], kid["subset_size"]) == (70, 9, 4) and kid["std"] > 0 and "note" not in kid
    (skipped,) = record["skipped"]
    assert skipped["metrics"] == "lpips" and "9 images in the validation split, too few for lpips" in skipped["reason"]
    assert record["metrics"]["copies"]["training"]["n"] == 60
    assert "except KID within its ±" in cautions(record)[0]


def test_without_inception_the_judge_that_works_offline_is_taken(settings, tmp_path, monkeypatch, caplog):
    def offline(*args, **kwargs):
        raise UserError("The network of FID cannot be fetched.")

    monkeypatch.setattr(extractors, "InceptionExtractor", offline)
    monkeypatch.setattr(extractors, "EfficientNetExtractor", colour_extractor())
    del settings["extractor"]
    record = judge(settings, images=str(save(tmp_path / "finished", pictures(24, seed=2))), metrics="kid")
    assert record["extractor"]["name"] == "EfficientNet-Lite0 (ImageNet)" and record["skipped"] == []
    assert "cannot be fetched. Using EfficientNet-Lite0 (ImageNet) instead." in caplog.text


MISTAKES = {
    "neither model nor images": ({"model": None}, "Give --model, a pipeline, or --images"),
    "no data set": ({"dataset": None}, "Give --dataset"),
    "fewer images than KID's subset": ({"num_images": 11}, "--num_images 11 is too few for kid, which needs 12"),
    "fewer real images than that": ({"num_images": 50, "kid_subset_size": 45}, "40 images in the validation split"),
    "too few for LPIPS": ({"num_images": 19}, "too few for lpips, which needs 20"),
    "more real images than there are": ({"num_real_images": 41}, "--num_real_images is 41, but validation has 40"),
    "no such split": ({"split": "test"}, "--split test is not one of"),
    "no such training split": ({"train_split": "trian"}, "--train_split trian is not one of train, validation"),
    "no such data set": ({"dataset": "no/where"}, "'no/where' cannot be loaded"),
    "no such metric": ({"metrics": "fid,isc"}, "not isc"),
    "no metric": ({"metrics": " "}, "--metrics is empty"),
    "no such LPIPS": ({"lpips": "resnet"}, "--lpips is 'resnet'"),
    "no such extractor": ({"extractor": "no/net", "metrics": "fid"}, "--extractor no/net cannot be loaded"),
    "too many steps": ({"num_inference_steps": 101}, "trained with 100 steps"),
    "no such sampler": ({"sampler": "magic"}, "--sampler magic is not known"),
    "sampler options without a value": ({"sampler_options": "solver"}, "give NAME=VALUE"),
    "an unknown sampler option": ({"sampler_options": "colour=red"}, "has no option colour"),
    "no such model": ({"model": "no/model"}, "--model no/model cannot be loaded"),
    "a negative seed": ({"seed": -1}, "--seed is -1"),
    "no images": ({"num_images": 0}, "--num_images is 0; give 1 or more"),
    "a sampler that is for other models": (
        {"sampler": "FlowMatchEulerDiscreteScheduler"},
        "--sampler FlowMatchEulerDiscreteScheduler is not known",
    ),
    "a sampler option of training": ({"sampler_options": "num_train_timesteps=10"}, "is fixed by the training"),
    "a sampler option of another type": ({"sampler_options": "thresholding=maybe"}, "thresholding is 'maybe'"),
    "a sampler option that is no YAML": ({"sampler_options": "thresholding=["}, "cannot be read as a value"),
    "guidance without a guide": (
        {"guidance_scale": 2.0},
        "does not suit the model: `guidance_scale` needs a weaker network",
    ),
    "a window without guidance": (
        {"guidance_scale": 1.0, "guidance_window": 8},
        "--guidance_window does nothing without a --guidance_scale",
    ),
    "an interval without guidance": (
        {"guidance_interval": "0,3"},
        "does not suit the model: `guidance_window` and `guidance_interval` have no effect at a `guidance_scale` of 1",
    ),
    "half an interval": ({"guidance_scale": 2.0, "guidance_interval": "3"}, "give two numbers separated by a comma"),
    "a seed too large": ({"seed": 10**17}, "--seed is 100000000000000000"),
    "no such device": ({"device": "banana"}, "--device banana cannot be used"),
    "no such accelerator": ({"device": "cuda:77"}, "--device cuda:77 cannot be used"),
    "one subset": ({"kid_subsets": 1}, "--kid_subsets is 1; give 2 or more"),
    "LPIPS weights for nothing": ({"lpips_weights": "x.pth", "metrics": "kid"}, "needs the metric lpips"),
    "weights of another extractor": ({"extractor_weights": "x.pth"}, "--extractor_weights is for inception"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_refused_before_anything_is_drawn(settings, tiny_pipeline, tmp_path, monkeypatch, mistake):
    monkeypatch.setattr(Drawing, "draw", lambda *args, **kwargs: pytest.fail("drawn"))
    changes, sentence = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        judge(settings, **{"model": str(tiny_pipeline)} | changes)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "evaluation").exists()


def test_folder_with_fewer_images_than_asked_for_is_refused(settings, tmp_path):
    folder = save(tmp_path / "few", pictures(23, seed=0))
    with pytest.raises(UserError, match="holds 23 images, fewer than --num_images 24; give --num_images 23"):
        judge(settings, images=str(folder))
    for flag, value in {"sampler": "ddim", "seed": 3, "keep_images": True}.items():
        with pytest.raises(UserError, match=f"--{flag} is for sampling"):
            judge(settings, images=str(folder), **{flag: value})


def test_network_that_gives_nan_keeps_nothing_wrong(settings, tiny_pipeline, tmp_path, monkeypatch):
    pipeline = AnimeDDPMPipeline.from_pretrained(tiny_pipeline)
    monkeypatch.setattr(pipeline.scheduler, "step", lambda *args, **kwargs: (torch.full((8, 3, 16, 16), torch.nan),))
    config = EvaluationConfig(**settings | {"model": "broken"})
    with pytest.raises(UserError, match="not finite"):
        evaluate(config, pipeline, show_progress=False)
    assert not list((tmp_path / "evaluation" / "images").glob("*.png"))


def test_class_conditional_model_is_refused(settings, tiny_unet):
    pipeline = AnimeDDPMPipeline(tiny_unet(num_class_embeds=10), AnimeNoiseScheduler(num_train_timesteps=100))
    with pytest.raises(UserError, match="only unconditional and labelled models"):
        evaluate(EvaluationConfig(**settings | {"model": "classes"}), pipeline, show_progress=False)


NAMES = {"eyes": ["blue", "red"], "hair": ["black", "pink", "white"]}


@pytest.fixture(scope="module")
def labelled(tiny_unet, tmp_path_factory):
    unet = tiny_unet(num_class_embeds=12)
    torch.nn.init.normal_(unet.class_embedding.weight, generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("labelled") / "pipeline"
    AnimeDDPMPipeline(unet, AnimeNoiseScheduler(num_train_timesteps=100), labels=NAMES).save_pretrained(folder)
    return folder


def test_labelled_model_generates_what_is_requested(settings, labelled, tmp_path):
    options = {"model": str(labelled), "metrics": "fid", "keep_images": True, "floor": False}
    any_of_all = judge(settings, **options, output_dir=str(tmp_path / "any"))
    asked = judge(settings, **options, output_dir=str(tmp_path / "asked"), labels="hair=pink", guidance_scale=2.0)
    assert "labels" not in any_of_all["drawn"]
    assert asked["drawn"]["labels"] == {"hair": "pink"} and "guide" not in asked["drawn"]
    pipeline = AnimeDDPMPipeline.from_pretrained(labelled)
    generators = [torch.Generator().manual_seed(n) for n in range(8)]
    drawn = pipeline(
        8, generator=generators, num_inference_steps=2, labels={"hair": "pink"}, guidance_scale=2.0, output_type="np"
    ).images
    with Image.open(tmp_path / "asked" / "images" / "000003.png") as image:
        assert np.abs(np.asarray(image) - 255 * drawn[3]).max() <= 1
    with pytest.raises(UserError, match="images that were sampled with other labels"):
        judge(settings, **options, output_dir=str(tmp_path / "asked"), labels="hair=black", guidance_scale=2.0)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ("hair=green", "has no value 'green' of 'hair'"),
        ("nose=long", "has an attribute 'nose'"),
        ("hair", "give ATTRIBUTE=VALUE"),
        ("hair=pink,hair=black", "names hair twice"),
    ],
)
def test_labels_that_cannot_be_drawn_are_refused_before_anything_is(settings, labelled, tmp_path, labels, sentence):
    with pytest.raises(UserError, match=sentence):
        judge(settings, model=str(labelled), labels=labels)
    assert not (tmp_path / "evaluation").exists()


def test_model_without_labels_draws_none(settings, tiny_pipeline):
    with pytest.raises(UserError, match="--labels: This model has no labels"):
        judge(settings, model=str(tiny_pipeline), labels="hair=pink")
    with pytest.raises(UserError, match="does not suit the model"):
        judge(settings, model=str(tiny_pipeline), guidance_scale=2.0)


def test_sampler_that_fails_is_reported_before_all_are_drawn(settings, tiny_pipeline, tmp_path, monkeypatch):
    pipeline = AnimeDDPMPipeline.from_pretrained(tiny_pipeline)
    monkeypatch.setattr(pipeline.scheduler, "step", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(UserError, match="AnimeNoiseScheduler cannot sample this model"):
        evaluate(EvaluationConfig(**settings | {"model": "broken"}), pipeline, show_progress=False)
    assert not (tmp_path / "evaluation").exists()


def test_nothing_of_the_users_is_deleted(settings, tiny_pipeline, tmp_path):
    images = tmp_path / "evaluation" / "images"
    images.mkdir(parents=True)
    (images / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="images holds files that are not of this evaluation"):
        judge(settings, model=str(tiny_pipeline), metrics="kid")
    assert (images / "mine.txt").read_text() == "mine"


def test_kept_images_stay_when_more_is_measured(settings, tiny_pipeline, tmp_path):
    judge(settings, model=str(tiny_pipeline), metrics="kid", keep_images=True)
    judge(settings, model=str(tiny_pipeline), metrics="lpips")
    judge(settings, model=str(tiny_pipeline), metrics="mind")
    folder = tmp_path / "evaluation"
    assert len(list((folder / "images").glob("*.png"))) == 24
    assert not (folder / "nearest.png").exists()  # it was of the numbers that are gone


def test_other_results_are_not_overwritten(settings, tiny_pipeline, tmp_path):
    judge(settings, model=str(tiny_pipeline), metrics="kid")
    before = (tmp_path / "evaluation" / "metrics.json").read_bytes()
    with pytest.raises(UserError, match=r"holds the evaluation of .*tiny-ddpm; choose another folder"):
        judge(settings, images=str(save(tmp_path / "new", pictures(24, seed=9))), metrics="kid")
    assert (tmp_path / "evaluation" / "metrics.json").read_bytes() == before


def test_two_evaluations_at_once_in_one_folder_are_refused(settings, tiny_pipeline, tmp_path):
    folder = tmp_path / "evaluation"
    with locked_folder(folder), pytest.raises(UserError, match="Another evaluation is running"):
        judge(settings, model=str(tiny_pipeline), metrics="kid")
    judge(settings, model=str(tiny_pipeline), metrics="kid")


def test_output_folder_that_cannot_be_made_is_refused(settings, tiny_pipeline, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        judge(settings, model=str(tiny_pipeline), metrics="kid", output_dir=str(tmp_path / "file" / "folder"))


def flags(settings):
    return [f"--{name}={value}" for name, value in settings.items()]


@pytest.mark.slow
def test_two_processes_share_the_drawing_and_change_no_number(settings, tiny_pipeline, tmp_path):
    alone = judge(settings, model=str(tiny_pipeline))
    settings["output_dir"] = str(tmp_path / "shared")
    del settings["device"]  # as README says it; without an accelerator the processes must still know of each other
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    program += ["-m", "pipeline_anime_ddpm", "evaluate", f"--model={tiny_pipeline}", *flags(settings)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    shared = json.loads((tmp_path / "shared" / "metrics.json").read_text())
    assert shared["metrics"] == alone["metrics"]
    assert done.stdout.count("memorised:") == 1


def test_folder_that_the_run_was_not_trained_on_is_held_out(tmp_path):
    record = {"data": {"name": "faces", "local": True}}
    (tmp_path / "provenance.json").write_text(json.dumps(record))
    reference = SimpleNamespace(is_held_out=False, config=SimpleNamespace(dataset="faces"))
    for model in (tmp_path, tmp_path / "best"):
        reference.config.dataset = "faces"
        assert not is_held_out(reference, str(model))
        reference.config.dataset = "others"
        assert is_held_out(reference, str(model))
    assert not is_held_out(reference, "a/model of the Hub")
