"""Averages of other lengths are made of snapshots."""

import numpy as np
import pytest
import torch
from checkpoint_parts import write_snapshot

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.runs.averages import WeightAverage, gamma_of_sigma_rel, power_decay
from pipeline_anime_ddpm.runs.posthoc import profile_product, reconstruct, solve_weights
from pipeline_anime_ddpm.runs.snapshots import save_snapshot

STEPS, EVERY, BATCH = 640, 20, 4


STORED, TRACKED = (0.05, 0.10), (0.07, 0.20)


def test_damaged_or_foreign_snapshot_is_named(tmp_path):
    path = write_snapshot(tmp_path)
    write_snapshot(tmp_path, images=16, step=4, name="b")
    with pytest.raises(
        UserError, match=r"000000016-0\.1\.safetensors cannot be used \(it belongs to another network\)"
    ):
        reconstruct(tmp_path, 0.1)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(UserError, match=r"000000008-0\.1\.safetensors is damaged"):
        reconstruct(tmp_path, 0.1)


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
        write_snapshot(tmp_path, images=images, step=step, value=float(step))
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
