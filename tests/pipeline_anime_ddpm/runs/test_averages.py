"""Averages of the weights are what their formulas say, and are swapped in without a trace."""

import contextlib

import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel

from pipeline_anime_ddpm.runs.averages import WeightAverage, gamma_of_sigma_rel, power_decay, warmup_decay


def some_parameters():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in ((3, 4), (5,), ())]


def walk(parameters):
    with torch.no_grad():
        for parameter in parameters:
            parameter += 0.1 * torch.randn(parameter.shape)


@pytest.mark.parametrize(
    ("inv_gamma", "power", "max_decay"), [(1.0, 0.75, 0.9999), (2.5, 2 / 3, 0.7), (1.0, 1.0, 0.9999)]
)
def test_warm_up_averages_as_diffusers_does(inv_gamma, power, max_decay):
    parameters = some_parameters()
    theirs = EMAModel(parameters, max_decay, use_ema_warmup=True, inv_gamma=inv_gamma, power=power)
    ours = WeightAverage(parameters, warmup_decay(inv_gamma, power, max_decay))
    for _ in range(12):
        walk(parameters)
        theirs.step(parameters)
        ours.update(parameters)
        assert ours.decay(ours.step) == pytest.approx(theirs.cur_decay_value, abs=1e-15)
        for a, b in zip(ours.shadow, theirs.shadow_params, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    assert ours.step == theirs.optimization_step == 12


@pytest.mark.parametrize("sigma_rel", [0.05, 0.2])
def test_power_average_weights_each_step_with_the_integral_of_its_profile(sigma_rel):
    parameters = some_parameters()
    average = WeightAverage(parameters, power_decay(sigma_rel))
    history = []
    for _ in range(50):
        walk(parameters)
        average.update(parameters)
        history.append([p.detach().double() for p in parameters])
    shares = np.diff((np.arange(51) / 50) ** (gamma_of_sigma_rel(sigma_rel) + 1))
    for index, shadow in enumerate(average.shadow):
        closed = sum(share * weights[index] for share, weights in zip(shares, history, strict=True))
        torch.testing.assert_close(shadow, closed.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.1, 0.25, 0.288])
def test_exponent_gives_the_wished_standard_deviation(sigma_rel):
    gamma = gamma_of_sigma_rel(sigma_rel)
    x = (np.arange(200_000) + 0.5) / 200_000
    density = (gamma + 1) * x**gamma / len(x)
    mean = (density * x).sum()
    assert gamma > 0
    assert np.sqrt((density * (x - mean) ** 2).sum()) == pytest.approx(sigma_rel, rel=1e-6)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 12**-0.5, 0.3, float("nan")])
def test_length_that_no_profile_has_is_refused(sigma_rel):
    with pytest.raises(ValueError, match=r"above 0 and below 0\.2887"):
        power_decay(sigma_rel)


def test_half_precision_weights_are_averaged_in_float32():
    parameters = [torch.full((4,), 1.0, dtype=torch.bfloat16)]
    average = WeightAverage(parameters, lambda step: 0.999)
    for _ in range(3):
        parameters[0].fill_(2.0)
        average.update(parameters)
    torch.testing.assert_close(average.shadow[0], torch.full((4,), 2 - 0.999**3))
    average.copy_to(parameters)
    assert parameters[0].dtype == torch.bfloat16 and parameters[0][0] == 1.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator to offload from")
def test_average_on_the_host_equals_one_on_the_device():
    parameters = [p.detach().cuda() for p in some_parameters()]
    here, host = (WeightAverage(parameters, power_decay(0.1), device) for device in (None, "cpu"))
    for _ in range(20):
        for parameter in parameters:
            parameter += torch.randn_like(parameter)
        here.update(parameters)
        host.update(parameters)
    assert all(shadow.device.type == "cpu" for shadow in host.shadow)
    for a, b in zip(here.shadow, host.shadow, strict=True):
        torch.testing.assert_close(a.cpu(), b)
    before = [p.clone() for p in parameters]
    with host.swapped_in(parameters):
        assert all(map(torch.equal, (p.cpu() for p in parameters), host.shadow))
    assert all(map(torch.equal, parameters, before))


@pytest.mark.parametrize("fails", [False, True])
def test_average_is_swapped_in_and_out_bit_for_bit(fails):
    parameters = some_parameters()
    average = WeightAverage(parameters, lambda step: 0.5)
    walk(parameters)
    average.update(parameters)
    before, places = [p.detach().clone() for p in parameters], [p.data_ptr() for p in parameters]
    shadow = [s.clone() for s in average.shadow]
    with pytest.raises(KeyError) if fails else contextlib.nullcontext(), average.swapped_in(iter(parameters)):
        assert all(map(torch.equal, parameters, shadow))
        assert not torch.equal(parameters[0], before[0])
        if fails:
            raise KeyError
    assert all(map(torch.equal, parameters, before))
    assert all(map(torch.equal, average.shadow, shadow))
    assert [p.data_ptr() for p in parameters] == places, "an optimiser and a compiled graph hold on to these"


def test_average_of_other_parameters_is_an_error_and_not_an_update():
    parameters = some_parameters()
    average = WeightAverage(parameters, lambda step: 0.5)
    with pytest.raises(RuntimeError):
        average.update(parameters[:2])
    assert average.step == 0
    with pytest.raises(ValueError, match="longer"), average.swapped_in(parameters[:2]):
        pass
