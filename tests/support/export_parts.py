"""A tiny distilled model with labels, an upscaler for it, and what they draw."""

import functools
import http.server
import threading
import time

import torch

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler

LABELS = {"eyes": ["blue", "green"], "hair": ["blonde", "blue", "mint"]}
CLASSES = 12


def distilled(tiny_unet, **changed):
    """A pipeline of 4 steps whose output depends on its labels."""
    labels = changed.pop("labels", LABELS)
    classes = CLASSES if labels else None
    unet = tiny_unet(in_channels=12, out_channels=12, num_class_embeds=classes)
    if classes:
        with torch.no_grad():
            unet.class_embedding.weight.mul_(3)
    settings = {"solver": "ddim", "prediction_type": "v_prediction", "use_anime_sigmas": True, "distilled_steps": 4}
    scheduler = AnimeNoiseScheduler(100, **settings | changed)
    return AnimeDDPMPipeline(unet, scheduler, space_to_depth=2, labels=labels)


def enlarging(tiny_unet, block=2, **changed):
    """An upscaler from 32 to 64 pixels, of one step."""
    channels = 3 * block**2
    unet = tiny_unet(
        sample_size=64 // block, in_channels=channels + 4, out_channels=channels, add_attention=False, seed=1
    )
    settings = {"prediction_type": "sample", "clip_sample_range": 4.0}
    scheduler = AnimeNoiseScheduler(100, **settings | changed)
    return AnimeDDPMPipeline(unet, scheduler, space_to_depth=block, upscale_ratio=2)


class SiteServer:
    """A folder on loopback: with headers, at `bytes_per_second`, and `is_away` as if the network were lost."""

    def __init__(self, folder, headers=None, bytes_per_second=None):
        self.folder, self.headers, self.bytes_per_second = folder, headers or {}, bytes_per_second
        self.is_away, self.paths = False, []

    def __enter__(self):
        handler = functools.partial(_Handler, self)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, site, *arguments):
        self.site = site
        super().__init__(*arguments, directory=str(site.folder))

    def do_GET(self):
        self.site.paths.append(self.path)
        if self.site.is_away:
            self.connection.close()
        else:
            super().do_GET()

    def end_headers(self):
        for name, value in self.site.headers.items():
            self.send_header(name, value)
        super().end_headers()

    def copyfile(self, source, output):
        for part in iter(lambda: source.read(16384), b""):
            if self.site.is_away:
                self.connection.close()
                return
            output.write(part)
            if self.site.bytes_per_second:
                time.sleep(len(part) / self.site.bytes_per_second)

    def log_message(self, *_):
        pass
