"""An image is its seed's: the same bits in one go, in several, and in a part of several processes."""

import json
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UniPCMultistepScheduler
from PIL import Image

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.evaluation.drawing import (
    Drawing,
    check_pipeline,
    check_steps,
    choose_sampler,
    draw_batch,
    image_seed,
    load_pipeline,
    sampler_facts,
)


@pytest.fixture
def pipeline(tiny_unet):
    return AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(num_train_timesteps=100))


def drawing(pipeline, folder, **settings):
    values = {"count": 22, "steps": 2, "seed": 3, "batch_size": 8} | settings
    made = Drawing(pipeline, folder=folder, **values)
    made.claim()
    return made


def bits(made):
    return [path.read_bytes() for path in made.paths]


def test_ranks_and_interruptions_change_no_bit(pipeline, tmp_path):
    whole = drawing(pipeline, tmp_path / "whole")
    whole.draw()
    shared = drawing(pipeline, tmp_path / "shared")
    shared.draw(1, world=2)
    assert [number for number in range(22) if shared.path(number).exists()] == list(range(8, 16))
    shared.draw(0, world=2)
    again = drawing(pipeline, tmp_path / "again")
    again.draw(0, world=2)  # the process of the other half was killed,
    again.path(17).unlink()
    again.path(1).unlink()  # and that of this one in the middle of a batch
    (again.folder / ".000001.png.partial").write_bytes(b"half")
    again.path(18).write_bytes(b"")  # or the power was
    again = drawing(pipeline, tmp_path / "again")
    again.draw()
    assert bits(whole) == bits(shared) == bits(again)
    assert not list(again.folder.glob(".*.partial"))


def test_kill_while_claiming_the_folder_leaves_it_usable(pipeline, tmp_path):
    (tmp_path / ".drawing.json.partial").write_text("{")
    drawing(pipeline, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["drawing.json"]


def test_existing_images_are_not_sampled_again(pipeline, tmp_path, monkeypatch):
    made = drawing(pipeline, tmp_path)
    made.draw()
    monkeypatch.setattr(AnimeDDPMPipeline, "__call__", lambda *args, **kwargs: pytest.fail("drawn again"))
    drawing(pipeline, tmp_path).draw()


def test_image_is_what_its_seed_gives_the_pipeline(pipeline, tmp_path):
    made = drawing(pipeline, tmp_path)
    made.draw()
    generators = [torch.Generator().manual_seed(3_000_000 + number) for number in range(8, 16)]
    images = pipeline(8, generator=generators, num_inference_steps=2).images
    np.testing.assert_array_equal(np.asarray(Image.open(made.path(10))), np.asarray(images[2]))
    assert image_seed(0, 5) == 5
    assert image_seed(1, 0) != image_seed(0, 1)


@pytest.mark.parametrize(("setting", "value"), [("seed", 4), ("steps", 3), ("batch_size", 4)])
def test_folder_of_another_drawing_is_refused(pipeline, tmp_path, setting, value):
    drawing(pipeline, tmp_path).draw()
    name = {"steps": "num_inference_steps"}.get(setting, setting)
    with pytest.raises(UserError, match=f"sampled with other {name}"):
        drawing(pipeline, tmp_path, **{setting: value})


def test_folder_of_other_weights_or_of_strangers_images_is_refused(pipeline, tiny_unet, tmp_path):
    drawing(pipeline, tmp_path / "one")
    other = AnimeDDPMPipeline(tiny_unet(seed=1), pipeline.scheduler)
    with pytest.raises(UserError, match="sampled with other weights"):
        drawing(other, tmp_path / "one")
    (tmp_path / "two").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "two" / "mine.png")
    with pytest.raises(UserError, match="files that are not of this evaluation"):
        drawing(pipeline, tmp_path / "two")


def test_more_images_can_be_drawn_into_the_same_folder(pipeline, tmp_path):
    drawing(pipeline, tmp_path / "few", count=10).draw()
    more = drawing(pipeline, tmp_path / "few", count=22)
    more.draw()
    whole = drawing(pipeline, tmp_path / "whole", count=22)
    whole.draw()
    assert bits(more)[:8] == bits(whole)[:8]
    assert all(path.exists() for path in more.paths)


def test_nonfinite_values_stop_sampling(pipeline, tmp_path, monkeypatch):
    with torch.no_grad():
        pipeline.unet.conv_out.weight[0] = torch.nan
    with pytest.raises(UserError, match="weights of the model are not finite"):
        check_pipeline(pipeline)
    with pytest.raises(UserError, match="values that are not finite"):
        draw_batch(pipeline, range(2), steps=2, seed=0)


