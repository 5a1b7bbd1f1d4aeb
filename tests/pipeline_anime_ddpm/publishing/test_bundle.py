"""Files of a publication, their form, and refusals before any upload."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

import pipeline_anime_ddpm.schedulers.scheduling_anime_noise as scheduler_module
from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm import pipeline_anime_ddpm as pipeline_module
from pipeline_anime_ddpm.publishing.bundle import Publication, build_bundle

ALWAYS = {
    "README.md",
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
}
CODE = {"pipeline_anime_ddpm.py", "scheduler/scheduling_anime_noise.py"}
RECORD = {"loss.png", "training_config.yaml"}


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def draw(pipeline, **settings):
    pipeline.set_progress_bar_config(disable=True)
    call = {"generator": torch.Generator().manual_seed(5), "num_inference_steps": 4, "output_type": "np"} | settings
    return pipeline(batch_size=2, **call).images


def test_run_travels_with_code_record_and_samples(finished, publish, tmp_path):
    out = tmp_path / "out"
    assert "Written to" in publish(finished, "--output_dir", out)
    grids = {f"samples/{path.name}" for path in (finished / "samples").iterdir()}
    assert len(grids) > 1 and names(out) == ALWAYS | CODE | RECORD | grids
    assert (out / "pipeline_anime_ddpm.py").read_bytes() == Path(pipeline_module.__file__).read_bytes()
    shipped = out / "scheduler" / "scheduling_anime_noise.py"
    assert shipped.read_bytes() == Path(scheduler_module.__file__).read_bytes()
    assert np.array_equal(
        draw(AnimeDDPMPipeline.from_pretrained(out)), draw(AnimeDDPMPipeline.from_pretrained(finished))
    )


def test_building_again_makes_the_same_bytes(finished, evaluated, publish, tmp_path):
    for name in ("one", "two"):
        publish(finished, "--output_dir", tmp_path / name, "--evaluation", evaluated, "--weights", "both")
    one, two = tmp_path / "one", tmp_path / "two"
    assert names(one) == names(two)
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names(one))


def test_no_path_of_this_machine_is_in_it(finished, evaluated, publish, tmp_path):
    config = yaml.safe_load((finished / "training_config.yaml").read_text())
    assert config["train_data_dir"].startswith("/") and config["cache_dir"].startswith("/")
    publish(finished, "--output_dir", tmp_path / "out", "--evaluation", evaluated)
    published = yaml.safe_load((tmp_path / "out" / "training_config.yaml").read_text())
    assert published["train_data_dir"] == "faces" and published["learning_rate"] == config["learning_rate"]
    assert not {"cache_dir", "output_dir", "hub_model_id"} & published.keys()
    for name in names(tmp_path / "out"):
        content = (tmp_path / "out" / name).read_bytes()
        assert str(tmp_path).encode() not in content and b"/home/somebody" not in content, name
    (record,) = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["real"]["source"] == "faces" and record["judged"]["source"] == "finished"


def test_folder_that_is_gone_by_now_is_named_as_when_the_run_began(finished, publish, tmp_path):
    config = yaml.safe_load((finished / "training_config.yaml").read_text())
    config |= {"train_data_dir": None, "dataset_name": "gone/faces", "pretrained_model_name_or_path": "gone/model"}
    (finished / "training_config.yaml").write_text(yaml.safe_dump(config))
    record = json.loads((finished / "provenance.json").read_text())
    record["data"] |= {"name": "data"}
    record["went_on_from"] = {"name": "went_on_from", "local": True}
    (finished / "provenance.json").write_text(json.dumps(record))
    publish(finished, "--output_dir", tmp_path / "out")
    published = yaml.safe_load((tmp_path / "out" / "training_config.yaml").read_text())
    assert (published["dataset_name"], published["pretrained_model_name_or_path"]) == ("data", "went_on_from")


def test_network_that_was_loaded_from_a_folder_does_not_tell_where_that_was(finished, publish, tmp_path):
    tuned = AnimeDDPMPipeline.from_pretrained(finished)
    assert str(finished) in str(tuned.unet.config.get("_name_or_path"))
    tuned.save_pretrained(tmp_path / "tuned")
    assert "_name_or_path" not in json.loads((tmp_path / "tuned" / "unet" / "config.json").read_text())


@pytest.mark.parametrize("weights, files", [("float16", {"diffusion_pytorch_model": 16}),
    ("both", {"diffusion_pytorch_model": 32, "diffusion_pytorch_model.fp16": 16})])  # fmt: skip
def test_half_precision(finished, publish, tmp_path, weights, files):
    publish(finished, "--output_dir", tmp_path / "out", "--weights", weights)
    stored = {p.stem: load_file(p) for p in (tmp_path / "out" / "unet").glob("*.safetensors")}
    assert {name: torch.finfo(next(iter(s.values())).dtype).bits for name, s in stored.items()} == files
    variant = "fp16" if weights == "both" else None
    pipeline = AnimeDDPMPipeline.from_pretrained(tmp_path / "out", variant=variant)
    assert pipeline.unet.dtype == torch.float32
    whole, half = load_file(finished / "unet" / "diffusion_pytorch_model.safetensors"), pipeline.unet.state_dict()
    assert all(torch.equal(half[name], tensor.half().float()) for name, tensor in whole.items())


def test_stock_classes_draw_what_ours_does(finished, publish, tmp_path):
    out = tmp_path / "out"
    publish(finished, "--output_dir", out, "--export_stock")
    assert not list(out.rglob("*.py"))
    ours = AnimeDDPMPipeline.from_pretrained(finished)
    ours.scheduler = AnimeNoiseScheduler.from_config(ours.scheduler.config, solver="ddpm")
    assert type(DiffusionPipeline.from_pretrained(str(out))) is DDPMPipeline  # without trust
    assert np.allclose(draw(DDPMPipeline.from_pretrained(str(out))), draw(ours), atol=1e-6)
    ours.scheduler = DDIMScheduler.from_config(ours.scheduler.config)
    assert np.allclose(draw(DDIMPipeline.from_pretrained(str(out))), draw(ours), atol=1e-6)
    assert "DDIMPipeline.from_pretrained" in (out / "README.md").read_text()
    assert "trust_remote_code" not in (out / "README.md").read_text()


def test_stock_classes_have_no_coordinates_and_no_steps_of_a_distilled_network(tiny_unet, publish, tmp_path):
    AnimeDDPMPipeline(tiny_unet(in_channels=5), AnimeNoiseScheduler(100)).save_pretrained(tmp_path / "patches")
    assert "2 coordinate channels" in publish(tmp_path / "patches", "--output_dir", tmp_path / "o", "--export_stock")
    scheduler = AnimeNoiseScheduler(100, solver="ddim", use_anime_sigmas=True, distilled_steps=3)
    AnimeDDPMPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path / "distilled")
    assert "the scheduler of this package" in publish(
        tmp_path / "distilled", "--output_dir", tmp_path / "o", "--export_stock"
    )
    assert not (tmp_path / "o").exists()


def test_average_or_best_pipeline_takes_the_record_of_its_run_and_generates_its_own_samples(
    finished, publish, tmp_path
):
    best = finished / "best"
    AnimeDDPMPipeline.from_pretrained(finished).save_pretrained(best)
    publish(best, "--output_dir", tmp_path / "out")
    assert names(tmp_path / "out") == ALWAYS | CODE | RECORD | {"samples/grid.png"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "16 samples at seeds 0 to 15" in card and "images seen" not in card  # those of the run's end are not its


def test_any_other_pipeline_can_be_published_and_says_that_its_training_is_unknown(tiny_unet, publish, tmp_path):
    AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(100)).save_pretrained(tmp_path / "alone" / "pipeline")
    publish(tmp_path / "alone" / "pipeline", "--output_dir", tmp_path / "out")
    assert names(tmp_path / "out") == ALWAYS | CODE | {"samples/grid.png"}
    assert "How it was trained is not recorded." in (tmp_path / "out" / "README.md").read_text()


def test_samples_that_nobody_has_drawn_yet_are_drawn_in_the_pipelines_own_number_of_steps(tiny_unet, publish, tmp_path):
    scheduler = AnimeNoiseScheduler(100, solver="ddim", use_anime_sigmas=True, distilled_steps=3)
    AnimeDDPMPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path / "distilled")
    publish(tmp_path / "distilled", "--output_dir", tmp_path / "out")
    assert "at seeds 0 to 15 and 3 steps" in (tmp_path / "out" / "README.md").read_text()


def test_guide_travels_with_the_network(tiny_unet, publish, tmp_path):
    guided = AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(100), tiny_unet(seed=1))
    guided.save_pretrained(tmp_path / "guided")
    publish(tmp_path / "guided", "--output_dir", tmp_path / "out")
    again = AnimeDDPMPipeline.from_pretrained(tmp_path / "out")
    assert all(map(torch.equal, again.guide_unet.parameters(), guided.guide_unet.parameters()))
    assert "guidance_scale" in (tmp_path / "out" / "README.md").read_text()


def spoil_index(folder):
    (folder / "model_index.json").unlink()


def spoil_weights(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def spoil_settings(folder):
    (folder / "training_config.yaml").write_text("- a list\n")


def spoil_numbers(folder):
    pipeline = AnimeDDPMPipeline.from_pretrained(folder)
    next(pipeline.unet.parameters()).data.fill_(float("nan"))
    pipeline.save_pretrained(folder)


@pytest.mark.parametrize("spoil, said", [
    (spoil_index, "holds no finished pipeline"), (spoil_weights, "cannot be loaded as a pipeline"),
    (spoil_settings, "training_config.yaml is damaged"), (spoil_numbers, "not finite"),
])  # fmt: skip
def test_damaged_run_is_refused(finished, publish, tmp_path, spoil, said):
    spoil(finished)
    answer = publish(finished, "--output_dir", tmp_path / "out")
    assert said in answer and answer.startswith("error: ") and len(answer.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_evaluation_of_other_weights_is_refused(finished, evaluated, tiny_unet, publish, tmp_path):
    AnimeDDPMPipeline(tiny_unet(seed=9), AnimeNoiseScheduler(100)).save_pretrained(tmp_path / "other")
    assert "belongs to other weights" in publish(tmp_path / "other", "--evaluation", evaluated, "--dry_run")
    (evaluated / "metrics.json").write_text("{}")
    assert "was not written by `anime-ddpm evaluate" in publish(finished, "--evaluation", evaluated, "--dry_run")


def test_dry_run_lists_the_space_too(finished, publish):
    listed = publish(finished, "--dry_run", "--repo_id", "me/faces", "--space", "me/demo")
    assert "The Space me/demo would be" in listed and "app.py" in listed and "app_settings.json" in listed


def test_recommended_guidance_is_the_published_default(finished, publish, tiny_unet, tmp_path):
    assert "--guidance_scale 2 does not suit" in publish(
        finished, "--output_dir", tmp_path / "a", "--guidance_scale", 2
    )
    guided = AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(100), tiny_unet(seed=1))
    guided.save_pretrained(tmp_path / "guided")
    publish(tmp_path / "guided", "--output_dir", tmp_path / "b", "--guidance_scale", 2)
    assert AnimeDDPMPipeline.from_pretrained(tmp_path / "b").config.default_guidance_scale == 2
    assert "`guidance_scale` of 2.0. Pass `guidance_scale=1`" in (tmp_path / "b" / "README.md").read_text()
    refused = publish(tmp_path / "guided", "--output_dir", tmp_path / "c", "--guidance_scale", 2, "--export_stock")
    assert "which --export_stock replaces; omit one" in refused


def test_dry_run_lists_what_would_go_and_writes_nothing(finished, publish, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = names(tmp_path)
    listed = publish(finished, "--dry_run", "--repo_id", "me/faces")
    assert all(name in listed for name in ALWAYS | CODE | RECORD) and "me/faces would be" in listed
    assert names(tmp_path) == before


def test_samples_are_those_of_the_evaluation_where_there_is_one(finished, evaluated, publish, tmp_path):
    publish(finished, "--output_dir", tmp_path / "out", "--evaluation", evaluated)
    assert {n for n in names(tmp_path / "out") if n.startswith("samples")} == {"samples/grid.png"}
    assert np.asarray(Image.open(tmp_path / "out" / "samples" / "grid.png")).max() == 77


def test_build_bundle_leaves_the_source_as_it_was(finished, tmp_path):
    before = {name: (finished / name).read_bytes() for name in names(finished)}
    shutil.copytree(finished, tmp_path / "copy")
    (tmp_path / "out").mkdir()
    build_bundle(Publication(finished, weights="float16"), tmp_path / "out", "me/faces")
    assert before == {name: (finished / name).read_bytes() for name in names(finished)}
