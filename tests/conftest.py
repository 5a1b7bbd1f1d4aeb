# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""What all tests share: no network, few threads, a network small enough to be free, a Hub on loopback."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

# Before anything imports huggingface_hub or wandb, which read their environment once. A test that wants a Hub uses
# the `hub` fixture, whose environment is for a subprocess.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # the discard port: refuses at once, should anything still try
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["WANDB_MODE"] = "offline"
# A cache of its own for each test process: several may write to it at once, and the user's stays as it is.
HF_HOME = tempfile.TemporaryDirectory(prefix="hf_home_")
os.environ["HF_HOME"] = HF_HOME.name
for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
    os.environ.pop(proxy, None)
    os.environ.pop(proxy.lower(), None)

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT, ROOT / "tests" / "support"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

# What takes long to import is imported where it is used, so that a single test starts at once.
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite runs in two processes; what is named on the command line in one, at once and with `--pdb`."""
    if hasattr(config, "workerinput"):  # one of the two
        return
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS and not config.option.keyword
    if whole and config.option.numprocesses is None and not (config.option.usepdb or config.option.collectonly):
        config.option.numprocesses = 2
    if config.option.numprocesses:
        config.option.dist = "loadfile"
        config.option.loadscopereorder = False  # it would begin with the file of the most tests, not of the longest


# The files that take minutes. They are handed out first, so that no process ends with one while the other waits.
LONGEST = (
    "test_train_anime_ddpm",
    "test_faults",
    "test_launchers",
    "test_browser",
    "test_noise",
    "test_speed",
    "test_hub",
)


def pytest_collection_modifyitems(items):
    """The longest files first; the others keep their order."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny networks are slower on several threads, and many times slower where other work goes on beside them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_unet():
    """Factory of a 16 x 16 network of two levels with fixed weights: `tiny_unet(in_channels=5, sample_size=(16, 8))`.

    A call takes milliseconds. Any argument of `UNet2DModel` may be given, and `seed` for other weights.
    """

    from diffusers import UNet2DModel

    def make(seed: int = 0, **config) -> UNet2DModel:
        defaults = {
            "sample_size": 16,
            "in_channels": 3,
            "out_channels": 3,
            "layers_per_block": 1,
            "block_out_channels": (8, 16),
            "norm_num_groups": 4,
            "down_block_types": ("DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D"),
        }
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return UNet2DModel(**{**defaults, **config}).eval()

    return make


@pytest.fixture
def hub():
    """A running `HubServer`: `.url`, `.repos`, and `.env` to be merged into a subprocess's environment."""
    from hub_server import HubServer

    with HubServer() as server:
        yield server


# Put before a program that must do without our package, even if it is installed: importing it is an error.
WITHOUT_PACKAGE = """
import sys
class _Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pipeline_anime_ddpm", "schedulers"):
            raise ImportError(f"{name} is blocked in this process")
sys.meta_path.insert(0, _Blocked())
"""
WITH_PACKAGE = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"


@pytest.fixture
def run_python(tmp_path):
    """Run a program in a new, isolated interpreter: `run_python(code, *arguments, env={}, package=True)`.

    It starts in an empty folder with its own Hugging Face cache. Without `package`, ours can't be imported there.
    Returns its standard output; a program that fails makes the test fail with its standard error.
    """

    def run(code: str, *arguments, env: dict | None = None, package: bool = True) -> str:
        folder = tmp_path / "elsewhere"
        folder.mkdir(exist_ok=True)
        home = {
            "HF_HOME": str(tmp_path / f"hf_{'with' if package else 'without'}"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        program = (WITH_PACKAGE if package else WITHOUT_PACKAGE) + code
        command = [sys.executable, "-I", "-W", "ignore", "-c", program, *map(str, arguments)]
        result = subprocess.run(
            command, cwd=folder, env={**os.environ, **home, **(env or {})}, capture_output=True, text=True, timeout=120
        )
        assert result.returncode == 0, result.stderr[-4000:]
        return result.stdout

    return run


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory):
    """A vision network with random weights that extracts features."""
    from evaluation_data import save_tiny_vit

    return save_tiny_vit(tmp_path_factory.mktemp("extractor") / "tiny-vit")


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real 64 x 64 faces; without it the test is skipped. Mark such tests `realdata` as well."""
    folder = ROOT.parent / "shared" / "data" / "anime_faces_64"
    if not folder.is_dir():
        pytest.skip(f"{folder} isn't there: the real faces don't travel with the repository")
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory, tiny_unet):
    """A folder with 20 small pictures and the config of a tiny network."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "faces").mkdir()
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "faces" / f"{i:02d}.png")
    tiny_unet(dropout=0.1).save_config(folder / "tiny")
    return folder


@pytest.fixture
def in_process(monkeypatch):
    """Run the script in this process, on the CPU as its other runs do: their ends are compared bit for bit."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    from accelerate.state import AcceleratorState

    import train_anime_ddpm
    from pipeline_anime_ddpm.common.errors import one_sentence_errors

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["train_anime_ddpm.py", *arguments])
        AcceleratorState._reset_state(True)
        with one_sentence_errors():
            train_anime_ddpm.main()

    yield call
    AcceleratorState._reset_state(True)
