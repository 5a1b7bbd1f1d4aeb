"""The plan of a step with crops by noise level is what a real step takes."""

import re

import pytest
import torch
from diffusers import UNet2DModel
from torch.utils.flop_counter import FlopCounterMode

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.planning.gated import GatedPeak, gated_rows
from pipeline_anime_ddpm.planning.plan import measured_peak_bytes
from pipeline_anime_ddpm.planning.report import build_dry_run, fake_model, report
from pipeline_anime_ddpm.runs.averages import WeightAverage, warmup_decay
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.config import parse_config
from pipeline_anime_ddpm.training.execution import fold_upsampling
from pipeline_anime_ddpm.training.objective import StepBatch, diffusion_loss
from pipeline_anime_ddpm.training.optimizers import build_optimizer

NETWORK = {  # without attention, whose operations PyTorch does not count on a CPU
    "sample_size": 32,
    "block_out_channels": (16, 32, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "add_attention": False,
}


@pytest.fixture
def planned(tmp_path):
    """A factory of configs, with the fake network and crops of each."""
    UNet2DModel.from_config(NETWORK).save_config(tmp_path / "network")

    def make(**flags):
        values = {"model_config_name_or_path": tmp_path / "network", "resolution": 32, "train_batch_size": 12}
        values |= {"patch_method": "noise_gated", "patch_sizes": 16} | flags
        arguments = [f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items()]
        config = parse_config(arguments)
        return config, *fake_model(config)

    return make


def real_step(config, crops):
    """The passes of a real step on real tensors, with an optimiser and an average that have taken one."""
    unet = UNet2DModel.from_config(NETWORK | {"in_channels": 5 if crops.takes_coordinates else 3}).train()
    fold_upsampling(unet)
    optimizer, noise = build_optimizer(config, unet), AnimeNoiseScheduler()
    average = WeightAverage(unet.parameters(), warmup_decay())
    counts = crops.step_counts(config.train_batch_size, config.gradient_accumulation_steps)

    def group(side, count):
        shape = (count, 3, side, side)
        coordinates = torch.randn(count, 2, side, side) if crops.takes_coordinates else None
        drawn = StepBatch(torch.randn(shape), torch.randn(shape), torch.randint(1000, (count,)), coordinates)
        drawn.weights = torch.ones(count)
        drawn.pixel_weights = torch.ones(count, 1, side, side) if side < 32 else None
        return drawn

    def step():
        groups = [group(side, count) for side, (count, _) in zip((32, crops.side), counts, strict=True)]
        for drawn, (_, most) in zip(groups, counts, strict=True):
            for part in drawn.split(most):
                loss, _ = diffusion_loss(unet, noise, part)
                loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(unet.parameters())

    step()
    return step


@pytest.mark.parametrize("flags", [{}, {"gradient_accumulation_steps": 3, "patch_coordinates": True}])
def test_real_step_peaks_and_computes_as_planned(planned, flags):
    config, unet, crops = planned(**flags)
    dry_run = build_dry_run(config, unet, None)
    others = measured_peak_bytes(lambda: None)
    step = real_step(config, crops)
    measured = measured_peak_bytes(step) - others
    full, cropped = gated_rows(config, dry_run, crops, "kept", [])
    assert full.peak_bytes == cropped.peak_bytes == pytest.approx(measured, rel=0.04)
    with FlopCounterMode(display=False) as counter:
        step()
    (num_full, _), (num_crops, _) = crops.step_counts(12, config.gradient_accumulation_steps)
    assert num_full * full.flops + num_crops * cropped.flops == counter.get_total_flops()


def test_largest_batch_fits_and_one_more_does_not(planned):
    config, unet, crops = planned()
    dry_run = build_dry_run(config, unet, None)
    peak = GatedPeak(dry_run, crops, 1).peak
    full, _ = gated_rows(config, dry_run, crops, "kept", [("some", peak(20) + 1000), ("little", 1000)])
    batch, none = full.largest
    assert batch >= 20 and none == 0
    assert peak(batch) <= peak(20) + 1000 < peak(batch + 1)


def test_report_describes_the_step(planned):
    config, *_ = planned()
    lines = list(report(config, []))
    (step,) = [line for line in lines if line.startswith("A step is 8 full images and 4 crops")]
    assert re.search(r"0\.7\d times those of 12 full images\. Its peak is [\d.]+ MB\.", step)
    assert sum(line.startswith("*") for line in lines) == 2
    assert "12 images a step." in "\n".join(lines)


def test_bound_outside_the_table_is_refused_by_the_plan_too(planned):
    with pytest.raises(UserError, match="--patch_log_sigma: log sigma 50 is outside the noise table"):
        planned(patch_log_sigma=50)


def test_noise_of_a_pretrained_model_decides_the_split(planned, tmp_path):
    from pipeline_anime_ddpm import AnimeDDPMPipeline

    _, _, crops = planned()
    scheduler = AnimeNoiseScheduler(beta_schedule="linear")
    AnimeDDPMPipeline(UNet2DModel.from_config(NETWORK), scheduler).save_pretrained(tmp_path / "model")
    flags = [f"--pretrained_model_name_or_path={tmp_path / 'model'}", "--patch_method=noise_gated", "--patch_sizes=16"]
    _, other = fake_model(parse_config(flags))
    assert crops.split.share == pytest.approx(0.341)
    assert 0.1 < other.split.share < 0.25
