"""Muon's update is the nearest orthonormal matrix to its momentum, of AdamW's size, for hidden weights alone."""

import math

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer

from pipeline_anime_ddpm.runs.numerics import step_if_finite
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.training.optimizers import (
    COEFFICIENTS,
    Muon,
    build_optimizer,
    newton_schulz,
    newton_schulz_by_gram,
    orthogonalized,
    split_parameters,
)
from pipeline_anime_ddpm.training.patches import widen_for_coordinates

SETTINGS = {"lr": 0.1, "weight_decay": 0.5, "betas": (0.9, 0.99), "eps": 1e-8}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parameter(*shape, seed=0):
    return torch.nn.Parameter(random(*shape, seed=seed))


def with_singular_values(values, columns):
    """A `(len(values), columns)` matrix of float64."""
    left, _ = torch.linalg.qr(random(len(values), len(values)).double())
    right, _ = torch.linalg.qr(random(columns, len(values), seed=1).double())
    return left * torch.tensor(values, dtype=torch.float64) @ right.T


@pytest.mark.parametrize("shape", [(16, 16), (12, 96), (96, 12), (24, 40), (1, 9)])
def test_singular_vectors_stay_and_singular_values_become_about_one(shape):
    matrix = random(*shape)
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    kept = values > 0.05 * values.max()  # smaller ones, of square matrices, take more iterations
    in_its_basis = left.T @ orthogonalized(matrix).double() @ right.T
    assert ((in_its_basis.diagonal()[kept] > 0.6) & (in_its_basis.diagonal()[kept] < 1.3)).all()
    torch.testing.assert_close(in_its_basis, in_its_basis.diagonal().diag(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("iterate", [newton_schulz, newton_schulz_by_gram])
@pytest.mark.parametrize("smallest", [1.0, 1e-2, 1e-4, 0.0])
def test_both_ways_of_computing_it_are_the_polynomial_of_each_singular_value(iterate, smallest):
    values = [1.0, 0.5, *[smallest] * 14]
    matrix = with_singular_values(values, 128)
    matrix /= matrix.norm()
    expected = torch.linalg.svdvals(matrix).clamp(min=0)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    a, b, c = COEFFICIENTS
    for _ in range(5):
        expected = a * expected + b * expected**3 + c * expected**5
    torch.testing.assert_close(iterate(matrix.float()).double(), left * expected @ right, rtol=0, atol=2e-3)


def test_matrix_of_zeros_stays():
    assert not orthogonalized(torch.zeros(4, 36)).any()


def test_two_steps_on_a_convolution_are_those_of_a_reference_in_float64():
    """Momentum with Nesterov's look-ahead, the scale 0.2 · √(longer side), decoupled weight decay."""
    weight = parameter(8, 4, 3, 3)
    optimizer = Muon([weight], [parameter(2)], SETTINGS)
    average = 0.0
    for seed in (1, 2):
        weight.grad = random(8, 4, 3, 3, seed=seed)
        gradient = weight.grad.double().flatten(1)
        average = 0.95 * average + 0.05 * gradient
        left, _, right = torch.linalg.svd(0.05 * gradient + 0.95 * average, full_matrices=False)
        before = weight.detach().double().flatten(1)
        optimizer.step()
        exact = 0.1 * 0.2 * math.sqrt(36) * (left @ right)
        taken = before * (1 - 0.1 * 0.5) - weight.detach().double().flatten(1)
        assert (taken - exact).norm() < 0.35 * exact.norm(), "its singular values are between 0.7 and 1.2"
        assert torch.cosine_similarity(taken.flatten(), exact.flatten(), dim=0) > 0.98


def test_other_parameters_are_trained_by_adamw():
    other, twin = parameter(5), parameter(5)
    optimizer = Muon([parameter(4, 6)], [other], SETTINGS)
    plain = torch.optim.AdamW([twin], **SETTINGS)
    for seed in (1, 2, 3):
        other.grad, twin.grad = random(5, seed=seed), random(5, seed=seed)
        optimizer.step()
        plain.step()
    assert torch.equal(other, twin)


def test_its_updates_are_as_large_as_adamw_s():
    weight = parameter(32, 16, 3, 3)
    optimizer, before = Muon([weight], [parameter(2)], SETTINGS | {"weight_decay": 0.0}), weight.detach().clone()
    weight.grad = random(32, 16, 3, 3, seed=1) * 1e-3
    optimizer.step()
    assert (weight - before).square().mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.2)


def test_hidden_weights_are_muon_s_and_the_outer_layers_norms_and_biases_adamw_s(tiny_unet):
    unet = tiny_unet(
        num_class_embeds=6,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )
    widen_for_coordinates(unet)
    hidden, others = split_parameters(unet)
    names = {id(weight): name for name, weight in unet.named_parameters()}
    of_muon, of_adamw = ({names.pop(id(weight)) for weight in part} for part in (hidden, others))
    assert not names, "each is in one of the two"
    assert {"conv_in.weight", "conv_out.weight", "class_embedding.weight"} <= of_adamw
    assert {"time_embedding.linear_1.weight", "conv_norm_out.weight"} <= of_adamw
    for name in ("resnets.0.conv1", "resnets.0.time_emb_proj", "attentions.0.to_q", "attentions.0.to_out.0"):
        assert f"down_blocks.1.{name}.weight" in of_muon
    assert {"down_blocks.0.downsamplers.0.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"} <= of_muon
    assert not [name for name in of_muon if name.endswith("bias") or "norm" in name]
    assert all(weight.ndim >= 2 for weight in hidden)


def test_flags_of_adamw_hold_for_both(tiny_unet):
    config = TrainingConfig(optimizer="muon", learning_rate=3e-4, adam_weight_decay=0.2, adam_beta1=0.8)
    optimizer = build_optimizer(config, tiny_unet())
    assert [group["lr"] for group in optimizer.param_groups] == [3e-4, 3e-4]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.2]
    assert optimizer.param_groups[1]["betas"] == (0.8, 0.999)


