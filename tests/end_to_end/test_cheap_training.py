"""Patches, lean memory, speed and averages in whole runs of the recipe: the same training, for less."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from packaging.version import parse
from recipe_runs import ROOT, assert_same_bits, environment, final_state, flags, run
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.data import Batch
from pipeline_anime_ddpm.runs.averages import WeightAverage, power_decay
from pipeline_anime_ddpm.runs.numerics import Numerics, with_nan_gradient
from pipeline_anime_ddpm.runs.snapshots import list_snapshots
from pipeline_anime_ddpm.runs.tracking import LossMeter
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.execution import fold_upsampling, recompute_activations
from pipeline_anime_ddpm.training.objective import diffusion_loss, draw_step
from pipeline_anime_ddpm.training.patches import PatchTrainingAdapter

PATCHES = {
    "patch_sizes": "8,12,16",
    "patch_probs": "0.6,0.2,0.2",
    "patch_probs_end": "0.1,0.2,0.7",
    "patch_full_image_fraction": 0.2,
    "max_train_steps": 20,
    "checkpointing_steps": 7,
    "checkpoints_total_limit": "none",
}


@pytest.fixture(scope="module")
def patched(work):
    """A run on patches, whose sides change with progress, with power-function averages."""
    output = work / "patched"
    done = run(*flags(work, output, **PATCHES, ema_sigma_rels="0.05,0.10", ema_snapshot_images=24))
    return output, done


@pytest.mark.slow
def test_patch_run_says_what_it_does_and_leaves_a_normal_pipeline(patched):
    folder, done = patched
    assert "60% on 8 pixels (at last 10%)" in done.stdout and "the last 20% on full images" in done.stdout
    for pipeline in (
        AnimeDDPMPipeline.from_pretrained(folder),
        DiffusionPipeline.from_pretrained(folder, trust_remote_code=True),
    ):
        assert pipeline.unet.config.in_channels == 5
        assert pipeline(num_inference_steps=2).images[0].size == (16, 16)


def test_sampling_a_patch_model_is_one_forward_pass_of_the_whole_image_a_step(patched):
    pipeline = AnimeDDPMPipeline.from_pretrained(patched[0])
    shapes = []
    pipeline.unet.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    pipeline(batch_size=2, num_inference_steps=3)
    assert shapes == [(2, 5, 16, 16)] * 3


def test_patch_run_resumes_bit_exact(work, patched, in_process):
    """Sides, places and averages go on as if nothing had happened; snapshots of lost steps are made again."""
    output = work / "patched_again"
    shutil.copytree(patched[0] / "checkpoint-7", output / "checkpoint-7")
    shutil.copy(patched[0] / "training_config.yaml", output)
    shutil.copytree(patched[0] / "ema", output / "ema")
    in_process(*flags(work, output, **PATCHES, ema_sigma_rels="0.05,0.10", ema_snapshot_images=24))
    assert_same_bits(final_state(patched[0]), final_state(output))
    before, after = (sorted((folder / "ema").iterdir()) for folder in (patched[0], output))
    assert [p.name for p in before] == [p.name for p in after] and len(list_snapshots(output)) == 2 * 4
    for first, second in zip(before, after, strict=True):
        assert_same_bits(load_file(first), load_file(second))


@pytest.mark.slow
def test_all_ranks_draw_the_same_side_and_different_places(work, tmp_path):
    program = tmp_path / "ranks.py"
    program.write_text(f"""
import json, os, sys
sys.path.insert(0, {str(ROOT)!r})
import train_anime_ddpm as recipe
seen, original = [], recipe.step_parts
def noting(run, images, side=None):
    parts = original(run, images, side)
    seen.append([parts[0].clean.shape[-1], [xy for p in parts for xy in p.coordinates[:, :, 0, 0].tolist()]])
    return parts