def test_samplers_are_chosen_by_name_and_keep_the_table(pipeline):
    betas = pipeline.scheduler.betas
    choose_sampler(pipeline, "ddim", {"clip_sample": False})
    assert pipeline.scheduler.config.solver == "ddim"
    assert pipeline.scheduler.config.clip_sample is False
    choose_sampler(pipeline, "UniPCMultistepScheduler", {"solver_order": 3})
    assert isinstance(pipeline.scheduler, UniPCMultistepScheduler)
    assert pipeline.scheduler.config.solver_order == 3
    torch.testing.assert_close(pipeline.scheduler.betas, betas)
    choose_sampler(pipeline, None)
    assert isinstance(pipeline.scheduler, UniPCMultistepScheduler)
    facts = sampler_facts(pipeline.scheduler)
    assert facts["class"] == "UniPCMultistepScheduler"
    assert len(facts["trained_betas"]) == 16  # a digest, not a thousand numbers


def test_only_unkept_images_are_deleted(pipeline, tmp_path):
    made = drawing(pipeline, tmp_path / "images")
    made.draw()
    (made.folder / "notes.txt").write_text("mine")
    made.finish()
    assert [path.name for path in made.folder.iterdir()] == ["notes.txt"]
    made = drawing(pipeline, tmp_path / "others")
    made.draw()
    made.finish()
    assert not made.folder.exists()
    made.claim(keep=True)
    made.draw()
    drawing(pipeline, tmp_path / "others").finish()  # of a later evaluation, that does not ask for it again
    assert all(path.exists() for path in made.paths)


def test_damaged_record_of_a_drawing_is_refused(pipeline, tmp_path):
    for text in ("", "[1]", "{"):
        (tmp_path / "drawing.json").write_text(text)
        with pytest.raises(UserError, match=r"drawing.json is damaged"):
            drawing(pipeline, tmp_path)


@pytest.mark.parametrize(
    "name", ["magic", "UNet2DModel", "DiffusionPipeline", "SchedulerMixin", "DDIMInverseScheduler", "EDMEulerScheduler"]
)
def test_unknown_sampler_is_refused(pipeline, name):
    with pytest.raises(UserError, match=rf"--sampler {name} is not known; give dpmsolver\+\+, ddim, ddpm"):
        choose_sampler(pipeline, name)


def test_unknown_option_is_refused(pipeline):
    with pytest.raises(UserError, match="DDIMScheduler has no option sovler"):
        choose_sampler(pipeline, "DDIMScheduler", {"sovler": 1})


def test_too_many_steps_are_refused_before_drawing(pipeline):
    with pytest.raises(UserError, match=r"--num_inference_steps 101 is not possible.*trained with 100 steps"):
        check_steps(pipeline, 101)
    assert check_steps(pipeline, None) == 10
    assert check_steps(pipeline, 7) == 7


def test_any_pipeline_of_rgb_squares_can_be_loaded(tiny_unet, tmp_path):
    from diffusers import DDIMPipeline

    DDIMPipeline(tiny_unet(), DDIMScheduler(num_train_timesteps=50)).save_pretrained(tmp_path / "ddim")
    assert isinstance(load_pipeline(str(tmp_path / "ddim")).scheduler, DDIMScheduler)
    with pytest.raises(UserError, match="cannot be loaded as a pipeline"):
        load_pipeline(str(tmp_path / "nothing"))
    grey = AnimeDDPMPipeline(tiny_unet(in_channels=1, out_channels=1), AnimeNoiseScheduler())
    with pytest.raises(UserError, match="1 x 16 x 16 values; only square RGB images"):
        check_pipeline(grey)


def test_guided_images_are_those_of_the_guided_pipeline_and_told_apart(tiny_unet, tmp_path):
    scheduler = AnimeNoiseScheduler(num_train_timesteps=100)
    pipeline = AnimeDDPMPipeline(tiny_unet(), scheduler, tiny_unet(seed=1))
    plain, guided = (
        drawing(pipeline, tmp_path / name, count=2, guidance=guidance)
        for name, guidance in (("plain", {}), ("guided", {"guidance_scale": 2.0}))
    )
    plain.draw()
    guided.draw()
    assert bits(plain) != bits(guided)
    expected = draw_batch(pipeline, range(2), 2, 3, {"guidance_scale": 2.0})
    assert np.array_equal(np.asarray(Image.open(guided.path(1))), expected[1].transpose(1, 2, 0))
    assert guided.facts.keys() - plain.facts.keys() == {"guidance", "guide"}
    settings = {"guidance_scale": 2.0, "guidance_window": 8, "guidance_interval": (0.2, math.inf)}
    window = drawing(pipeline, tmp_path / "window", guidance=settings)
    json.dumps(window.facts, allow_nan=False)
    assert "guide" not in window.facts
    with pytest.raises(UserError, match="sampled with other guidance"):
        drawing(pipeline, tmp_path / "guided", count=2, guidance={"guidance_scale": 3.0})
