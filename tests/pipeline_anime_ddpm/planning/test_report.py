"""`anime-ddpm plan`: the largest batch, the table, and what it refuses."""

import json
from pathlib import Path

import pytest
from plan_parts import TWO_LEVELS, settings

from pipeline_anime_ddpm.cli import main
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.planning.plan import DryRun, measured_peak_bytes, plan_step
from pipeline_anime_ddpm.planning.report import (
    build_dry_run,
    fake_model,
    read_size,
    report,
    run_plan,
)
from pipeline_anime_ddpm.training.config import parse_config

ARCHITECTURES = Path(__file__).parents[3] / "benchmarks" / "architectures"


def rows_of(text):
    """The table's rows, as lists of cells without the mark, and which of them are marked."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if "kept/image" in line) + 1
    table = [line for line in lines[start:] if line.startswith(("*", " "))][: lines[start:].index("")]
    return [line[1:].split() for line in table], [line.startswith("*") for line in table]


def test_table_has_all_ways_and_marks_the_chosen(folder, capsys):
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


@pytest.mark.slow
def test_patch_run_is_as_large_as_its_largest_side(folder):
    config = settings(folder, patch_sizes="8,16", train_batch_size=16)
    text = "\n".join(report(config, [("20MB", int(2e7))]))
    rows, marked = rows_of(text)
    assert [row[0] for row in rows] == ["8"] * 3 + ["16"] * 3 + ["32"] * 3, "the final phase sees full images"
    assert [row[2] for row in rows] == ["16"] * 6 + ["4"] * 3, "which are cut to the pixels of the largest patch"
    assert marked == [True, False, False] * 3
    widened = {**TWO_LEVELS, "in_channels": 5}
    dry_run = DryRun(widened)
    peaks = [dry_run.step(side, batch, 16).peak_bytes for side, batch in ((8, 16), (16, 16), (32, 4))]
    assert f"The run's peak is {max(peaks) / 1e6:.1f} MB" in text
    assert f"on all sides: {min(int(row[-1]) for row in rows[::3])} in 20MB" in text


def test_averages_on_the_host_take_no_memory_here(folder):
    count = plan_step(TWO_LEVELS, side=32, batch=1).parameters
    for flags, averages in (({"ema_sigma_rels": "0.05,0.10"}, 3), ({"offload_ema": ""}, 0), ({"no-use_ema": ""}, 0)):
        argv = ["--model_config_name_or_path", str(folder)]
        argv += [part for name, value in flags.items() for part in (f"--{name}", value) if part]
        config = parse_config(argv)
        assert build_dry_run(config, fake_model(config)[0], None).average_bytes == averages * 4 * count


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


def test_network_of_the_readme_has_its_parameters():
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
        (["--pretrained_model_name_or_path", "/nowhere"], "no readable config"),
        (["--patch_sizes", "12,32"], "cannot take a patch side of 12"),
        (["--memory", "much"], "such as 8GB"),
        (["--memory"], "give one or more"),
        (["--resolution", "33"], "multiples of"),
        (["--train_bach_size", "4"], "did you mean train_batch_size"),
    ],
)
def test_mistakes_are_refused(flags, sentence, capsys, monkeypatch):
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
