"""A step without a finite gradient changes nothing, on the device, and what went wrong survives a resume."""

import json
import math

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.runs import numerics as numerics_module
from pipeline_anime_ddpm.runs.averages import WeightAverage, power_decay
from pipeline_anime_ddpm.runs.numerics import (
    ENOUGH,
    EVENTS_NAME,
    WINDOW,
    Numerics,
    check_divergence,
    drop_events_after,
    lower_learning_rate,
    spike_bound,
    step_if_finite,
    with_nan_gradient,
    write_event,
    write_events,
)
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


class Net:
    """Three weights, their optimiser and average."""

    def __init__(self, fused=True, scaler=None):
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        inner = torch.optim.AdamW([self.weight], lr=0.1, fused=fused)
        self.optimizer = AcceleratedOptimizer(inner, scaler=scaler)
        self.average = WeightAverage([self.weight], power_decay(0.1))

    def step(self, factor):
        """One step on a loss that is multiplied with `factor`."""
        loss = with_nan_gradient(self.weight.square().sum() * factor, 1.0)
        scaler = self.optimizer.scaler
        (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.unscale_(self.optimizer.optimizer)
        norm = torch.nn.utils.clip_grad_norm_([self.weight], 1.0)
        taken = step_if_finite(self.optimizer, norm)
        self.optimizer.zero_grad()
        self.average.update([self.weight], taken)

    def tensors(self):
        return [self.weight, *self.optimizer.state[self.weight].values(), *self.average.shadow]

    def copies(self):
        return [tensor.detach().clone() for tensor in self.tensors()]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf])
def test_step_without_a_finite_gradient_changes_no_bit(accelerator, fused, factor):
    net, other = Net(fused), Net(fused)
    for n in (net, other):
        n.step(1.0)
        n.step(0.5)
    before = net.copies()
    net.step(factor)
    assert all(map(torch.equal, net.copies(), before))
    net.step(2.0)
    other.step(2.0)
    weight = slice(0, -1)  # the average's decay counts steps, also those that were left out
    assert all(map(torch.equal, net.copies()[weight], other.copies()[weight]))


def test_finite_step_is_the_bits_of_a_plain_one(accelerator):
    net, plain = Net(), Net()
    for factor in (1.0, 0.3, 7.0):
        net.step(factor)
        (plain.weight.square().sum() * factor * 1.0).backward()
        torch.nn.utils.clip_grad_norm_([plain.weight], 1.0)
        plain.optimizer.step()
        plain.optimizer.zero_grad()
        plain.average.update([plain.weight])
    assert all(map(torch.equal, net.copies(), plain.copies()))


def test_infinite_loss_with_a_finite_gradient_is_told_to_the_gradient():
    weight = torch.nn.Parameter(torch.tensor(1.0))
    loss = weight + torch.tensor(math.inf)
    assert torch.autograd.grad(loss, weight, retain_graph=True)[0] == 1
    assert torch.autograd.grad(with_nan_gradient(loss, 0.25), weight)[0].isnan()
    assert torch.autograd.grad(with_nan_gradient(weight * 3, 0.25), weight)[0] == 0.75


@pytest.mark.parametrize("fused", [True, False])
def test_fp16_s_scale_falls_after_an_overflow_and_survives_a_resume(accelerator, fused):
    def scaler():
        return torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)

    whole, first = Net(fused, scaler()), Net(fused, scaler())
    factors = [1.0, math.inf, 0.5, 1.0, 2.0, 1.0]
    for factor in factors:
        whole.step(factor)
    for factor in factors[:3]:
        first.step(factor)
    saved = json.loads(json.dumps(first.optimizer.scaler.state_dict()))
    assert saved["scale"] == 512.0 and saved["_growth_tracker"] == 1
    second = Net(fused, scaler())
    second.weight.data.copy_(first.weight.data)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.average.shadow, second.average.step = first.average.shadow, first.average.step
    second.optimizer.scaler.load_state_dict(saved)
    for factor in factors[3:]:
        second.step(factor)
    assert all(map(torch.equal, whole.copies(), second.copies()))
    assert whole.optimizer.scaler.state_dict() == second.optimizer.scaler.state_dict()
    assert whole.optimizer.scaler.get_scale() == 1024.0, "it has grown again"


def feed(numerics, losses, norms=None, first=0):
    """Let `numerics` see steps of two images each; the optimiser has nothing to do."""
    net = Net()
    for number, loss in enumerate(losses, start=first):
        error = torch.tensor([loss, loss])
        numerics.add(torch.tensor(loss), error, torch.tensor([3, 999]))
        numerics.step_if_finite(number, net.optimizer, torch.tensor(norms[number - first] if norms else 1.0))


def test_result_does_not_depend_on_when_it_is_read(accelerator):
    norms = [1.0, math.nan, math.inf, 1.0] + [math.nan] * 3 + [1.0, math.nan]
    losses = [0.5] * len(norms)
    once, often = Numerics(limit=3), Numerics(limit=3)
    feed(once, losses, norms)
    events = once.read(accelerator)
    for number, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        feed(often, [loss], [norm], first=number)
        often.read(accelerator)
    assert once.state_dict() == often.state_dict()
    assert (once.skipped, once.in_a_row, once.diverged) == (6, 1, True), "once reached, the limit is not forgotten"
    assert [event.facts["step"] for event in events] == [2, 3, 5, 6, 7, 9]
    resumed = Numerics(limit=3)
    resumed.load_state_dict(json.loads(json.dumps(once.state_dict())))
    assert resumed.state_dict() == once.state_dict()
    resumed.load_state_dict({})  # of a checkpoint from before there was such a state
    assert resumed.state_dict() == Numerics().state_dict()


