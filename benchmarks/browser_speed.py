"""Times of the page in Chromium: the first face over a slow line, and each further one by threads."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import spread
from playwright.sync_api import Browser, sync_playwright

from pipeline_anime_ddpm.common.errors import UserError

BYTES_PER_SECOND = 10e6 / 8  # 10 Mbit/s, for all connections together
PART = 16384
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
NAMES = 20  # faces that are timed, after as many that are not
LONGEST = 120_000  # milliseconds
# Seconds of each face, as the worker takes them.
DRAW = """async (count) => {
  const { Painter } = await import("./page/painter.js");
  const painter = new Painter(() => {});
  const { threads } = await painter.model;
  const seconds = [];
  for (let number = 0; number < 2 * count; number++) {
    seconds.push((await painter.draw(`face ${number}`, {})).seconds);
  }
  painter.worker.terminate();
  return { threads, seconds: seconds.slice(count) };
}"""


class _Line:
    """A line that all connections share."""

    def __init__(self, bytes_per_second: float):
        self.bytes_per_second, self.free, self.lock = bytes_per_second, 0.0, threading.Lock()

    def wait(self, count: int) -> None:
        with self.lock:
            self.free = max(self.free, time.monotonic()) + count / self.bytes_per_second
            until = self.free
        time.sleep(max(until - time.monotonic(), 0))


class _Handler(http.server.SimpleHTTPRequestHandler):
    line: _Line | None = None
    headers_sent: dict[str, str] = {}  # noqa: RUF012 (never changed)

    def end_headers(self) -> None:
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        super().end_headers()

    def copyfile(self, source: Any, output: Any) -> None:
        for part in iter(lambda: source.read(PART), b""):
            if self.line:
                self.line.wait(len(part))
            output.write(part)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path, line: _Line | None, headers: dict[str, str]) -> Iterator[str]:
    """The address of a folder on loopback."""
    kind = type("Handler", (_Handler,), {"line": line, "headers_sent": headers})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(kind, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def measure_site(folder: Path, repeats: int) -> dict[str, Any]:
    """Bytes of a page, seconds to its first face over 10 Mbit/s with nothing cached, and to further ones."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise UserError("There is no Chromium; run `apt-get install chromium`.")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        first = [_first_face(browser, folder) for _ in range(repeats)]
        further = dict(_further_faces(browser, folder, headers) for headers in ({}, ISOLATION))
        version = browser.version
        browser.close()
    preview, face = zip(*first, strict=True)
    return {
        "page_bytes": size, "preview": spread(list(preview)), "first_face": spread(list(face)), "next_face": further,
        "chromium": version,
    }  # fmt: skip


def _first_face(browser: Browser, folder: Path) -> tuple[float, float]:
    """Seconds until the first name's face is shown as the export has drawn it, and as the browser has."""
    context = browser.new_context()
    context.set_default_timeout(LONGEST)
    with served(folder, _Line(BYTES_PER_SECOND), {}) as address:
        page = context.new_page()
        begin = time.monotonic()
        page.goto(address, wait_until="commit")
        page.locator("body.has-preview").wait_for()
        preview = time.monotonic() - begin
        page.locator("#face[data-name]").wait_for()
        face = time.monotonic() - begin
    context.close()
    return preview, face


def _further_faces(browser: Browser, folder: Path, headers: dict[str, str]) -> tuple[str, dict[str, float]]:
    """The number of threads, and seconds a face."""
    context = browser.new_context()
    context.set_default_timeout(LONGEST)
    with served(folder, None, headers) as address:
        page = context.new_page()
        page.goto(f"{address}NOTICE.txt")  # which draws nothing itself
        found = page.evaluate(DRAW, NAMES)
    context.close()
    return str(found["threads"]), spread(found["seconds"])
