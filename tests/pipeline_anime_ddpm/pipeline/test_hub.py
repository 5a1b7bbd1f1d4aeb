# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""How the pipeline is saved, pushed and loaded: with the package, without it, from a folder and from a Hub."""

import ast
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel

import pipeline_anime_ddpm.schedulers.scheduling_anime_noise as scheduler_module
from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm import pipeline_anime_ddpm as pipeline_module

PIPELINE_CODE = Path(pipeline_module.__file__)
SCHEDULER_CODE = Path(scheduler_module.__file__)
OURS = ["scheduling_anime_noise", "AnimeNoiseScheduler"]

# Begins every program below: the same seed and one thread, so that pixels of two processes may be compared bit by bit.
DRAW = """
import numpy as np, torch
torch.set_num_threads(1)
def draw(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe(2, torch.Generator().manual_seed(11), num_inference_steps=5, output_type="np").images
"""
exec(DRAW)


def make_pipe(tiny_unet, scheduler=None) -> AnimeDDPMPipeline:
    return AnimeDDPMPipeline(tiny_unet(in_channels=5), scheduler or AnimeNoiseScheduler(num_train_timesteps=100))


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def saved(tiny_unet, tmp_path, one_thread):
    """A folder written by `save_pretrained`, and the images that its pipeline draws."""
    pipe = make_pipe(tiny_unet)
    pipe.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved", draw(pipe)  # noqa: F821 (defined by DRAW)


def index_of(folder: Path) -> dict:
    return json.loads((folder / "model_index.json").read_text())


def assert_complete(folder: Path) -> None:
    """All that a stranger needs to load the folder, with the code byte for byte."""
    index = index_of(folder)
    assert index["_class_name"] == ["pipeline_anime_ddpm", "AnimeDDPMPipeline"]
    assert index["scheduler"] == OURS and index["unet"] == ["diffusers", "UNet2DModel"]
    assert "_name_or_path" not in index
    assert (folder / "pipeline_anime_ddpm.py").read_bytes() == PIPELINE_CODE.read_bytes()
    assert (folder / "scheduler" / "scheduling_anime_noise.py").read_bytes() == SCHEDULER_CODE.read_bytes()
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size > 1000
    assert json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["solver"] == "dpmsolver++"


# ----------------------------------------------------------------------------------------- the folder, in one process