def test_loss_spikes_are_reported_at_any_level(accelerator):
    generator = torch.Generator().manual_seed(0)
    noisy = (torch.randn(WINDOW + ENOUGH, generator=generator) * 0.2).exp().tolist()
    for level in (1e-3, 1.0, 1e3):
        numerics = Numerics()
        feed(numerics, [level * loss for loss in noisy])
        assert not numerics.read(accelerator)
        assert len(numerics.losses) == WINDOW
        feed(numerics, [level * 30, level * 4, level], first=len(noisy))
        events = numerics.read(accelerator)
        assert [(e.facts["event"], e.facts["step"]) for e in events] == [("spike", len(noisy) + 1)]
        assert numerics.spikes == 1
    polluted = [*noisy[:200], *[1e6] * 56]
    assert spike_bound(polluted) < 100, "a fifth of spikes does not hide the next one"
    assert spike_bound(noisy[: ENOUGH - 1]) == math.inf


def test_events_name_the_images_and_noise_levels(accelerator, tmp_path, capsys):
    numerics, scheduler = Numerics(), AnimeNoiseScheduler()
    feed(numerics, [math.nan], [math.nan], first=6)
    write_events(numerics.read(accelerator), tmp_path, accelerator, scheduler, lambda step: [step, 40])
    (line,) = (tmp_path / EVENTS_NAME).read_text().splitlines()
    facts = json.loads(line)
    assert (facts["event"], facts["step"], facts["loss"], facts["gradient_norm"]) == ("skipped", 7, "nan", "nan")
    assert [(row["image"], row["timestep"]) for row in facts["batch"]] == [(6, 3), (40, 999)]
    sigma = (1 / scheduler.alphas_cumprod - 1).sqrt()
    assert facts["batch"][0]["sigma"] == pytest.approx(sigma[3].item(), rel=1e-3)
    assert "Step 7 had a non-finite loss or gradient" in capsys.readouterr().out


def test_events_name_the_images_of_parts_out_of_order(accelerator, tmp_path):
    """Full images come before crops, whatever their order in the batch."""
    numerics = Numerics()
    for rows, error in (([1], [2.0]), ([0, 2], [1.0, 3.0])):
        timesteps = torch.tensor([500] * len(rows))
        numerics.add(torch.tensor(math.nan), torch.tensor(error), timesteps, torch.tensor(rows))
    numerics.step_if_finite(0, Net().optimizer, torch.tensor(math.nan))
    write_events(numerics.read(accelerator), tmp_path, accelerator, AnimeNoiseScheduler(), lambda _: ["a", "b", "c"])
    batch = json.loads((tmp_path / EVENTS_NAME).read_text())["batch"]
    assert [(row["image"], row["squared_error"]) for row in batch] == [("b", 2), ("a", 1), ("c", 3)]


def test_resumed_run_forgets_what_it_will_see_again(tmp_path):
    drop_events_after(tmp_path, 0, False)  # nothing has happened yet
    for step, attempt in ((3, 0), (8, 0), (4, 1), (9, 1)):
        write_event(tmp_path, {"step": step, "attempt": attempt})
    with open(tmp_path / EVENTS_NAME, "a") as file:
        file.write('{"step": "3"}\nnothing\n[]\n{"step": 3}\n')  # spoilt by a disk
        file.write('{"step": 4, "att')  # cut off by a kill

    def left(step, went_back):
        drop_events_after(tmp_path, step, went_back)
        return [tuple(json.loads(line).values()) for line in (tmp_path / EVENTS_NAME).read_text().splitlines()]

    assert left(5, True) == [(3, 0), (8, 0), (4, 1)]
    assert left(5, False) == [(3, 0), (4, 1)]


def test_learning_rate_stays_lower(accelerator):
    net = Net()
    optimizer = net.optimizer.optimizer
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    optimizer.step()
    rates.step()
    lower_learning_rate(optimizer, rates)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 2 / 2)
    other = torch.optim.lr_scheduler.LambdaLR(Net().optimizer.optimizer, lambda step: 1 / (step + 1))
    other.load_state_dict(rates.state_dict())
    for scheduler in (rates, other):
        scheduler.step()
        assert scheduler.get_last_lr() == [pytest.approx(0.1 / 3 / 2)]


def test_going_back_happens_once_and_needs_a_checkpoint(tmp_path, capsys):
    numerics = Numerics(limit=5)
    check_divergence(numerics, 30, tmp_path / "checkpoint-20", tmp_path, speaks=True)
    assert "5 steps in a row had a non-finite loss or gradient; resuming once from" in capsys.readouterr().out
    with pytest.raises(UserError, match="no intact checkpoint precedes them"):
        check_divergence(numerics, 30, None, tmp_path, speaks=True)
    numerics.went_back = True
    with pytest.raises(UserError, match="also at half the learning rate; look at"):
        check_divergence(numerics, 30, tmp_path / "checkpoint-20", tmp_path, speaks=False)
    lines = [json.loads(line) for line in (tmp_path / EVENTS_NAME).read_text().splitlines()]
    assert [(line["event"], line["checkpoint"]) for line in lines] == [
        ("went back", "checkpoint-20"),
        ("stopped", None),
    ]
    assert numerics_module.SLOWER == 0.5, "which the sentences say"
