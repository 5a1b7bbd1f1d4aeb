"""Crops by noise level in whole runs of the recipe."""

import shutil
import subprocess
import sys

import pytest
import torch
from recipe_runs import ROOT, assert_same_bits, environment, final_state, flags
from safetensors.torch import load_file

from pipeline_anime_ddpm import AnimeDDPMPipeline

GATED = {
    "patch_method": "noise_gated",
    "patch_sizes": "8",
    "max_train_steps": 6,
    "checkpointing_steps": 3,
    "save_images_epochs": 100,
    "checkpoints_total_limit": "none",
}


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the inputs of each network call in training, by step."""
    import train_anime_ddpm as recipe

    steps, original = [], recipe.train_step

    def train_step(run, data):
        steps.append([])
        hook = run.unet.register_forward_pre_hook(lambda _, inputs: steps[-1].append(tuple(inputs[0].shape)))
        result = original(run, data)
        hook.remove()
        return result

    monkeypatch.setattr(recipe, "train_step", train_step)
    return steps


def test_each_step_is_two_network_calls_of_fixed_shapes(work, in_process, tmp_path, calls, capsys):
    in_process(*flags(work, tmp_path / "run", **GATED))
    assert calls == [[(3, 3, 16, 16), (1, 3, 8, 8)]] * 6
    assert "images with log sigma above -0.5 are full images" in capsys.readouterr().out
    assert AnimeDDPMPipeline.from_pretrained(tmp_path / "run").unet.config.in_channels == 3


def test_micro_batches_are_two_calls_each_and_coordinates_can_be_added(work, in_process, tmp_path, calls):
    more = {"gradient_accumulation_steps": 2, "patch_coordinates": True, "max_train_steps": 2}
    in_process(*flags(work, tmp_path / "run", **GATED | more))
    assert calls == [[(3, 5, 16, 16), (2, 5, 16, 16), (2, 5, 8, 8), (1, 5, 8, 8)]] * 2


@pytest.mark.parametrize("streaming", [False, True])
def test_run_resumes_bit_exact(work, in_process, tmp_path, streaming):
    settings = GATED | ({"streaming": True, "noise_candidates": 2} if streaming else {"ema_sigma_rels": "0.1"})
    in_process(*flags(work, tmp_path / "whole", **settings))
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "again" / "checkpoint-3")
    shutil.copy(tmp_path / "whole" / "training_config.yaml", tmp_path / "again")
    in_process(*flags(work, tmp_path / "again", **settings))
    assert_same_bits(final_state(tmp_path / "whole"), final_state(tmp_path / "again"))


def test_accumulation_checkpointing_and_folding_change_nothing_but_rounding(work, in_process, tmp_path, tiny_unet):
    tiny_unet().save_config(tmp_path / "plain")
    ways = {
        "big": {"train_batch_size": 6},
        "small": {"train_batch_size": 2, "gradient_accumulation_steps": 3},
        "lean": {"train_batch_size": 6, "gradient_checkpointing": "blocks", "no-fold_upsampling": True},
    }
    results = []
    for name, way in ways.items():
        settings = {"model_config_name_or_path": tmp_path / "plain", "max_train_steps": 3, **way}
        in_process(*flags(work, tmp_path / name, **GATED | settings))
        results.append(load_file(tmp_path / name / "checkpoint-3" / "unet.safetensors"))
    for other in results[1:]:
        for name, tensor in results[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-5)


def test_folded_pixels_are_cropped_too(work, in_process, tmp_path, calls):
    more = {"model_config_name_or_path": "tiny", "resolution": 64, "space_to_depth": 2, "patch_sizes": 32}
    in_process(*flags(work, tmp_path / "run", **GATED | more | {"max_train_steps": 1}))
    assert calls == [[(3, 12, 32, 32), (1, 12, 16, 16)]]


@pytest.mark.slow
def test_two_ranks_end_with_the_weights_of_one(work, in_process, tmp_path, tiny_unet):
    tiny_unet(add_attention=False).save_config(tmp_path / "plain")
    settings = GATED | {"model_config_name_or_path": tmp_path / "plain", "train_batch_size": 8}
    in_process(*flags(work, tmp_path / "one", **settings))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    arguments = flags(work, tmp_path / "two", **settings | {"train_batch_size": 4})
    done = subprocess.run(
        [*launch, str(ROOT / "train_anime_ddpm.py"), *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(tmp_path / name / "checkpoint-6" / "unet.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"patch_sizes": None}, "--patch_method does nothing without --patch_sizes"),
        ({"patch_sizes": "8,16"}, "noise_gated takes one --patch_sizes, not 8,16"),
        ({"patch_sizes": "16"}, "--patch_sizes: crops of 16 pixels are as large as the images"),
        ({"patch_sizes": "7"}, "--patch_sizes: This UNet cannot take a patch side of 7 pixels"),
        ({"patch_log_sigma": 12}, "--patch_log_sigma: log sigma 12 is outside the noise table, which goes from"),
        ({"patch_probs": "1"}, "--patch_probs belongs to --patch_method whole_step"),
        ({"patch_full_image_fraction": 0.2}, "--patch_full_image_fraction belongs to --patch_method whole_step"),
        ({"patch_method": "whole_step", "patch_log_sigma": 0}, "--patch_log_sigma belongs to --patch_method noise_gat"),
        ({"patch_method": "some"}, "choose one of whole_step, noise_gated"),
        ({"train_batch_size": 1}, "splits each step, which has 1 image; give 2 or more"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_written(work, in_process, tmp_path, capsys, settings, says):
    given = {name: value for name, value in (GATED | settings).items() if value is not None}
    with pytest.raises(SystemExit):
        in_process(*flags(work, tmp_path / "run", **given))
    error = capsys.readouterr().err
    assert says in error and error.count("error:") == 1 and "Traceback" not in error
    assert not (tmp_path / "run").exists()
