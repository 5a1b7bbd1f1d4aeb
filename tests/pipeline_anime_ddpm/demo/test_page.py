"""Contents of the page."""

import json
import os
import subprocess
import sys

import gradio as gr
import pytest
from endpoint_parts import OWN
from recipe_runs import ROOT

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.demo import handlers as demo_handlers
from pipeline_anime_ddpm.demo import how_tab as demo_how_tab
from pipeline_anime_ddpm.demo import model as demo_model
from pipeline_anime_ddpm.demo import page as demo_page_module
from pipeline_anime_ddpm.demo import server as demo_server


def labels(demo):
    return {block.label for block in demo.blocks.values() if isinstance(block, gr.Tab)}


def test_page_hides_controls_that_the_model_lacks(page, tiny_unet, tmp_path, monkeypatch):
    assert labels(page.demo) == {"Draw", "Vary", "Repair", "Between", "How it works"}
    scheduler = AnimeNoiseScheduler(100, solver="ddim", use_anime_sigmas=True, distilled_steps=3)
    AnimeDDPMPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path / "distilled")
    distilled = demo_model.Model(str(tmp_path / "distilled"))
    demo = demo_page_module.build_demo(distilled)
    assert distilled.samplers == [OWN] and (distilled.least_steps, distilled.default_steps) == (3, 3)
    assert not distilled.has_guide and page.model.has_guide
    sliders = {block.label: block.visible for block in demo.blocks.values() if isinstance(block, gr.Slider)}
    assert sliders["Guidance"] is sliders["Steps"] is False
    whole = AnimeDDPMPipeline.__call__

    def plain(self, batch_size=1, generator=None, num_inference_steps=None, **more):
        return whole(self, batch_size, generator, num_inference_steps, **more)

    monkeypatch.setattr(AnimeDDPMPipeline, "__call__", plain)
    assert labels(demo_page_module.build_demo(demo_model.Model(str(tmp_path / "distilled")))) == {
        "Draw",
        "Between",
        "How it works",
    }


def test_pipeline_of_diffusers_alone_is_shown_too(tiny_unet, tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler

    DDPMPipeline(tiny_unet(), DDPMScheduler(100)).save_pretrained(tmp_path / "stock")
    handlers = demo_handlers.Handlers(demo_model.Model(str(tmp_path / "stock")))
    for sampler in handlers.model.samplers:
        (*_, (images, _)) = handlers.generate(2, 0, 3, sampler)
        assert len(images) == 2
    (*_, (_, said)) = handlers.interpolate(1, 2, None, None, 3, 3)
    assert "3 frames" in said


@pytest.mark.parametrize("sampler", [OWN, "DDIM"])
def test_shipped_model_whose_network_sees_blocks_is_shown(sampler, picture):
    handlers = demo_handlers.Handlers(demo_model.Model(str(ROOT / "hub_model")))
    assert labels(demo_page_module.build_demo(handlers.model)) == {"Draw", "Vary", "Repair", "Between", "How it works"}
    (*_, (images, _)) = handlers.generate(1, 7, 3, sampler)
    (*_, ((_, varied), _)) = handlers.vary(picture, 0.5, 7, 4)
    assert images[0][0].size == varied.size == (64, 64)
    assert (
        handlers.model.pipeline.scheduler.config.solver == "dpmsolver++"
    )  # one visitor's choice is not the next one's


def test_table_that_ends_in_pure_noise_can_be_shown(tiny_unet, tmp_path):
    scheduler = AnimeNoiseScheduler(100, rescale_betas_zero_snr=True)
    AnimeDDPMPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path / "zero")
    assert "How it works" in labels(demo_page_module.build_demo(demo_model.Model(str(tmp_path / "zero"))))


def test_how_tab_shows_the_files_beside_the_weights(page):
    texts = [block.value for block in page.demo.blocks.values() if isinstance(block, gr.Markdown)]
    assert any("# Tiny" in text and "license" not in text and "png" not in text for text in texts)
    (table,) = [block for block in page.demo.blocks.values() if isinstance(block, gr.Dataframe)]
    assert table.value["data"] == [["KID", "1.5", "0.1", "7"]]


def test_files_beside_the_weights_may_be_anything(page, tmp_path, monkeypatch):
    file = tmp_path / "metrics.json"
    monkeypatch.setattr(page.model, "read", lambda name: file)
    metric = {"name": "FD", "value": 3.14159, "n": 20}
    for content, rows in (
        (json.dumps({"metrics": {"fid": metric}}), [["FD", "3.142", "", "20"]]),
        (json.dumps([{"metrics": {"fid": metric}}] * 2), [["FD", "3.142", "", "20"]] * 2),
        (json.dumps([{"metrics": {"fid": metric | {"value": None}}}]), []),
        ("no JSON", []), ('"text"', []), ("[1]", []),
    ):  # fmt: skip
        file.write_text(content)
        assert demo_how_tab.metrics(page.model) == rows


def test_card_fetches_nothing_from_elsewhere():
    card = "---\r\na: b\r\n---\r\n# T\n![x](http://a/x.png) ![y][r] <IMG src=x> <video src=y></video> 1 < 2 [l](m)\n"
    assert demo_how_tab.card_text(card).split() == ["#", "T", "1", "<", "2", "[l](m)"]


@pytest.mark.parametrize("query, settings", [
    ({}, (4, 0, 10, OWN, 1.5)),
    ({"faces": "9", "seed": "20", "steps": "7", "sampler": "DDIM", "guidance": "2.5"}, (9, 20, 7, "DDIM", 2.5)),
    ({"faces": "99", "seed": "-1", "steps": "x", "sampler": "<script>", "guidance": "nan"}, (4, 0, 10, OWN, 1.5)),
])  # fmt: skip
def test_address_brings_its_settings_and_nothing_odd(handlers, query, settings):
    request = type("Request", (), {"query_params": query})
    assert handlers.from_address(request) == settings


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
from pipeline_anime_ddpm.demo.page import build_demo
from pipeline_anime_ddpm.demo.server import launch
_, url, _ = launch(build_demo(Model({str(saved)!r})), prevent_thread_lock=True, quiet=True)
import urllib.request
page = urllib.request.urlopen(url).read().decode()
time.sleep(1)
assert "fonts.googleapis" not in page
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
