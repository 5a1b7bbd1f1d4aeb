"""The plan says what a step really costs: in memory, in kept activations, in arithmetic; and which batch fits."""

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from pipeline_anime_ddpm.cli import main
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.training.ema import WeightAverage, warmup_decay
from pipeline_anime_ddpm.training.errors import UserError
from pipeline_anime_ddpm.training.execution import fold_upsampling, recompute_activations
from pipeline_anime_ddpm.training.flags import parse_config
from pipeline_anime_ddpm.training.objective import StepBatch, diffusion_loss
from pipeline_anime_ddpm.training.optimizers import build_optimizer
from pipeline_anime_ddpm.training.plan import Rehearsal, measured_peak_bytes, plan_step
from pipeline_anime_ddpm.training.plan_report import (
    PeakCurve,
    build_rehearsal,
    fake_model,
    largest_batch,
    read_size,
    report,
    run_plan,
    step_shapes,
)
from schedulers import AnimeNoiseScheduler

ARCHITECTURES = Path(__file__).parents[3] / "benchmarks" / "architectures"
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
TWO_LEVELS = {
    "sample_size": 32,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D",) * 2,
    "up_block_types": ("UpBlock2D",) * 2,
    "add_attention": False,
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Steps this small are twenty times slower on two threads while anything else runs on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def real_step(config, side, batch, step_images=None, recomputation=None, fold=True):
    """A step as the recipe takes it, on real tensors; and the network and optimiser, which have taken one."""
    unet = UNet2DModel.from_config(config).train()
    if fold:
        fold_upsampling(unet)
    if recomputation:
        recompute_activations(unet, recomputation)
    optimizer, noise = build_optimizer(TrainingConfig(), unet), AnimeNoiseScheduler()
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


@pytest.mark.parametrize("recomputation", [None, "selective", "blocks"])
@pytest.mark.parametrize(
    ("config", "side", "batch", "step_images"),
    [
        (THREE_LEVELS, 32, 3, 8),
        (FOUR_LEVELS, 64, 3, None),
        (WIDE, 8, 2, 4),
    ],
)
def test_a_real_step_peaks_where_planned(config, side, batch, step_images, recomputation):
    step, *_ = real_step(config, side, batch, step_images, recomputation)
    planned = plan_step(config, side=side, batch=batch, step_images=step_images, recomputation=recomputation)
    assert planned.peak_bytes == pytest.approx(measured_peak_bytes(step), rel=0.02)


@pytest.mark.parametrize("recomputation", [None, "selective", "blocks"])
def test_each_image_adds_to_a_real_peak_what_is_planned(recomputation):
    planned = [plan_step(THREE_LEVELS, side=32, batch=n, recomputation=recomputation).peak_bytes for n in (3, 10)]
    measured = [measured_peak_bytes(real_step(THREE_LEVELS, 32, n, None, recomputation)[0]) for n in (3, 10)]
    assert planned == pytest.approx(measured, rel=0.02)
    assert planned[1] - planned[0] == pytest.approx(measured[1] - measured[0], rel=0.002)


def test_stock_upsampling_costs_what_is_planned():
    step, *_ = real_step(THREE_LEVELS, 32, 10, fold=False)
    planned = plan_step(THREE_LEVELS, side=32, batch=10, fold_upsampling=False)
    assert planned.peak_bytes == pytest.approx(measured_peak_bytes(step), rel=0.02)
    assert planned.peak_bytes > plan_step(THREE_LEVELS, side=32, batch=10).peak_bytes


def test_the_measured_peak_counts_what_lives_at_one_time_and_what_was_there():
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
def test_what_a_pass_keeps_is_what_cuda_would_keep(precision, dtype, fold, channels_last, recomputation):
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
    assert plan_step(THREE_LEVELS, side=32, batch=2).flops % 2 == 0
    attention = [plan_step(THREE_LEVELS, side=side, batch=1).flops / side**2 for side in (32, 64)]
    assert attention[1] > attention[0] * 1.001, "it grows with the square of the pixels"


def test_what_is_there_whatever_the_batch():
    _, unet, optimizer = real_step(THREE_LEVELS, 8, 2)
    count = unet.num_parameters()
    cost = plan_step(THREE_LEVELS, side=8, batch=2, averages=3)
    assert cost.parameters == count
    assert cost.weight_bytes == cost.gradient_bytes == 4 * count
    assert cost.average_bytes == 3 * 4 * count
    state = [tensor for values in optimizer.state.values() for tensor in values.values()]
    assert cost.optimizer_bytes == sum(tensor.nbytes for tensor in state)
    without = plan_step(THREE_LEVELS, side=8, batch=2, averages=0)
    assert cost.peak_bytes - without.peak_bytes == cost.average_bytes


def test_8_bit_adam_takes_what_its_documentation_says():
    sizes = [p.numel() for p in UNet2DModel.from_config(THREE_LEVELS).parameters()]
    large, small = sum(n for n in sizes if n >= 4096), sum(n for n in sizes if n < 4096)
    cost = plan_step(THREE_LEVELS, side=8, batch=2, optimizer="adamw8bit")
    assert cost.optimizer_bytes == pytest.approx(2 * large * (1 + 4 / 256) + 8 * small, rel=1e-3)


def test_planning_twice_gives_the_same_and_leaves_nothing():
    rehearsal = Rehearsal(THREE_LEVELS, precision="fp16", recomputation="blocks")
    first = rehearsal.step(32, 4, 9)
    rehearsal.step(16, 2)
    assert rehearsal.step(32, 4, 9) == first
    assert rehearsal._meter.in_use == rehearsal.resident_bytes


@pytest.mark.parametrize("wrong", [{"precision": "fp8"}, {"optimizer": "sgd"}, {"recomputation": "all"}, {"batch": 0}])
def test_a_plan_of_nothing_known_is_refused(wrong):
    with pytest.raises(ValueError, match=r"is not known|give 1 or more"):
        plan_step(THREE_LEVELS, **{"side": 8, "batch": 1, **wrong})


# --- the largest batch ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """The config of a network, in a folder."""
    UNet2DModel.from_config(TWO_LEVELS).save_config(tmp_path / "network")
    return tmp_path / "network"


def settings(folder, **flags):
    values = {"model_config_name_or_path": str(folder), "resolution": 32, "train_batch_size": 8, **flags}
    return parse_config([part for name, value in values.items() for part in (f"--{name}", str(value))])


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"gradient_accumulation_steps": 2, "mixed_precision": "fp16"},
        {"patch_sizes": "8,16,32", "gradient_checkpointing": "selective"},
        {"patch_sizes": "8,32", "patch_mode": "constant_pixels"},
    ],
)
def test_the_largest_batch_fits_and_one_more_does_not(folder, flags):
    config = settings(folder, **flags)
    unet, patches = fake_model(config)
    rehearsal = build_rehearsal(config, unet, config.gradient_checkpointing)
    for shape in step_shapes(config, unet, patches):

        def peak(batch, shape=shape):
            count, most = shape.images(batch)
            return rehearsal.step(shape.side, most, count).peak_bytes

        memory = peak(11) + 1000
        batch = largest_batch(shape, PeakCurve(rehearsal, shape.side).peak, memory)
        assert batch >= 11
        assert peak(batch) <= memory < peak(batch + 1)