def test_lower_learning_rate_holds_for_both_after_a_state_was_loaded():
    def trained(rate_after_loading):
        hidden, other = parameter(4, 6), parameter(3)
        optimizer = Muon([hidden], [other], SETTINGS)
        hidden.grad, other.grad = random(4, 6, seed=1), random(3, seed=2)
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        for group in optimizer.param_groups:
            group["lr"] = rate_after_loading
        before = [hidden.detach().clone(), other.detach().clone()]
        optimizer.step()
        return [(now - then).norm().item() for now, then in zip((hidden, other), before, strict=True)]

    assert trained(0.05) == pytest.approx([change / 2 for change in trained(0.1)], rel=1e-4)


def regression(optimizer_name):
    """The loss of a small convolutional network on targets of another one, after 100 steps."""
    torch.manual_seed(0)
    layers = lambda: torch.nn.Sequential(  # noqa: E731
        torch.nn.Conv2d(3, 12, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(12, 3, 3, padding=1)
    )
    teacher, student = layers(), layers()
    optimizer = build_optimizer(TrainingConfig(optimizer=optimizer_name, learning_rate=1e-2), student)
    for step in range(100):
        images = random(8, 3, 6, 6, seed=step)
        loss = (student(images) - teacher(images).detach()).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def test_it_fits_a_small_network_as_well_as_adamw():
    assert regression("muon") < min(1.2 * regression("adamw"), 0.01)


@pytest.mark.parametrize("scaled", [False, True])
def test_step_without_a_finite_gradient_changes_no_bit(scaled):
    Accelerator(cpu=True)
    hidden, other = parameter(4, 6), parameter(3)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0) if scaled else None
    inner = Muon([hidden], [other], SETTINGS)
    optimizer = AcceleratedOptimizer(inner, scaler=scaler)

    def step(factor):
        loss = (hidden.square().sum() + other.square().sum()) * factor
        (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.unscale_(inner)
        norm = torch.nn.utils.clip_grad_norm_([hidden, other], 1.0)
        taken = step_if_finite(optimizer, norm)
        optimizer.zero_grad()
        return taken

    def tensors():
        state = [value for entries in optimizer.state.values() for value in entries.values()]
        return [tensor.detach().clone() for tensor in (hidden, other, *state)]

    assert step(1.0)
    before = tensors()
    assert len(before) == 2 + 1 + 3 and not step(math.nan)
    assert all(map(torch.equal, tensors(), before))
    assert step(1.0) and not any(map(torch.equal, tensors(), before))
