"""The averages are what their formulas say, are swapped in without a trace, and others are made of them afterwards."""

import contextlib
import os

import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.runs.averages import WeightAverage, gamma_of_sigma_rel, power_decay, warmup_decay
from pipeline_anime_ddpm.runs.posthoc import profile_product, reconstruct, solve_weights
from pipeline_anime_ddpm.runs.snapshots import drop_snapshots_after, list_snapshots, save_snapshot

STEPS, EVERY, BATCH = 640, 20, 4
STORED, TRACKED = (0.05, 0.10), (0.07, 0.20)


def some_parameters():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in ((3, 4), (5,), ())]


def walk(parameters):
    with torch.no_grad():
        for parameter in parameters:
            parameter += 0.1 * torch.randn(parameter.shape)


# --------------------------------------------------------------------------------------------------- one average


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


# ----------------------------------------------------------------------------------------------- snapshots on disk


def write(folder, sigma_rel=0.1, images=8, step=2, value=1.0, name="a"):
    average = WeightAverage([torch.full((2,), value)], power_decay(sigma_rel))
    average.step = step
    return save_snapshot(folder, average, [name], images=images, sigma_rel=sigma_rel)


def test_snapshots_say_what_they_are_in_order_of_images(tmp_path):
    assert list_snapshots(tmp_path) == []
    for images, sigma_rel in ((1_500_000_000, 0.05), (200, 0.1), (200, 0.05)):
        write(tmp_path, sigma_rel, images, step=images // 2)
    write(tmp_path, 0.1, images=2, step=0)  # nothing was averaged yet: fp16 skipped the step
    found = list_snapshots(tmp_path)
    assert [(s.images, s.step, s.sigma_rel) for s in found] == [
        (200, 100, 0.05),
        (200, 100, 0.1),
        (1_500_000_000, 750_000_000, 0.05),
    ]
    assert found[0].path == tmp_path / "ema" / "000000200-0.05.safetensors"
    assert load_file(found[0].path)["a"].dtype == torch.float16


def test_snapshot_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, value=7.0)
    monkeypatch.undo()
    assert load_file(path)["a"].tolist() == [1.0, 1.0]
    assert len(list_snapshots(tmp_path)) == 1, "the one cut off is not seen"
    drop_snapshots_after(tmp_path, 8)
    assert list((tmp_path / "ema").iterdir()) == [path]


def test_snapshots_of_later_images_are_dropped(tmp_path):
    drop_snapshots_after(tmp_path, 0)  # a run that keeps none
    for images in (100, 200, 300):
        write(tmp_path, 0.05, images)
        write(tmp_path, 0.10, images)
    drop_snapshots_after(tmp_path, 200)
    assert [s.images for s in list_snapshots(tmp_path)] == [100, 100, 200, 200]
    drop_snapshots_after(tmp_path, 0)
    assert list_snapshots(tmp_path) == []


def test_damaged_or_foreign_snapshot_is_named(tmp_path):
    path = write(tmp_path)
    write(tmp_path, images=16, step=4, name="b")
    with pytest.raises(
        UserError, match=r"000000016-0\.1\.safetensors cannot be used \(it belongs to another network\)"
    ):
        reconstruct(tmp_path, 0.1)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(UserError, match=r"000000008-0\.1\.safetensors is damaged"):
        reconstruct(tmp_path, 0.1)


# ----------------------------------------------------------------------------------------- averages of other lengths


def test_products_of_profiles_are_their_integrals_and_never_leave_the_range():
    tau = (np.arange(400_000) + 0.5) / 400_000 * 9.0

    def profile(time, gamma):
        return np.where(tau <= time, (gamma + 1) * tau**gamma / time ** (gamma + 1), 0.0)

    for s, a, t, b in ((9.0, 6.9, 9.0, 16.8), (4.0, 6.9, 9.0, 2.0), (9.0, 6.9, 4.0, 2.0), (3.0, 0.5, 3.0, 0.5)):
        integral = (profile(s, a) * profile(t, b)).mean() * 9.0
        assert profile_product(s, a, t, b) == pytest.approx(integral, rel=1e-4)
    assert 0 < profile_product(1e9, 900.0, 1.01e9, 900.0) < np.inf