@pytest.mark.parametrize("code", [PIPELINE_CODE, SCHEDULER_CODE], ids=lambda path: path.stem)
def test_shipped_code_imports_nothing_of_the_package(code):
    allowed = {"torch", "numpy", "PIL", "diffusers", *sys.stdlib_module_names}
    for node in ast.walk(ast.parse(code.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            names = [node.module]
        assert {name.partition(".")[0] for name in names} <= allowed


def test_saved_folder_is_complete(saved):
    assert_complete(saved[0])


def test_package_loads_its_own_classes_without_trust_and_without_running_the_folders_code(saved):
    folder, images = saved
    for code in (folder / "pipeline_anime_ddpm.py", folder / "scheduler" / "scheduling_anime_noise.py"):
        code.write_text("raise SystemExit('the code of the folder was run')")
    pipe = AnimeDDPMPipeline.from_pretrained(folder)
    assert type(pipe) is AnimeDDPMPipeline and type(pipe.scheduler) is AnimeNoiseScheduler
    assert np.array_equal(draw(pipe), images)  # noqa: F821
    swapped = AnimeDDPMPipeline.from_pretrained(folder, scheduler=DDIMScheduler(100))
    assert type(swapped.scheduler) is DDIMScheduler


def test_class_that_is_not_ours_still_needs_trust(saved):
    folder, _ = saved
    index = index_of(folder)
    index["scheduler"] = ["scheduling_anime_noise", "SomebodyElsesScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="trust_remote_code"):
        AnimeDDPMPipeline.from_pretrained(folder)


def test_diffusers_refuses_the_folder_without_trust(saved):
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(saved[0])


def test_stock_scheduler_is_saved_as_stock(tiny_unet, tmp_path, one_thread):
    scheduler = DDIMScheduler.from_config(AnimeNoiseScheduler(num_train_timesteps=100).config)
    pipe = make_pipe(tiny_unet, scheduler)
    pipe.save_pretrained(tmp_path)
    assert index_of(tmp_path)["scheduler"] == ["diffusers", "DDIMScheduler"]
    assert not list((tmp_path / "scheduler").glob("*.py"))
    again = AnimeDDPMPipeline.from_pretrained(tmp_path)
    assert type(again.scheduler) is DDIMScheduler
    assert np.array_equal(draw(again), draw(pipe))  # noqa: F821


def test_stock_ddpm_folder_and_from_pipe(tiny_unet, tmp_path, one_thread):
    stock = DDPMPipeline(tiny_unet(), DDPMScheduler(num_train_timesteps=20))
    stock.save_pretrained(tmp_path)
    pipe = AnimeDDPMPipeline.from_pretrained(tmp_path)
    assert type(pipe) is AnimeDDPMPipeline
    expected = stock(2, torch.Generator().manual_seed(11), num_inference_steps=5, output_type="np").images
    assert np.array_equal(draw(pipe), expected)  # noqa: F821
    assert np.array_equal(draw(AnimeDDPMPipeline.from_pipe(stock)), expected)  # noqa: F821


def test_compiled_network_is_saved_as_the_network(tiny_unet, tmp_path):
    pipe = make_pipe(tiny_unet)
    pipe.unet = torch.compile(pipe.unet)
    pipe.save_pretrained(tmp_path)
    assert_complete(tmp_path)
    assert type(AnimeDDPMPipeline.from_pretrained(tmp_path).unet) is UNet2DModel


def test_code_without_a_file_is_refused_with_a_sentence(tiny_unet, tmp_path):
    typed_in = type("TypedInScheduler", (DDIMScheduler,), {"__module__": "a_notebook_cell"})
    with pytest.raises(ValueError, match="a_notebook_cell has no source file"):
        make_pipe(tiny_unet, typed_in(100)).save_pretrained(tmp_path)


def test_upload_options_without_upload_are_refused(tiny_unet, tmp_path):
    with pytest.raises(ValueError, match=r"'private'.*have no effect"):
        make_pipe(tiny_unet).save_pretrained(tmp_path, private=True)


# ------------------------------------------------------------------------------------------------- other processes


def test_process_without_the_package_generates_the_same_pixels(saved, run_python, tmp_path):
    folder, images = saved
    run_python(
        DRAW
        + """
import sys, pathlib
from diffusers import DDIMScheduler, DiffusionPipeline
folder, out = map(pathlib.Path, sys.argv[1:])
try:
    DiffusionPipeline.from_pretrained(folder)
except ValueError as error:
    assert "trust_remote_code" in str(error)
else:
    raise SystemExit("ran the folder's code without being trusted")

pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
assert type(pipe).__module__.startswith("diffusers_modules."), type(pipe)
assert type(pipe.scheduler).__module__.startswith("diffusers_modules."), type(pipe.scheduler)
np.save(out / "remote.npy", draw(pipe))

pipe.save_pretrained(out / "again")
np.save(out / "again.npy", draw(DiffusionPipeline.from_pretrained(out / "again", trust_remote_code=True)))
np.save(out / "class.npy", draw(type(pipe).from_pretrained(out / "again", trust_remote_code=True)))
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
pipe.save_pretrained(out / "ddim")
np.save(out / "ddim.npy", draw(pipe))
""",
        folder,
        tmp_path,
        package=False,
    )
    for name in ("remote", "again", "class"):
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), images), name
    assert_complete(tmp_path / "again")
    shutil.rmtree(folder)  # what was saved again stands alone
    assert np.array_equal(draw(AnimeDDPMPipeline.from_pretrained(tmp_path / "again")), images)  # noqa: F821
    assert index_of(tmp_path / "ddim")["scheduler"] == ["diffusers", "DDIMScheduler"]
    ddim = draw(AnimeDDPMPipeline.from_pretrained(tmp_path / "ddim"))  # noqa: F821
    assert np.array_equal(np.load(tmp_path / "ddim.npy"), ddim)


PUSH_THREE_WAYS = """
import sys, pathlib
from huggingface_hub import snapshot_download
from pipeline_anime_ddpm import AnimeDDPMPipeline
for heavy in ("datasets", "wandb", "matplotlib", "pipeline_anime_ddpm.training"):
    assert heavy not in sys.modules, heavy
folder, out = map(pathlib.Path, sys.argv[1:])
pipe = AnimeDDPMPipeline.from_pretrained(folder)
pipe.save_pretrained(folder, push_to_hub=True, repo_id="tester/faces", private=True, commit_message="Faces")
pipe.save_pretrained(out / "by-name", push_to_hub=True)
try:
    pipe.save_pretrained(out / "by-name", push_to_hub=True, private=True)
except ValueError as error:
    assert "is public" in str(error)
else:
    raise SystemExit("pushed to a public repository what was to be private")
pipe.push_to_hub("plain", private=True)
np.save(out / "hub.npy", draw(AnimeDDPMPipeline.from_pretrained("tester/faces")))
np.save(out / "snapshot.npy", draw(AnimeDDPMPipeline.from_pretrained(snapshot_download("tester/plain"))))
try:
    AnimeDDPMPipeline.from_pretrained("tester/faces", token=False, cache_dir=out / "empty")
except OSError:
    pass
else:
    raise SystemExit("a stranger read a private repository")
"""


@pytest.mark.slow
def test_push_privately_and_load_from_the_hub_both_ways(saved, run_python, tmp_path, hub):
    folder, images = saved
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nWritten by hand.\n")
    run_python(DRAW + PUSH_THREE_WAYS, folder, tmp_path, env=hub.env)
    assert {name: repo.private for name, repo in hub.repos.items()} == {
        "models/tester/faces": True,
        "models/tester/by-name": False,
        "models/tester/plain": True,
    }
    for number, repo in enumerate(hub.repos.values()):
        for path, content in repo.files.items():
            (tmp_path / f"pushed{number}" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / f"pushed{number}" / path).write_bytes(content)
        assert_complete(tmp_path / f"pushed{number}")
    faces, by_name = hub.repos["models/tester/faces"], hub.repos["models/tester/by-name"]
    assert faces.messages[-1] == "Faces" and len(faces.messages) == 2
    assert faces.files["README.md"].endswith(b"Written by hand.\n")
    assert b"library_name: diffusers" in by_name.files["README.md"]
    assert faces.files["unet/diffusion_pytorch_model.safetensors"] in hub.lfs.values()

    run_python(
        DRAW
        + """
import sys, pathlib
from diffusers import DiffusionPipeline
try:
    DiffusionPipeline.from_pretrained("tester/faces")
except ValueError as error:
    assert "trust_remote_code" in str(error)
else:
    raise SystemExit("ran the repository's code without being trusted")
pipe = DiffusionPipeline.from_pretrained("tester/faces", trust_remote_code=True)
np.save(pathlib.Path(sys.argv[1]) / "remote.npy", draw(pipe))
pipe.save_pretrained(pathlib.Path(sys.argv[1]) / "again")
""",
        tmp_path,
        env=hub.env,
        package=False,
    )
    for name in ("hub", "snapshot", "remote"):
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), images), name
    assert_complete(tmp_path / "again")


