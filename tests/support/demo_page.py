"""The demo served in this process."""

import time
from types import SimpleNamespace

import app


def served(folder, **settings):
    """The running page of a saved pipeline: `url`, and the `Model` behind it, whose network waits `model.pause` s."""
    model = app.Model(str(folder))
    model.pause = 0.0
    model.pipeline.unet.register_forward_pre_hook(lambda *_: time.sleep(model.pause))
    demo = app.build_demo(model)
    _, url, _ = app.launch(demo, prevent_thread_lock=True, quiet=True, **settings)
    return SimpleNamespace(url=url, model=model, demo=demo)