def test_weights_sum_to_one_and_stay_small_where_snapshots_nearly_coincide():
    gammas = [gamma_of_sigma_rel(s) for s in STORED]
    profiles = [(t, g) for t in (*range(1000, 320_001, 10_000), 320_000, 320_001) for g in gammas]
    for sigma_rel in (0.04, 0.07, 0.2):
        weights, error = solve_weights(profiles, 320_001, gamma_of_sigma_rel(sigma_rel))
        assert weights.sum() == pytest.approx(1, abs=1e-9)
        assert np.abs(weights).max() < 5 and error < 0.03
    twins = [(t, g) for t in (100_000, 319_999, 320_000) for g in gammas]
    weights, _ = solve_weights(twins, 320_000, gamma_of_sigma_rel(0.02))
    assert np.linalg.norm(weights) < 4, "without a price on the noise of float16 it is 15, for nothing"
    weights, error = solve_weights(profiles[:1], 1000, gamma_of_sigma_rel(0.2))
    assert weights.tolist() == pytest.approx([1.0]) and error > 0.5, "nothing to make another length of"


def test_only_ratios_of_times_matter():
    gammas = [gamma_of_sigma_rel(s) for s in STORED]
    asked = gamma_of_sigma_rel(0.07)
    steps, error = solve_weights([(t, g) for t in range(1, 17) for g in gammas], 16, asked)
    images, same = solve_weights([(t * 3e6, g) for t in range(1, 17) for g in gammas], 16 * 3e6, asked)
    np.testing.assert_allclose(steps, images, atol=1e-6)
    assert same == pytest.approx(error, rel=1e-3)


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A random walk of weights around 1: its folder, and {(length, step): the average tracked directly}."""
    folder = tmp_path_factory.mktemp("walk")
    generator = torch.Generator().manual_seed(1)
    weights = [torch.ones(32, 8), torch.ones(16)]
    averages = {s: WeightAverage(weights, power_decay(s)) for s in STORED + TRACKED}
    tracked = {}
    for step in range(1, STEPS + 1):
        for weight in weights:
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
        for length, average in averages.items():
            average.update(weights)
            tracked[length, step] = torch.cat([s.flatten() for s in average.shadow])
            if step % EVERY == 0 and length in STORED:
                save_snapshot(folder, average, ["w", "b"], images=step * BATCH, sigma_rel=length)
    return folder, tracked


def flat(reconstruction):
    return torch.cat([reconstruction.weights[name].flatten() for name in ("w", "b")])


def relative_error(made, wanted):
    """Against how far the weights have come, not against where they began."""
    return float((made - wanted).norm() / (wanted - 1).norm())


@pytest.mark.parametrize("sigma_rel", STORED)
def test_stored_length_at_its_own_time_is_that_snapshot(walked, sigma_rel):
    folder, tracked = walked
    made = reconstruct(folder, sigma_rel, 320 * BATCH)
    assert made.error < 1e-4 and made.images == 320 * BATCH
    assert all(weight.dtype == torch.float32 for weight in made.weights.values())
    torch.testing.assert_close(flat(made), tracked[sigma_rel, 320], rtol=2**-11, atol=1e-4)


@pytest.mark.parametrize("sigma_rel", TRACKED)
@pytest.mark.parametrize(("step", "profile_error"), [(STEPS, 0.01), (320, 0.03), (330, 0.4)])
def test_another_length_at_any_time_is_the_average_tracked_directly(walked, sigma_rel, step, profile_error):
    """Also between two snapshots (step 330 of every 20), if less exactly."""
    folder, tracked = walked
    made = reconstruct(folder, sigma_rel, step * BATCH if step < STEPS else None)
    assert made.error < profile_error
    assert relative_error(flat(made), tracked[sigma_rel, step]) < (0.01 if step % EVERY == 0 else 0.03)
    nearest = min(relative_error(tracked[s, step], tracked[sigma_rel, step]) for s in STORED)
    assert nearest > 0.04, "otherwise the stored averages would pass for it"


def test_times_are_counted_in_updates_and_asked_for_in_images(tmp_path):
    """A run that skipped half of its steps at first, as fp16 may, has averaged fewer weights than its images say."""
    for images, step in ((100, 5), (200, 15)):
        write(tmp_path, images=images, step=step, value=float(step))
    at_end, at_first = (reconstruct(tmp_path, 0.1, images) for images in (200, 100))
    assert at_end.error < 1e-4 and at_first.error < 1e-4
    assert at_first.weights["a"].tolist() == pytest.approx([5.0, 5.0], abs=1e-2)


def test_invalid_ema_requests_are_refused_with_advice(walked, tmp_path):
    folder, _ = walked
    with pytest.raises(UserError, match=r"train with --ema_sigma_rels 0\.05,0\.10"):
        reconstruct(tmp_path, 0.1)
    for images in (EVERY * BATCH - 1, STEPS * BATCH + 1):
        with pytest.raises(UserError, match="has averages of 80 to 2,560, give"):
            reconstruct(folder, 0.1, images)
    with pytest.raises(ValueError, match="sigma_rel is 0"):
        reconstruct(folder, 0.5)
