"""The plan says what a step really costs: in memory, in kept activations and in arithmetic."""

import contextlib
import gc

import pytest
import torch
from diffusers import UNet2DModel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from pipeline_anime_ddpm.planning.plan import DryRun, measured_peak_bytes, plan_step
from pipeline_anime_ddpm.runs.averages import WeightAverage, warmup_decay
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.training.execution import fold_upsampling, recompute_activations
from pipeline_anime_ddpm.training.objective import StepBatch, diffusion_loss
from pipeline_anime_ddpm.training.optimizers import build_optimizer

THREE_LEVELS = {
    "sample_size": 32,
    "block_out_channels": (16, 32, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "attention_head_dim": 16,
}
FOUR_LEVELS = {
    **THREE_LEVELS,
    "sample_size": 64,
    "block_out_channels": (16, 32, 32, 64),
    "down_block_types": ("DownBlock2D", *THREE_LEVELS["down_block_types"]),
    "up_block_types": (*THREE_LEVELS["up_block_types"], "UpBlock2D"),
}
WIDE = {**THREE_LEVELS, "block_out_channels": (64, 128, 256), "in_channels": 5}  # weights outweigh small patches
WITHOUT_ATTENTION = {
    **THREE_LEVELS,
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "add_attention": False,
}


@pytest.fixture(autouse=True, scope="module")
def only_new_objects():
    """Each measurement goes through all objects of the process: leave out what was there before these tests."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def real_step(config, side, batch, step_images=None, recomputation=None, fold=True, optimizer="adamw"):
    """A step as the recipe takes it, on real tensors; and the network and optimiser, which have taken one."""
    unet = UNet2DModel.from_config(config).train()
    if fold:
        fold_upsampling(unet)
    if recomputation:
        recompute_activations(unet, recomputation)
    optimizer, noise = build_optimizer(TrainingConfig(optimizer=optimizer), unet), AnimeNoiseScheduler()
    average = WeightAverage(unet.parameters(), warmup_decay())
    count = step_images or batch

    def step():
        shape = (count, 3, side, side)
        coordinates = torch.randn(count, 2, side, side) if unet.config.in_channels == 5 else None
        drawn = StepBatch(torch.randn(shape), torch.randn(shape), torch.randint(1000, (count,)), coordinates)
        for part in drawn.split(batch):
            loss, _ = diffusion_loss(unet, noise, part)
            (loss * (len(part) / count)).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(unet.parameters())

    step()
    return step, unet, optimizer


def real_peak(*arguments, **options):
    """What `real_step` takes at most, without the tensors that other tests have left behind."""
    others = measured_peak_bytes(lambda: None)
    step, *_ = real_step(*arguments, **options)
    return measured_peak_bytes(step) - others


@pytest.mark.parametrize("recomputation", [None, "selective", "blocks"])
@pytest.mark.parametrize(
    ("config", "side", "batch", "step_images"),
    [
        (THREE_LEVELS, 32, 3, 8),
        (FOUR_LEVELS, 64, 3, None),
        (WIDE, 8, 2, 4),
    ],
)
def test_real_step_peaks_where_planned(config, side, batch, step_images, recomputation):
    planned = plan_step(config, side=side, batch=batch, step_images=step_images, recomputation=recomputation)
    # some CPUs choose convolutions that need 4 % more beside their tensors
    assert planned.peak_bytes == pytest.approx(real_peak(config, side, batch, step_images, recomputation), rel=0.05)


@pytest.mark.parametrize("recomputation", [None, "selective", "blocks"])
def test_each_image_adds_to_a_real_peak_what_is_planned(recomputation):
    dry_run = DryRun(THREE_LEVELS, recomputation=recomputation)
    planned = [dry_run.step(32, n).peak_bytes for n in (3, 10)]
    measured = [real_peak(THREE_LEVELS, 32, n, None, recomputation) for n in (3, 10)]
    assert planned == pytest.approx(measured, rel=0.04)
    assert planned[1] - planned[0] == pytest.approx(measured[1] - measured[0], rel=0.002)


def test_stock_upsampling_costs_what_is_planned():
    planned = plan_step(THREE_LEVELS, side=32, batch=10, fold_upsampling=False)
    assert planned.peak_bytes == pytest.approx(real_peak(THREE_LEVELS, 32, 10, fold=False), rel=0.04)
    assert planned.peak_bytes > plan_step(THREE_LEVELS, side=32, batch=10).peak_bytes


def test_measured_peak_counts_what_lives_at_one_time_and_what_was_there():
    there = torch.zeros(1_000_000)

    def step():
        for _ in range(3):
            inside = torch.zeros(500_000)
            del inside
        return torch.zeros(250_000)

    with_it = measured_peak_bytes(step)
    del there
    assert with_it - measured_peak_bytes(step) == pytest.approx(4e6, rel=1e-3)
    assert measured_peak_bytes(step) - measured_peak_bytes(lambda: None) == pytest.approx(2e6, rel=1e-3)


def saved_on_fake_cuda(config, side, batch, dtype, recomputation, fold, channels_last):
    """Bytes kept by a forward pass under CUDA's own autocast, on fake tensors of a CUDA device."""
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"), contextlib.ExitStack() as stack:
        unet = UNet2DModel.from_config(config).train()
        for module in unet.modules() if channels_last else ():
            if isinstance(module, torch.nn.Conv2d):
                module.weight = torch.nn.Parameter(module.weight.detach().to(memory_format=torch.channels_last))
        if fold:
            fold_upsampling(unet)
        if recomputation:
            recompute_activations(unet, recomputation)
        weights = {p.untyped_storage()._cdata for p in unet.parameters()}
        x, timesteps = torch.empty(batch, 3, side, side), torch.empty(batch, dtype=torch.int64)
        if dtype is not None:
            torch.set_autocast_enabled("cuda", True)
            torch.set_autocast_dtype("cuda", dtype)
            torch.autocast_increment_nesting()
            stack.callback(torch.clear_autocast_cache)
            stack.callback(torch.autocast_decrement_nesting)
            stack.callback(torch.set_autocast_enabled, "cuda", False)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = unet(x, timesteps).sample
        assert output.requires_grad
        return sum(kept.values())


@pytest.mark.parametrize("recomputation", [None, "selective", "blocks"])
@pytest.mark.parametrize(
    ("precision", "dtype", "fold", "channels_last"),
    [("no", None, True, False), ("fp16", torch.float16, True, True), ("bf16", torch.bfloat16, False, False)],
)
def test_planned_activations_equal_those_on_cuda(precision, dtype, fold, channels_last, recomputation):
    config = WITHOUT_ATTENTION  # PyTorch without CUDA does not choose CUDA's attention kernels
    planned = plan_step(
        config, side=32, batch=4, precision=precision, recomputation=recomputation, fold_upsampling=fold,
        channels_last=channels_last,
    )  # fmt: skip
    on_cuda = saved_on_fake_cuda(config, 32, 4, dtype, recomputation, fold, channels_last)
    image, loss_weight = 3 * 32 * 32 * 4, 4
    loss_keeps = 4 * (2 * image + loss_weight)  # prediction, target, weight
    assert planned.saved_activation_bytes == on_cuda + loss_keeps


@pytest.mark.parametrize("recomputation", [None, "blocks"])
def test_operations_are_those_of_a_real_step(recomputation):
    config = WITHOUT_ATTENTION  # whose operations PyTorch does not count on a CPU
    step, *_ = real_step(config, 32, 3, 6, recomputation)
    with FlopCounterMode(display=False) as counter:
        step()
    planned = plan_step(config, side=32, batch=3, step_images=6, recomputation=recomputation)
    assert planned.flops == counter.get_total_flops()


def test_attention_is_counted():
    dry_run = DryRun(THREE_LEVELS)
    assert dry_run.step(32, 2).flops % 2 == 0
    attention = [dry_run.step(side, 1).flops / side**2 for side in (32, 64)]
    assert attention[1] > attention[0] * 1.001, "it grows with the square of the pixels"


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_existing_images_are_reused_at_any_batch_size(name):
    _, unet, optimizer = real_step(THREE_LEVELS, 8, 2, optimizer=name)
    count = unet.num_parameters()
    cost = plan_step(THREE_LEVELS, side=8, batch=2, averages=3, optimizer=name)
    assert cost.parameters == count
    assert cost.weight_bytes == cost.gradient_bytes == 4 * count
    assert cost.average_bytes == 3 * 4 * count
    state = [tensor for values in optimizer.state.values() for tensor in values.values()]
    assert cost.optimizer_bytes == sum(tensor.nbytes for tensor in state)
    assert (cost.optimizer_bytes < 6 * count) == (name == "muon"), "one momentum instead of two moments"
    without = plan_step(THREE_LEVELS, side=8, batch=2, averages=0, optimizer=name)
    assert cost.peak_bytes - without.peak_bytes == cost.average_bytes


def test_8_bit_adam_takes_what_its_documentation_says():
    sizes = [p.numel() for p in UNet2DModel.from_config(THREE_LEVELS).parameters()]
    large, small = sum(n for n in sizes if n >= 4096), sum(n for n in sizes if n < 4096)
    cost = plan_step(THREE_LEVELS, side=8, batch=2, optimizer="adamw8bit")
    assert cost.optimizer_bytes == pytest.approx(2 * large * (1 + 4 / 256) + 8 * small, rel=1e-3)


def test_planning_twice_gives_the_same_and_leaves_nothing():
    dry_run = DryRun(THREE_LEVELS, precision="fp16", recomputation="blocks")
    first = dry_run.step(32, 4, 9)
    dry_run.step(16, 2)
    assert dry_run.step(32, 4, 9) == first
    assert dry_run._meter.in_use == dry_run.resident_bytes


@pytest.mark.parametrize("wrong", [{"precision": "fp8"}, {"optimizer": "sgd"}, {"recomputation": "all"}, {"batch": 0}])
def test_plan_of_nothing_known_is_refused(wrong):
    with pytest.raises(ValueError, match=r"is not known|give 1 or more"):
        plan_step(THREE_LEVELS, **{"side": 8, "batch": 1, **wrong})
