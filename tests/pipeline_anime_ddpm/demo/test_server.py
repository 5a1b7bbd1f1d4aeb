"""Starting the demo."""

import os
import subprocess
import sys

import pytest
from recipe_runs import ROOT

from pipeline_anime_ddpm.demo import server as demo_server


def test_without_a_model_the_server_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"No model found\. Train one"):
        demo_server.choose_model(None)
    assert demo_server.choose_model("given") == "given"


@pytest.mark.slow
def test_demo_starts_offline_and_sends_no_telemetry(saved, tmp_path):
    """A process whose connections other than on loopback fail, and are counted."""
    program = f"""
import socket, sys
real, tried = socket.socket.connect, []
def connect(self, address):
    if self.family != socket.AF_UNIX and not str(address[0]).startswith(("127.", "::1", "localhost")):
        tried.append(address); raise OSError("no network")
    return real(self, address)
def look_up(host, *rest, lookup=socket.getaddrinfo, **more):
    if host not in (None, "localhost", "127.0.0.1", "0.0.0.0", "::1"):
        tried.append(host); raise socket.gaierror("no network")
    return lookup(host, *rest, **more)
socket.socket.connect, socket.getaddrinfo = connect, look_up
sys.path.insert(0, {str(ROOT)!r})
import time
from pipeline_anime_ddpm.demo.model import Model
from pipeline_anime_ddpm.demo.server import build_app, serve_in_thread
url, close = serve_in_thread(build_app(Model({str(saved)!r})))
import urllib.request
page = urllib.request.urlopen(url).read().decode()
time.sleep(1)
assert "Draw anime faces" in page
close()
print("tried", tried)
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GRADIO_"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=env | {"HF_HOME": str(tmp_path)},
        timeout=120,
    )
    assert "tried []" in done.stdout, done.stdout + done.stderr[-2000:]
