"""A Space that is pushed beside its model runs as it is, without the package, and draws with the pinned code alone."""

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from gradio_client import Client
from PIL import Image

pytestmark = pytest.mark.slow

# Where the package isn't there at all: finders do not find it, however it is installed.
START = """
import runpy, sys
class Without:
    def __init__(self, finders):
        self.finders = finders
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pipeline_anime_ddpm", "schedulers"):
            return None
        specs = (finder.find_spec(name, path, target) for finder in self.finders)
        return next(filter(None, specs), None)
    def find_distributions(self, *context):
        able = [finder for finder in self.finders if hasattr(finder, "find_distributions")]
        return [found for finder in able for found in finder.find_distributions(*context)]
sys.meta_path[:] = [Without(list(sys.meta_path))]
sys.argv[1:] = ["--port", "{port}"]
sys.path.insert(0, "")  # as for a script, which `-I` keeps away
runpy.run_path("app.py", run_name="__main__")
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def space(finished, publish, near_hub):
    """The files of a Space for a pushed model."""
    assert "me/demo is at" in publish(finished, "--repo_id", "me/faces", "--space", "me/demo")
    return near_hub.repos["spaces/me/demo"]


def test_its_page_says_what_the_hub_must_know(space, near_hub):
    front = yaml.safe_load(space.files["README.md"].decode().split("---")[1])
    assert front["sdk"] == "gradio" and front["sdk_version"][0].isdecimal() and front["app_file"] in space.files
    assert front["models"] == front["preload_from_hub"] == ["me/faces"] and len(front["short_description"]) <= 60
    assert space.request["sdk"] == "gradio"
    requirements = space.files["requirements.txt"].decode()
    assert "torch==" in requirements and "diffusers==" in requirements and "gradio" not in requirements
    settings = json.loads(space.files["app_settings.json"])
    assert settings == {"model": "me/faces", "revision": near_hub.repos["models/me/faces"].head}


def test_without_gradio_nothing_is_pushed(finished, publish, near_hub, monkeypatch):
    version = importlib.metadata.version

    def without_gradio(name):
        if name == "gradio":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("importlib.metadata.version", without_gradio)
    assert "anime-ddpm[demo]" in publish(finished, "--repo_id", "me/faces", "--space", "me/demo")
    assert not near_hub.repos


def test_it_runs_without_the_package_and_draws(space, near_hub, tmp_path):
    for name, content in space.files.items():
        (tmp_path / "space" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / name).write_bytes(content)
    model = near_hub.repos["models/me/faces"]
    model.commit({path: b"raise SystemExit" for path in model.files if path.endswith(".py")}, "Changed by somebody")
    port = free_port()
    start = START.format(port=port)
    env = os.environ | near_hub.env | {"HF_HOME": str(tmp_path / "home"), "GRADIO_ANALYTICS_ENABLED": "False"}
    log = open(tmp_path / "log", "w+")  # noqa: SIM115 (as long as the process)
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", start], cwd=tmp_path / "space", env=env, stdout=log, stderr=log
    )
    try:
        url = f"http://127.0.0.1:{port}"
        client = connect(url, process, tmp_path / "log")
        faces, _ = client.predict(3, 7, 2, "DDIM", 1, api_name="/generate")
        again, _ = client.predict(1, 8, 2, "DDIM", 1, api_name="/generate")
        assert [face["caption"] for face in faces] == ["seed 7", "seed 8", "seed 9"]
        pictures = [np.asarray(Image.open(face["image"]).convert("RGB"), int) for face in (*faces, *again)]
        assert {picture.shape for picture in pictures} == {(16, 16, 3)}
        assert np.abs(pictures[1] - pictures[3]).max() <= 1 < np.abs(pictures[0] - pictures[3]).max()  # seed by seed
    finally:
        process.kill()
        process.wait()
        log.close()


def connect(url, process, log):
    """A client, as soon as the page is up."""
    for _ in range(600):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            return Client(url, verbose=False)
        except Exception:  # whatever is not there yet
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])