recipe.step_parts = noting
recipe.main()
open({str(tmp_path)!r} + "/" + os.environ["RANK"], "w").write(json.dumps(seen))
""")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(program)]
    arguments = flags(work, tmp_path / "run", **PATCHES, train_batch_size=2)
    done = subprocess.run([*launch, *arguments], env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / rank).read_text()) for rank in "01")
    assert [side for side, _ in first] == [side for side, _ in second]
    assert {side for side, _ in first} == {8, 12, 16}
    assert all(a != b for (side, a), (_, b) in zip(first, second, strict=True) if side < 16)


@pytest.mark.parametrize("patches", [{}, PATCHES])
def test_accumulation_gives_the_weights_of_the_big_batch(work, in_process, tmp_path, tiny_unet, patches):
    tiny_unet().save_config(tmp_path / "plain")  # dropout would differ between one big batch and two small ones
    results = []
    for name, batch, accumulation in (("big", 6, 1), ("small", 2, 3)):
        settings = {
            "model_config_name_or_path": tmp_path / "plain",
            "train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
            "max_train_steps": 5,
            "checkpointing_steps": 5,
        }
        in_process(*flags(work, tmp_path / name, **{**patches, **settings}))
        results.append(load_file(tmp_path / name / "checkpoint-5" / "unet.safetensors"))
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=0, atol=1e-6)


def test_flags_for_memory_and_speed_change_nothing_but_rounding(work, in_process, tmp_path, tiny_unet):
    tiny_unet().save_config(tmp_path / "net")  # dropout would follow the order in memory
    settings = {"model_config_name_or_path": tmp_path / "net", "max_train_steps": 3}
    ways = {
        "stock": {"no-fold_upsampling": True},
        "default": {},
        "selective": {"gradient_checkpointing": True, "offload_ema": True},
        "blocks": {"gradient_checkpointing": "blocks", "channels_last": True},
    }
    results = {}
    for name, way in ways.items():
        in_process(*flags(work, tmp_path / name, **settings, **way))
        results[name] = final_state(tmp_path / name)
    for name, tensors in results.items():
        for key, tensor in tensors.items():
            torch.testing.assert_close(tensor, results["stock"][key], rtol=1e-3, atol=2e-5, msg=f"{name} {key}")


@pytest.mark.parametrize(
    "way",
    [{"channels_last": True}, {"optimizer": "adamw8bit"}, {"optimizer": "muon", "channels_last": True}],
    ids=["channels_last", "adamw8bit", "muon"],
)
def test_runs_with_another_memory_layout_or_optimiser_resume_with_the_same_bits(work, in_process, tmp_path, way):
    if way.get("optimizer") == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    settings = {**way, "max_train_steps": 8, "checkpointing_steps": 4}
    in_process(*flags(work, tmp_path / "whole", **settings))
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "again" / "checkpoint-4")
    shutil.copy(tmp_path / "whole" / "training_config.yaml", tmp_path / "again")
    in_process(*flags(work, tmp_path / "again", **settings))
    assert_same_bits(final_state(tmp_path / "whole"), final_state(tmp_path / "again"))


def test_order_in_memory_of_an_8_bit_optimiser_stays(work, in_process, tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    in_process(*flags(work, tmp_path / "run", optimizer="adamw8bit", max_train_steps=1))
    with pytest.raises(SystemExit):
        in_process(*flags(work, tmp_path / "run", optimizer="adamw8bit", max_train_steps=2, channels_last=True))
    assert "resume with the same --channels_last" in capsys.readouterr().err


def test_finished_run_may_be_computed_in_another_way_when_it_is_trained_on(work, in_process, tmp_path, capsys):
    in_process(*flags(work, tmp_path / "run", max_train_steps=2))
    in_process(*flags(work, tmp_path / "run", max_train_steps=3, gradient_checkpointing=True))
    assert "Resuming from" in capsys.readouterr().out


def test_patch_training_resumes_from_a_patch_model_and_full_training_too(work, patched, in_process, tmp_path):
    for name, patches in (("patches", {"patch_sizes": "8,16"}), ("full", {})):
        settings = {"pretrained_model_name_or_path": patched[0], "max_train_steps": 1, **patches}
        arguments = flags(work, tmp_path / name, **settings)
        in_process(*[a for a in arguments if not a.startswith("--model_config")])
        assert AnimeDDPMPipeline.from_pretrained(tmp_path / name).unet.config.in_channels == 5


@pytest.fixture
def quick_compiler(monkeypatch):
    """Trace and differentiate as `torch.compile` does, but leave out the code generator, which takes minutes.

    Yields a list: for each graph, whether gradients were on.
    """
    compile_module, graphs = torch.nn.Module.compile, []

    def backend(graph, inputs):
        graphs.append(torch.is_grad_enabled())
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    quick = lambda self, **options: compile_module(self, backend=backend, **options)  # noqa: E731
    monkeypatch.setattr(torch.nn.Module, "compile", quick)
    monkeypatch.setattr("pipeline_anime_ddpm.training.hardware.check_compiler", lambda device: None)
    yield graphs
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("how", "recomputed"), [("regional", None), ("whole", None), ("whole", "selective"), ("regional", "blocks")]
)
@pytest.mark.slow
def test_compiled_network_trains_alike_and_says_how_long_compiling_took(
    work, in_process, quick_compiler, tmp_path, capsys, how, recomputed, tiny_unet
):
    if how == "whole" and parse(torch.__version__) < parse("2.14"):
        pytest.skip("the quick compiler of this test cannot take a group norm of channels last before torch 2.14")
    tiny_unet().save_config(tmp_path / "net")
    settings = {"model_config_name_or_path": tmp_path / "net", "patch_sizes": "8,16", "max_train_steps": 2}
    settings |= {"torch_compile": how} | ({"gradient_checkpointing": recomputed} if recomputed else {})
    in_process(*flags(work, tmp_path / "compiled", **settings))
    text = capsys.readouterr().out
    assert "Compiled for 8 x 8 pixels in" in text and "Compiled for 16 x 16 pixels in" in text
    assert len(quick_compiler) >= 2
    assert all(quick_compiler), "a few samples are not worth compiling for"
    del settings["torch_compile"]
    in_process(*flags(work, tmp_path / "eager", **settings))
    compiled, eager = final_state(tmp_path / "compiled"), final_state(tmp_path / "eager")
    for name, tensor in compiled.items():
        torch.testing.assert_close(tensor, eager[name], rtol=1e-3, atol=2e-5)


@pytest.mark.slow
def test_crops_by_noise_level_are_compiled_for_two_shapes(
    work, in_process, quick_compiler, tmp_path, capsys, tiny_unet
):
    tiny_unet().save_config(tmp_path / "net")
    settings = {"model_config_name_or_path": tmp_path / "net", "max_train_steps": 3, "torch_compile": "regional"}
    in_process(*flags(work, tmp_path / "run", patch_method="noise_gated", patch_sizes=8, **settings))
    text = capsys.readouterr().out
    assert text.count("Compiled for") == 2
    assert "Compiled for 8 x 8 pixels in" in text and "Compiled for 16 x 16 pixels in" in text


def step_without_host(tiny_unet, what):
    """Draw a step, run it forward and backward, let the optimiser step and average, on tensors that hold no values."""
    unet = tiny_unet(sample_size=16).train()
    patches = PatchTrainingAdapter.from_unet(unet, (8, 16))
    fold_upsampling(unet)
    if what:
        recompute_activations(unet, what)
    images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    generators, meter, numerics = AnimeNoiseScheduler(), LossMeter(1000, "cpu"), Numerics()
    optimizer = Accelerator(cpu=True).prepare(torch.optim.AdamW(unet.parameters(), fused=True))
    batch = draw_step(Batch(images), generators, flip=True, seed=0, step=0, patches=patches, side=8)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for part in batch.split(2):
            for name in ("clean", "noise", "timesteps", "coordinates"):
                setattr(part, name, mode.from_tensor(getattr(part, name)))
            loss, error = diffusion_loss(unet, generators, part)
            with_nan_gradient(loss, 0.5).backward()
            meter.add(loss, error, part.timesteps)
            numerics.add(loss, error, part.timesteps)
        norm = torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        taken = numerics.step_if_finite(0, optimizer, norm)
        WeightAverage(unet.parameters(), power_decay(0.1)).update(unet.parameters(), taken)
        return loss


@pytest.mark.parametrize("what", [None, "selective", "blocks"])
def test_nothing_in_the_hot_loop_asks_for_a_value(tiny_unet, what):
    """Reading a value makes a GPU's host wait; fake tensors have none to give."""
    loss = step_without_host(tiny_unet, what)
    with pytest.raises(DataDependentOutputException):
        loss.item()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"patch_sizes": "7,16"}, "cannot take a patch side of 7 pixels; valid are [2, 4, 6, 8, 10, 12, 14, 16]"),
        ({"patch_sizes": "8,32"}, "larger than the images of 16 pixels"),
        ({"patch_sizes": "8,x"}, "give a whole number or several, separated by commas"),
        ({"patch_sizes": "8,16", "patch_probs": "0.5,0.6"}, "sums to 1.1; give probabilities that sum to 1"),
        ({"patch_sizes": "8,16", "patch_probs": "1"}, "1 numbers for 2 --patch_sizes"),
        ({"patch_probs": "1"}, "--patch_probs does nothing without --patch_sizes"),
        ({"patch_mode": "constant_pixels"}, "does nothing without --patch_sizes"),
        ({"patch_full_image_fraction": 0.3}, "does nothing without --patch_sizes"),
        ({"patch_sizes": "8", "patch_full_image_fraction": 1}, "give at least 0 and less than 1"),
        ({"ema_sigma_rels": "0.3"}, "between 0 and 0.2887"),
        ({"ema_snapshot_images": 5}, "give both or neither"),
        ({"offload_ema": True, "no-use_ema": True}, "turns off; give one of the two"),
        ({"gradient_checkpointing": True, "torch_compile": "regional"}, "use --torch_compile whole or"),
        ({"gradient_checkpointing": "all"}, "choose one of selective, blocks"),
    ],
)
def test_mistake_is_one_error(work, tmp_path, in_process, capsys, settings, says):
    with pytest.raises(SystemExit) as exit:
        in_process(*flags(work, tmp_path / "new", **settings))
    assert exit.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and says in error
    assert not (tmp_path / "new").exists()


def test_compiling_without_a_compiler_is_one_error(work, tmp_path, in_process, capsys, monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(SystemExit):
        in_process(*flags(work, tmp_path / "new", torch_compile=True))
    assert "--torch_compile needs a C++ compiler" in capsys.readouterr().err


def test_eight_bit_optimiser_without_its_package(work, tmp_path, in_process, capsys, monkeypatch):
    monkeypatch.setattr("pipeline_anime_ddpm.training.optimizers.importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        in_process(*flags(work, tmp_path / "new", optimizer="adamw8bit"))
    assert "run `pip install bitsandbytes` or choose adamw" in capsys.readouterr().err
