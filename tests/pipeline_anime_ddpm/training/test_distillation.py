"""Easy consistency tuning: which two levels are compared, with what weight, and what the saved pipeline does."""

import pytest
import torch
from recipe_runs import flags

from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.training.distillation import STAGES, consistency_loss, distilled, lower_sigma
from pipeline_anime_ddpm.training.errors import UserError
from pipeline_anime_ddpm.training.objective import StepBatch
from schedulers import AnimeNoiseScheduler


def batch_at(scheduler, sigmas):
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(len(sigmas), 3, 8, 8, generator=generator) * 2 - 1
    noise = torch.randn(clean.shape, generator=generator)
    return StepBatch(clean, noise, scheduler.timesteps_of(torch.tensor(sigmas, dtype=torch.float64)).float())


class Says:
    """A network that sees in any noise the image `answer(timesteps)` `(B, 1, 1, 1)`; it remembers what it was shown."""

    def __init__(self, scheduler, answer):
        self.scheduler, self.answer, self.seen = scheduler, answer, []
        self.scale = torch.ones((), requires_grad=True)

    def __call__(self, sample, timesteps, return_dict):
        self.seen.append((timesteps, torch.is_grad_enabled()))
        alpha_bar = 1 / (1 + 1 / self.scheduler.snr(timesteps).view(-1, 1, 1, 1))
        image = self.scale * self.answer(timesteps).view(-1, 1, 1, 1).expand_as(sample)
        return ((alpha_bar.sqrt() * sample - image) / (1 - alpha_bar).sqrt(),)


@pytest.mark.parametrize("stage", range(STAGES))
def test_the_lower_level_is_the_formula_and_never_below_the_image(stage):
    sigma = torch.tensor([0.01, 0.1, 1.0, 10.0, 80.0])
    lower = lower_sigma(sigma, (stage + 0.5) / STAGES)
    for s, low in zip(sigma.tolist(), lower.tolist(), strict=True):
        formula = s * (1 - (1 + 8 / (1 + torch.e**s)) / 2 ** (stage + 1))
        assert low == pytest.approx(max(formula, 0), rel=1e-5, abs=1e-9)
    if stage == 0:
        assert lower[0] == 0 and lower[-1] == pytest.approx(40, rel=1e-3)
    if stage == STAGES - 1:
        assert (lower > 0.97 * sigma).all()