def test_process_without_the_package_really_has_none(run_python):
    with pytest.raises(AssertionError, match="is blocked in this process"):
        run_python("import schedulers", package=False)
    with pytest.raises(AssertionError, match="is blocked in this process"):
        run_python("from pipeline_anime_ddpm import AnimeDDPMPipeline", package=False)


STOCK_PIPELINE = """
import sys
from diffusers import DDPMPipeline

pipe = DDPMPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(pipe.scheduler).__name__ == "AnimeNoiseScheduler"
pipe.set_progress_bar_config(disable=True)
assert pipe(num_inference_steps=3).images[0].size == (16, 16)
pipe.save_pretrained(sys.argv[2])
"""


@pytest.mark.slow
def test_pipeline_of_diffusers_with_our_scheduler_loads_where_the_package_is_not(tiny_unet, run_python, tmp_path):
    pipe = DDPMPipeline(tiny_unet(), AnimeNoiseScheduler(solver="ddim"))
    pipe.save_pretrained(tmp_path / "stock")
    run_python(STOCK_PIPELINE, tmp_path / "stock", tmp_path / "again", package=False)
    run_python(STOCK_PIPELINE, tmp_path / "again", tmp_path / "once more", package=False)
    again = DDPMPipeline.from_pretrained(tmp_path / "once more", trust_remote_code=True)
    first = AnimeNoiseScheduler.from_pretrained(tmp_path / "stock" / "scheduler")
    assert {**again.scheduler.config} == {**first.config}