def test_single_images_are_measured(folder, monkeypatch):
    config = settings(folder)
    unet, _ = fake_model(config)
    rehearsal = build_rehearsal(config, unet, None)
    (shape,) = step_shapes(config, unet, None)
    one = rehearsal.step(32, 1).peak_bytes
    peak = PeakCurve(rehearsal, 32).peak
    assert largest_batch(shape, peak, one) == 1
    assert largest_batch(shape, peak, one - 1) == 0
    stock = rehearsal.one_pass

    def larger(side, images, accumulating=False):  # as tensors can be that need no copy, or one more, if there is one
        cost = stock(side, images, accumulating)
        return dataclasses.replace(cost, course=cost.course + 1_000_000 * (images == 1))

    monkeypatch.setattr(rehearsal, "one_pass", larger)
    assert PeakCurve(rehearsal, 32).peak(1, 1) == rehearsal.step(32, 1).peak_bytes == one + 1_000_000


def test_a_curve_that_does_not_hold_is_measured_instead(folder, monkeypatch):
    config = settings(folder)
    unet, _ = fake_model(config)
    rehearsal = build_rehearsal(config, unet, None)
    stock = rehearsal.one_pass

    def bent(side, images, accumulating=False):
        cost = stock(side, images, accumulating)
        return dataclasses.replace(cost, course=cost.course + 1_000_000 * max(0, images - 4))

    monkeypatch.setattr(rehearsal, "one_pass", bent)
    curve = PeakCurve(rehearsal, 32)
    curve.verify(4)
    assert not curve.measured
    curve.verify(9)
    assert curve.measured
    assert curve.peak(7, 7) == rehearsal.step(32, 7).peak_bytes


# --- the command ----------------------------------------------------------------------------------------------------