def test_the_loss_is_the_distance_over_that_of_the_levels():
    scheduler = distilled(AnimeNoiseScheduler())
    batch = batch_at(scheduler, [1.0, 4.0, 30.0])
    network = Says(scheduler, lambda timesteps: timesteps / 1000)
    loss, error = consistency_loss(network, scheduler, batch, progress=0.6)
    sigma = torch.tensor([1.0, 4.0, 30.0])
    lower = lower_sigma(sigma, 0.6)
    high, low = (scheduler.timesteps_of(s.double()).float() for s in (sigma, lower))
    expected = ((high - low) / 1000 / (sigma - lower)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    torch.testing.assert_close(error, ((high - low) / 1000) ** 2, rtol=1e-2, atol=1e-8)
    (first, trained_first), (second, trained_second) = network.seen
    torch.testing.assert_close(first, low)
    torch.testing.assert_close(second, high)
    assert not trained_first and trained_second


def test_close_to_the_image_the_target_is_the_image():
    scheduler = distilled(AnimeNoiseScheduler())
    batch = batch_at(scheduler, [0.05, 0.2])
    network = Says(scheduler, lambda timesteps: torch.zeros_like(timesteps))
    loss, error = consistency_loss(network, scheduler, batch, progress=0)
    torch.testing.assert_close(error, batch.clean.square().mean((1, 2, 3)), rtol=1e-3, atol=0)
    assert loss.item() == pytest.approx((error.sqrt() / torch.tensor([0.05, 0.2])).mean().item(), rel=1e-3)
    loss.backward()
    assert network.scale.grad is not None


def test_a_step_of_the_solver_is_the_image_under_fresh_noise():
    scheduler = distilled(AnimeNoiseScheduler(prediction_type="sample"))
    scheduler.set_timesteps(2)
    image, state = torch.full((1, 3, 8, 8), 0.5), torch.randn(1, 3, 8, 8)
    generator = torch.Generator().manual_seed(3)
    first = scheduler.step(image, scheduler.timesteps[0], state, generator=generator).prev_sample
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(first, scheduler.add_noise(image, noise, scheduler.timesteps[1]))
    assert torch.equal(scheduler.step(image, scheduler.timesteps[1], first).prev_sample, image)
    assert scheduler.snr(scheduler.timesteps[0]) ** -0.5 == pytest.approx(164, rel=0.05)  # not the table's last, 1e4


def test_a_table_without_an_end_is_refused():
    with pytest.raises(UserError, match="zero SNR"):
        distilled(AnimeNoiseScheduler(rescale_betas_zero_snr=True))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"distill": True}, "give it as --pretrained_model_name_or_path"),
        ({"distill": True, "pretrained_model_name_or_path": "x", "loss_weighting": "none"}, "leave one of them away"),
        ({"distill": True, "pretrained_model_name_or_path": "x", "snr_gamma": 3}, "leave one of them away"),
        ({"save_guide_at": 8}, "not before the run's end"),
        ({"save_guide_at": 0}, "give 1 or more"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(work, tmp_path, in_process, capsys, settings, says):
    given = {"max_train_steps": 2} | settings
    arguments = flags(work, tmp_path / "run", **given)
    if "pretrained_model_name_or_path" in settings:
        arguments = [a for a in arguments if not a.startswith("--model_config")]
    with pytest.raises(SystemExit):
        in_process(*arguments)
    assert says in capsys.readouterr().err


def test_a_guided_run_and_its_distillation_are_pipelines_that_know_how_they_draw(work, tmp_path, in_process, capsys):
    in_process(*flags(work, tmp_path / "run", max_train_steps=6, save_guide_at=10, learning_rate=1e-2))
    taught = AnimeDDPMPipeline.from_pretrained(tmp_path / "run")
    own, guide = taught.unet.state_dict(), taught.guide_unet.state_dict()
    assert own.keys() == guide.keys() and any(not torch.equal(own[key], guide[key]) for key in own)
    arguments = flags(
        work, tmp_path / "few", pretrained_model_name_or_path=tmp_path / "run", distill=True, max_train_steps=8,
        learning_rate=1e-2,
    )  # fmt: skip
    in_process(*[a for a in arguments if not a.startswith(("--model_config", "--ddpm_num_inference"))])
    few = AnimeDDPMPipeline.from_pretrained(tmp_path / "few")
    few.set_progress_bar_config(disable=True)
    assert few.scheduler.config.solver == "consistency" and few.default_num_inference_steps() == 2
    few(output_type="latent")
    assert few.num_timesteps == 2
    longer = [f"{a.partition('=')[0]}=12" if a.startswith("--max_train_steps") else a for a in arguments]
    with pytest.raises(SystemExit):
        in_process(*[a for a in longer if not a.startswith(("--model_config", "--ddpm_num_inference"))])
    assert "--max_train_steps 8 there, 12 now" in capsys.readouterr().err
    changed = few.unet.state_dict()
    assert any(not torch.equal(own[key], changed[key]) for key in own)


def test_the_guide_is_the_run_s_average_at_that_time(work, tmp_path, in_process):
    """A run that ends where the other keeps its guide has the same average, however long the other goes on."""
    constant = {"lr_scheduler": "constant_with_warmup"}
    in_process(*flags(work, tmp_path / "long", max_train_steps=6, save_guide_at=12, **constant))
    in_process(*flags(work, tmp_path / "short", max_train_steps=3, **constant))
    guide = AnimeDDPMPipeline.from_pretrained(tmp_path / "long").guide_unet.state_dict()
    short = AnimeDDPMPipeline.from_pretrained(tmp_path / "short")
    assert short.guide_unet is None
    for key, value in short.unet.state_dict().items():
        torch.testing.assert_close(guide[key], value)
