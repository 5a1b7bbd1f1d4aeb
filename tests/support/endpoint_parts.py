"""Shared by the tests of the demo."""

import json
import urllib.request

import numpy as np
from gradio_client import handle_file
from PIL import Image

from pipeline_anime_ddpm.demo import model as demo_model

OWN = demo_model.OWN


def opened(path):
    return np.asarray(Image.open(path).convert("RGB"))


def saved_picture(path, size=(16, 16), seed=0, **how):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **how)
    return path


def layer(path, box, size=(16, 16)):
    """A layer that is painted on in `box`, as the editor makes it."""
    image = Image.new("RGBA", size)
    image.paste((229, 72, 127, 255), box)
    image.save(path)
    return path


def editor(background, *layers):
    return {"background": handle_file(background), "layers": [handle_file(one) for one in layers], "composite": None}


def raw(page, name, data):
    """What the server answers to a request that no client would send."""
    headers = {"Content-Type": "application/json"}
    address = f"{page.url}gradio_api/call/{name}"
    request = urllib.request.Request(address, json.dumps({"data": data}).encode(), headers)
    event = json.loads(urllib.request.urlopen(request).read())["event_id"]
    return urllib.request.urlopen(f"{address}/{event}", timeout=60).read().decode()
