"""The demo served in this process."""

import time
from types import SimpleNamespace

from pipeline_anime_ddpm.demo import model as demo_model
from pipeline_anime_ddpm.demo import page as demo_page
from pipeline_anime_ddpm.demo import server as demo_server


def served(folder, **settings):
    """The running page of a saved pipeline: `url`, and the `Model` behind it, whose network waits `model.pause` s."""
    model = demo_model.Model(str(folder))
    model.pause = 0.0
    model.pipeline.unet.register_forward_pre_hook(lambda *_: time.sleep(model.pause))
    demo = demo_page.build_demo(model)
    _, url, _ = demo_server.launch(demo, prevent_thread_lock=True, quiet=True, **settings)
    return SimpleNamespace(url=url, model=model, demo=demo)
