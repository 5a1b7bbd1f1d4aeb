"""The demo served in this process."""

import contextlib
import io
import json
import re
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline_anime_ddpm.demo import model as demo_model
from pipeline_anime_ddpm.demo import server as demo_server
from pipeline_anime_ddpm.demo import wall as demo_wall
from pipeline_anime_ddpm.demo.pictures import from_data_url


def served(folder, draws_wall=False, **settings):
    """The running page of a saved pipeline: `url`, and the `Model` behind it, whose network waits `model.pause` s."""
    model = demo_model.Model(str(folder))
    model.pause = 0.0
    model.pipeline.unet.register_forward_pre_hook(lambda *_: time.sleep(model.pause))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_wall, "AT_ONCE", 16)
        if not draws_wall:
            patch.setattr(demo_wall.Wall, "draw_in_background", lambda *_: None)
        app = demo_server.build_app(model, **settings)
        while draws_wall and not app.state.wall.is_drawn:
            time.sleep(0.01)
    url, close = demo_server.serve_in_thread(app)
    handlers = app.state.handlers
    return SimpleNamespace(url=url, model=model, app=app, handlers=handlers, jobs=handlers.jobs, close=close)


def ask(page, path, body=None, **headers):
    """What the server answers: its status, its headers, its content. A dict is sent as JSON."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(page.url + path, data, headers)
    try:
        with contextlib.closing(urllib.request.urlopen(request, timeout=60)) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def streamed(page, path, body):
    """The JSON lines of an answer."""
    status, _, content = ask(page, path, body)
    assert status == 200, content
    return [json.loads(line) for line in content.splitlines()]


def html(page, query="", **headers):
    status, _, content = ask(page, query, **headers)
    assert status == 200
    return content.decode()


def config(text):
    return json.loads(re.search(r'id="config">(.*?)</script>', text)[1])


def pixels_of(address):
    return np.asarray(Image.open(io.BytesIO(from_data_url(address))).convert("RGB"))
