"""Distillation: which path is followed from where to where, what is learned of it, and what the saved pipeline does."""

import shutil

import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from recipe_runs import flags

from pipeline_anime_ddpm import AnimeDDPMPipeline, coordinate_grid
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.training.distillation import Teacher, build_teacher, distillation_loss, distilled
from pipeline_anime_ddpm.training.models import build_model, load_guide_to_keep
from pipeline_anime_ddpm.training.objective import StepBatch


class Gaussian(ModelMixin, ConfigMixin):
    """The exact network of images that are Gaussian noise of standard deviation `width`: its paths are known.

    D(y, σ) = y w² / (w² + σ²), and y(σ) of its path is in proportion to √(w² + σ²).
    """

    config_name = "config.json"

    @register_to_config
    def __init__(self, width=0.5, in_channels=3, out_channels=3, sample_size=8, block_out_channels=(8, 8)):
        super().__init__()
        self.width, self.scale = width, torch.nn.Parameter(torch.ones(()))
        self.scheduler = AnimeNoiseScheduler()

    def forward(self, sample, timesteps, return_dict):
        alpha_bar = 1 / (1 + 1 / self.scheduler.snr(timesteps).view(-1, 1, 1, 1))
        sigma = (1 / alpha_bar - 1).sqrt()
        image = self.scale * sample / alpha_bar.sqrt() * self.width**2 / (self.width**2 + sigma**2)
        return ((alpha_bar.sqrt() * sample - image) / (1 - alpha_bar).sqrt(),)


def batch_of(timesteps):
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(len(timesteps), 3, 8, 8, generator=generator) / 2
    return StepBatch(clean, torch.randn(clean.shape, generator=generator), torch.tensor(timesteps))


def teacher_of(steps, **config):
    scheduler = distilled(AnimeNoiseScheduler(clip_sample=False, **config), steps)
    return Teacher(Gaussian(), scheduler)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
def test_jumps_are_the_steps_that_the_pipeline_will_take(steps):
    teacher = teacher_of(steps)
    scheduler = distilled(AnimeNoiseScheduler(), steps)
    scheduler.set_timesteps(steps)
    starts = teacher.sigmas[:-1][:: teacher.parts]
    torch.testing.assert_close(starts, scheduler.snr(scheduler.timesteps).double() ** -0.5, rtol=1e-4, atol=0)
    assert len(teacher.sigmas) == steps * teacher.parts + 1 and steps * teacher.parts >= 8
    assert (teacher.sigmas.diff() < 0).all()


def test_each_jump_is_trained_as_often():
    teacher = teacher_of(4)
    jumps = teacher.jump_of(torch.arange(1000))
    assert jumps.bincount().tolist() == [250] * 4 and jumps[0] == 3 and jumps[-1] == 0
    assert teacher.jump_of(torch.tensor([999.5])).tolist() == [0]


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon", "sample"])
def test_teacher_follows_its_path_to_the_end_of_the_jump(prediction_type):
    """Of Gaussian images the path is known, whatever the network predicts."""
    scheduler = distilled(AnimeNoiseScheduler(clip_sample=False, prediction_type=prediction_type), 4)
    velocity = Gaussian()

    class Network(Gaussian):
        def forward(self, sample, timesteps, return_dict):
            (v,) = velocity(sample, timesteps, return_dict)
            alpha_bar = 1 / (1 + 1 / scheduler.snr(timesteps).view(-1, 1, 1, 1))
            original, noise = (
                alpha_bar.sqrt() * sample - (1 - alpha_bar).sqrt() * v,
                (1 - alpha_bar).sqrt() * sample + alpha_bar.sqrt() * v,
            )
            return ({"v_prediction": v, "epsilon": noise, "sample": original}[prediction_type],)

    teacher = Teacher(Network(), scheduler)
    jump = torch.tensor([0, 1, 2, 3])
    here = teacher.sigmas[jump * 2]
    state = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * (0.25 + here.float() ** 2).sqrt()[
        :, None, None, None
    ]  # fmt: skip
    there = torch.where(jump == 3, 0.0, teacher.sigmas[(jump + 1) * 2])
    exact = state * ((0.25 + there**2) / (0.25 + here**2)).sqrt().float()[:, None, None, None]
    end = teacher.follow(state, jump, None)
    assert ((end - exact).square().mean((1, 2, 3)).sqrt() / exact.square().mean((1, 2, 3)).sqrt() < 0.12).all()