def rows_of(text):
    """The table's rows, as lists of cells without the mark, and which of them are marked."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if "kept/image" in line) + 1
    table = [line for line in lines[start:] if line.startswith(("*", " "))][: lines[start:].index("")]
    return [line[1:].split() for line in table], [line.startswith("*") for line in table]


def test_the_table_has_all_ways_and_marks_the_chosen(folder, capsys):
    main([
        "plan", "--model_config_name_or_path", str(folder), "--resolution", "32", "--memory", "0.1MB", "1GB",
        "--train_batch_size", "4", "--mixed_precision", "fp16", "--gradient_checkpointing", "--random_flip",
    ])  # fmt: skip
    output = capsys.readouterr().out
    rows, marked = rows_of(output)
    assert [row[:3] for row in rows] == [["32", name, "4"] for name in ("kept", "selective", "blocks")]
    assert marked == [False, True, False]
    assert [row[-2] for row in rows] == ["none"] * 3
    kept, selective, _ = (int(row[-1]) for row in rows)
    assert 4 < kept < selective
    cost = plan_step(TWO_LEVELS, side=32, batch=4, precision="fp16")
    assert f"{cost.parameters / 1e6:.2f} M parameters" in output
    assert f"{cost.peak_bytes / 1e6:.1f} MB" in output
    assert f"{cost.flops / 4e9:,.1f}" in output
    assert all(len(line) <= 120 for line in output.splitlines())


def test_a_patch_run_is_as_large_as_its_largest_side(folder):
    config = settings(folder, patch_sizes="8,16", train_batch_size=16)
    text = "\n".join(report(config, [("20MB", int(2e7))]))
    rows, marked = rows_of(text)
    assert [row[0] for row in rows] == ["8"] * 3 + ["16"] * 3 + ["32"] * 3, "the final phase sees full images"
    assert [row[2] for row in rows] == ["16"] * 6 + ["4"] * 3, "which are cut to the pixels of the largest patch"
    assert marked == [True, False, False] * 3
    widened = {**TWO_LEVELS, "in_channels": 5}
    peaks = [
        plan_step(widened, side=side, batch=batch, step_images=16).peak_bytes
        for side, batch in ((8, 16), (16, 16), (32, 4))
    ]
    assert f"The run's peak is {max(peaks) / 1e6:.1f} MB" in text
    assert f"on all sides: {min(int(row[-1]) for row in rows[::3])} in 20MB" in text


def test_averages_on_the_host_take_no_memory_here(folder):
    count = plan_step(TWO_LEVELS, side=32, batch=1).parameters
    for flags, averages in (({"ema_sigma_rels": "0.05,0.10"}, 3), ({"offload_ema": ""}, 0), ({"no-use_ema": ""}, 0)):
        argv = ["--model_config_name_or_path", str(folder)]
        argv += [part for name, value in flags.items() for part in (f"--{name}", value) if part]
        config = parse_config(argv)
        assert build_rehearsal(config, fake_model(config)[0], None).average_bytes == averages * 4 * count


def test_no_weights_are_allocated(tmp_path):
    config = {
        "sample_size": 16,
        "block_out_channels": (256, 512),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
    }
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **config}))
    flags = ["--model_config_name_or_path", str(tmp_path), "--resolution", "16", "--memory", "8GB"]
    before = measured_peak_bytes(lambda: None)
    weights = plan_step(config, side=16, batch=1).weight_bytes
    assert weights > 100e6
    assert measured_peak_bytes(lambda: run_plan(flags)) - before < weights / 20


def test_of_a_pretrained_model_only_the_config_is_read(folder, tmp_path, capsys):
    pipeline = tmp_path / "pipeline"
    (pipeline / "unet").mkdir(parents=True)
    (pipeline / "unet" / "config.json").write_text((folder / "config.json").read_text())
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "X"]}
    (pipeline / "model_index.json").write_text(json.dumps(index))
    outputs = []
    for name in (folder, pipeline):
        main(["plan", "--pretrained_model_name_or_path", str(name), "--train_batch_size", "2"])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert "32 x 32" in outputs[0]


def test_the_network_of_the_readme_has_its_parameters():
    config = parse_config(["--model_config_name_or_path", str(ARCHITECTURES / "ddpm-celebahq-256")])
    unet, _ = fake_model(config)
    assert round(unet.num_parameters() / 1e6, 2) == 113.67


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8_000_000_000), ("24GiB", 24 * 2**30), ("900 mb", 900_000_000), ("1.5gib", 3 * 2**29)]
)
def test_memory_sizes_are_read(text, size):
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["8", "GB", "8GBs", "-8GB", "0GB", "eight"])
def test_memory_sizes_that_are_none_are_refused(text):
    with pytest.raises(UserError, match="such as 8GB"):
        read_size(text)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model_config_name_or_path", "nowhere/at-all"], "neither a size"),
        (["--pretrained_model_name_or_path", "/nowhere"], "no config that can be read"),
        (["--patch_sizes", "12,32"], "cannot take a patch side of 12"),
        (["--memory", "much"], "such as 8GB"),
        (["--memory"], "give one or more"),
        (["--resolution", "33"], "multiples of"),
        (["--train_bach_size", "4"], "did you mean train_batch_size"),
    ],
)
def test_mistakes_are_one_sentence(flags, sentence, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *flags])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert sentence in error
    assert error.count("error: ") == 1
    assert error.strip().splitlines()[-1].startswith("error: ")  # a library may warn before


def test_help_says_how_to_use_it(capsys):
    main(["plan", "--help"])
    assert "--memory" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "plan" in capsys.readouterr().out
