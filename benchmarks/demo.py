#!/usr/bin/env python
"""How fast the demo answers in a real browser, and how it bears many visitors at once.

    python benchmarks/demo.py --model runs/mine

The server is a process of its own, on all cores. A headless Chromium on the same machine clicks, and a part of what is
measured is its own work. The visitors of the load test ask the server directly, all at once and without a pause.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from common import RESULTS, ROOT, spread, write_result
from playwright.sync_api import Page, sync_playwright
from render import render_demo

from pipeline_anime_ddpm import AnimeDDPMPipeline

PACKAGES = ["torch", "diffusers", "gradio"]
FACES = (1, 4, 16)
LOAD_FACES, SAMPLER, GUIDANCE = 4, "The model's own", 1.0  # of each request of the load test
# From the click until the first picture has changed, and until the page says that all is drawn.
TIMED = """async (faces) => {
  const said = document.querySelector("#draw-status"), shown = document.querySelector("#draw-faces");
  const look = () => shown.querySelector("button img")?.src, before = look(), begin = performance.now();
  let first = null;
  document.querySelector("#draw-button").click();
  while (!first || !new RegExp(`^${faces} faces? in`).test(said.innerText.trim())) {
    await new Promise(requestAnimationFrame);
    if (!first && look() && look() != before) first = performance.now();
    if (performance.now() - begin > 120000) throw new Error("nothing in two minutes");
  }
  return [first - begin, performance.now() - begin];
}"""


@contextlib.contextmanager
def served(model: str) -> Iterator[tuple[str, psutil.Process]]:
    """The demo in a process of its own: its address, and the process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "app.py"), "--model", model, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/"
    try:
        while True:
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(url).close()
                break
            if process.poll() is not None:
                sys.exit(f"The demo did not start; see `{shlex.join(command)}`.")
            time.sleep(0.2)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def clicks(page: Page, url: str, faces: int, rounds: int) -> dict:
    """Seconds from a click to the first preview and to the final pictures."""
    page.goto(f"{url}?faces={faces}&seed=0")
    page.locator("#draw-status", has_text=" in ").wait_for(timeout=120_000)
    times = []
    for _ in range(rounds):
        page.locator("#draw-status").evaluate("(status) => { status.querySelector('p').innerText = '' }")
        times.append(page.evaluate(TIMED, faces))
    first, last = zip(*times, strict=True)
    row = {"kind": "click", "faces": faces, "rounds": rounds}
    return row | {"preview": spread([t / 1e3 for t in first]), "final": spread([t / 1e3 for t in last])}


def ask(url: str, seed: int, steps: int) -> tuple[float, bool]:
    """One request: seconds, and whether it was answered with faces."""
    begin = time.perf_counter()
    try:
        address, headers = f"{url}gradio_api/call/generate", {"Content-Type": "application/json"}
        data = json.dumps({"data": [LOAD_FACES, seed, steps, SAMPLER, GUIDANCE]}).encode()
        with urllib.request.urlopen(urllib.request.Request(address, data, headers)) as answer:
            event = json.load(answer)["event_id"]
        with urllib.request.urlopen(f"{address}/{event}", timeout=600) as answer:
            done = b"event: complete" in answer.read()
    except OSError:
        done = False
    return time.perf_counter() - begin, done


def load(url: str, process: psutil.Process, visitors: int, requests: int, steps: int) -> dict:
    """`visitors` at once, each asking again as soon as it is answered; memory before, halfway and after."""
    ask(url, 0, steps)
    memory, answers, begin = [process.memory_info().rss], [], time.perf_counter()  # memory: before, after each answer
    with ThreadPoolExecutor(visitors) as pool:
        for answer in pool.map(lambda seed: ask(url, seed, steps), range(requests)):
            answers.append(answer)
            memory.append(process.memory_info().rss)
    times = [seconds for seconds, done in answers if done]
    seconds = time.perf_counter() - begin
    return {
        "kind": "load", "visitors": visitors, "requests": requests, "faces": LOAD_FACES, "steps": steps,
        "errors": requests - len(times), "seconds": seconds, "p50": statistics.median(times),
        "p95": statistics.quantiles(times, n=20)[-1],
        "memory": [memory[0], memory[requests // 2], memory[-1]],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a folder, or a repository of the Hub")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--output", type=Path, default=RESULTS / "demo.json")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("No Chromium is installed; try `apt-get install chromium`.")
    pipeline = AnimeDDPMPipeline.from_pretrained(arguments.model)
    steps, side = pipeline.default_num_inference_steps(), pipeline.image_shape[-1]
    with served(arguments.model) as (url, process):
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            rows = [clicks(page, url, faces, arguments.rounds) for faces in FACES]
            browser.close()
        rows.append(load(url, process, arguments.visitors, arguments.requests, steps))
    command = shlex.join(["python", "benchmarks/demo.py", *sys.argv[1:]])
    what = f"The demo with a network of {side} px, {steps} steps; medians, least to most in brackets"
    write_result(arguments.output, what, command, PACKAGES, rows=rows)
    print(render_demo(json.loads(arguments.output.read_text())))
    print(f"To reproduce: {command}")


if __name__ == "__main__":
    main()