def test_loss_is_of_the_image_whose_step_ends_where_the_path_does():
    teacher, batch = teacher_of(2), batch_of([10, 990])
    network = Gaussian(0.7)
    loss, error = distillation_loss(network, teacher, batch)
    start = teacher.sigmas[[teacher.parts, 0]].float().view(2, 1, 1, 1)
    state = batch.clean + start * batch.noise
    end = teacher.follow(state, torch.tensor([1, 0]), None)
    kept = torch.stack([torch.zeros(()), (teacher.sigmas[teacher.parts] / teacher.sigmas[0]).float()]).view(2, 1, 1, 1)
    sample, timesteps = teacher.seen(state, start.flatten().double())
    says = teacher.scheduler.pred_original_sample(network(sample, timesteps, False)[0], timesteps, sample)
    reached = says + kept * (state - says)  # a step of DDIM
    torch.testing.assert_close(error, ((reached - end) / (1 - kept)).square().mean((1, 2, 3)), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(loss, ((1 + start.flatten() ** -2) * error).mean())
    loss.backward()
    assert network.scale.grad.abs() > 0
    assert teacher.pipeline.unet.scale.grad is None


def test_clipping_applies_to_the_teacher_only():
    scheduler = distilled(AnimeNoiseScheduler(), 4)
    teacher = Teacher(Gaussian(50.0), scheduler)
    state, sigma = torch.full((1, 3, 2, 2), 3.0), torch.tensor([1.0], dtype=torch.float64)
    assert teacher.denoise(state, sigma, None).max() == 1
    wider = distilled(AnimeNoiseScheduler(clip_sample_range=2.0), 4)
    assert Teacher(Gaussian(50.0), wider).denoise(state, sigma, None).max() == 2
    _, error = distillation_loss(Gaussian(50.0), teacher, StepBatch(state, torch.zeros_like(state), torch.tensor([0])))
    assert error > 2  # it says 3 where the teacher's image is 1


@pytest.mark.parametrize("window", [None, 4])
def test_guided_teacher_goes_where_the_guided_pipeline_would(tiny_unet, window):
    scheduler, unet, guide = distilled(AnimeNoiseScheduler(clip_sample=False), 2), tiny_unet(), tiny_unet(seed=1)
    teacher = Teacher(unet, scheduler, guide=guide, scale=1.5, window=window)
    state = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.5, 2.0], dtype=torch.float64)
    both = teacher.denoise(state, sigma, None)
    pipe = AnimeDDPMPipeline(unet, scheduler, guide)
    for image, level, seen in zip(state.split(1), sigma.split(1), both.split(1), strict=True):
        sample, timestep = teacher.seen(image, level)
        output = pipe.predict_guided(sample, timestep[0], coordinate_grid(16, 16), 1.5, window)
        expected = scheduler.pred_original_sample(output, timestep, sample)
        torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)
    plain = Teacher(unet, scheduler).denoise(state, sigma, None)
    assert (plain - both).abs().max() > 1e-3


def test_guidance_that_the_model_cannot_have_is_refused(tiny_unet):
    for how, says in (({"scale": 1.5}, "needs a weaker network"), ({"scale": 2.0, "window": 5}, "must be one of")):
        with pytest.raises(UserError, match=f"cannot use this guidance: .*{says}"):
            Teacher(tiny_unet(), distilled(AnimeNoiseScheduler(), 2), **how)


def test_distilled_scheduler_takes_its_steps_and_no_others():
    scheduler = distilled(AnimeNoiseScheduler(), 4)
    with pytest.raises(ValueError, match="distilled to sample in 4 steps: ask for 4, not 10"):
        scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="leave its sampler as it is"):
        AnimeNoiseScheduler.from_config(scheduler.config, solver="ddpm")
    with pytest.raises(ValueError, match="leave its sampler as it is"):
        AnimeNoiseScheduler.from_config(scheduler.config, use_anime_sigmas=None)


def test_table_without_an_end_or_too_short_is_refused():
    with pytest.raises(UserError, match="without zero terminal SNR"):
        distilled(AnimeNoiseScheduler(rescale_betas_zero_snr=True, lambda_min_clipped=-1000), 1)
    assert distilled(AnimeNoiseScheduler(rescale_betas_zero_snr=True), 2).config.distilled_steps == 2
    with pytest.raises(UserError, match=r"--distill 30: .* between 1 and 20"):
        distilled(AnimeNoiseScheduler(20, beta_schedule="linear", beta_end=0.5), 30)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"distill": 4}, "give it as --pretrained_model_name_or_path"),
        ({"distill_guidance_scale": 2}, "give both or neither"),
        ({"distill": 0, "pretrained_model_name_or_path": "x"}, "give 1 or more"),
        ({"distill": 3, "pretrained_model_name_or_path": "x", "loss_weighting": "none"}, "omit one of the two"),
        ({"distill": 3, "pretrained_model_name_or_path": "x", "snr_gamma": 3}, "omit one of the two"),
        ({"distill": 3, "pretrained_model_name_or_path": "x", "timestep_sampling": "anime"}, "omit one of the two"),
        ({"distill": 3, "pretrained_model_name_or_path": "x", "noise_candidates": 4}, "omit one of the two"),
        ({"distill": 4, "pretrained_model_name_or_path": "x"}, "omit the latter"),
        ({"save_guide_at": 8}, "after the end of the run"),
        ({"save_guide_at": 0}, "give 1 or more"),
    ],
)
def test_invalid_settings_are_refused(work, tmp_path, in_process, capsys, settings, says):
    given = {"max_train_steps": 2} | settings
    arguments = flags(work, tmp_path / "run", **given)
    if "pretrained_model_name_or_path" in settings:
        arguments = [a for a in arguments if not a.startswith("--model_config")]
    with pytest.raises(SystemExit):
        in_process(*arguments)
    assert says in capsys.readouterr().err


def test_guided_run_and_its_distillation_are_pipelines_that_know_how_they_draw(work, tmp_path, in_process, capsys):
    in_process(*flags(work, tmp_path / "run", max_train_steps=6, save_guide_at=10, learning_rate=1e-2))
    taught = AnimeDDPMPipeline.from_pretrained(tmp_path / "run")
    own, guide = taught.unet.state_dict(), taught.guide_unet.state_dict()
    assert own.keys() == guide.keys() and any(not torch.equal(own[key], guide[key]) for key in own)
    arguments = flags(
        work, tmp_path / "few", pretrained_model_name_or_path=tmp_path / "run", distill=3, max_train_steps=8,
        learning_rate=1e-2, distill_guidance_scale=1.5,
    )  # fmt: skip
    in_process(*[a for a in arguments if not a.startswith(("--model_config", "--ddpm_num_inference"))])
    few = AnimeDDPMPipeline.from_pretrained(tmp_path / "few")
    few.set_progress_bar_config(disable=True)
    assert few.scheduler.config.solver == "ddim" and few.default_num_inference_steps() == 3
    few(output_type="latent")
    assert few.num_timesteps == 3
    with pytest.raises(ValueError, match="ask for 3"):
        few(num_inference_steps=5)
    changed = few.unet.state_dict()
    assert any(not torch.equal(own[key], changed[key]) for key in own)
    assert few.guide_unet is None


def test_guide_stays_when_the_network_is_trained_on(work, tmp_path, in_process, tiny_unet):
    """Killed before it has kept the guide, it keeps it when it goes on."""
    unet, guide, noise = tiny_unet(), tiny_unet(seed=1), AnimeNoiseScheduler()
    AnimeDDPMPipeline(unet, noise, guide).save_pretrained(tmp_path / "trained")
    arguments = flags(work, tmp_path / "on", pretrained_model_name_or_path=tmp_path / "trained", max_train_steps=3)
    arguments = [a for a in arguments if not a.startswith("--model_config")]
    in_process(*arguments)
    shutil.rmtree(tmp_path / "on" / "guide_unet")
    in_process(*arguments)
    on = AnimeDDPMPipeline.from_pretrained(tmp_path / "on")
    for key, value in guide.state_dict().items():
        assert torch.equal(on.guide_unet.state_dict()[key], value)
    assert any(not torch.equal(value, on.unet.state_dict()[key]) for key, value in unet.state_dict().items())


@pytest.mark.parametrize(
    ("more", "stays"),
    [({}, True), ({"save_guide_at": 8}, False), ({"distill": 2}, False), ({"new_noise": True}, False),
     ({"resolution": 32}, False)],
)  # fmt: skip
def test_guide_stays_where_it_can_guide(tiny_unet, tmp_path, more, stays):
    AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(), tiny_unet(seed=1)).save_pretrained(tmp_path)
    config = TrainingConfig(train_data_dir="faces", pretrained_model_name_or_path=str(tmp_path), **more)
    assert (load_guide_to_keep(config, build_model(config)[0]) is not None) is stays


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, "distilled to 4 steps"),
        ({"new_noise": True}, "distilled to 4 steps"),
        ({"distill": 3}, "number of steps that divides them"),
        ({"distill": 4}, "number of steps that divides them"),
        ({"distill": 2, "distill_guidance_scale": 1.5}, "omit --distill_guidance_scale"),
    ],
)
def test_distilled_network_is_not_trained_on(tiny_unet, tmp_path, more, says):
    AnimeDDPMPipeline(tiny_unet(), distilled(AnimeNoiseScheduler(), 4)).save_pretrained(tmp_path)
    config = TrainingConfig(train_data_dir="faces", pretrained_model_name_or_path=str(tmp_path), **more)
    with pytest.raises(UserError, match=says):
        build_model(config)


def test_distilled_teacher_takes_its_own_jumps(tiny_unet, tmp_path):
    """Four steps of the pipeline, from noise to image, are where the two and the one that are learned of it lead."""
    four = AnimeDDPMPipeline(tiny_unet(), distilled(AnimeNoiseScheduler(clip_sample=False), 4))
    four.save_pretrained(tmp_path)
    four.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    drawn = four(2, latents=noise, output_type="latent").images
    for fewer in (2, 1):
        config = TrainingConfig(train_data_dir="faces", pretrained_model_name_or_path=str(tmp_path), distill=fewer)
        unet, scheduler = build_model(config)
        teacher = build_teacher(config, unet, scheduler, "cpu")
        assert teacher.parts == 4 // fewer
        state = noise * (1 + teacher.sigmas[0] ** 2).sqrt().float()
        for jump in range(fewer):
            state = teacher.follow(state, torch.full((2,), jump), None)
        torch.testing.assert_close(state, drawn, rtol=1e-3, atol=1e-3)


def test_guide_is_the_run_s_average_at_that_time(work, tmp_path, in_process):
    """A run that ends where the other keeps its guide has the same average, however long the other goes on."""
    constant = {"lr_scheduler": "constant_with_warmup"}
    in_process(*flags(work, tmp_path / "long", max_train_steps=6, save_guide_at=12, **constant))
    in_process(*flags(work, tmp_path / "short", max_train_steps=3, **constant))
    guide = AnimeDDPMPipeline.from_pretrained(tmp_path / "long").guide_unet.state_dict()
    short = AnimeDDPMPipeline.from_pretrained(tmp_path / "short")
    assert short.guide_unet is None
    for key, value in short.unet.state_dict().items():
        torch.testing.assert_close(guide[key], value)
