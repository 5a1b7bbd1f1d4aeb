#!/usr/bin/env python
"""How fast the demo answers in a real browser, and how it bears many visitors at once.

    python benchmarks/demo.py --model hub_model/labelled --node_modules NODE/node_modules

The server is a process of its own, on all cores. A headless Chromium on the same machine clicks, and a part of what is
measured is its own work. The visitors of the load test ask the server directly, all at once and without a pause. With
`--node_modules`, a folder where `npm install lighthouse axe-core` ran, the page is also checked by both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from common import RESULTS, ROOT, spread, write_result
from playwright.sync_api import Browser, sync_playwright
from render import render_demo

from pipeline_anime_ddpm import AnimeDDPMPipeline

PACKAGES = ["torch", "diffusers", "gradio"]
LOADS = (1, 4)  # faces of each request of the load test
WATCH = """
const look = () => {
  const image = document.querySelector("#large");
  if (image?.complete && image.naturalWidth > 1) window.firstFace = performance.now();
  else requestAnimationFrame(look);
};
look();
"""
LIVE = "() => new URLSearchParams(location.search).has('s') ? performance.now() : false"
NINE = """async () => {
  const begin = performance.now();
  document.querySelector("#more").click();
  while (document.querySelectorAll("#frame a.tile").length < 9) {
    await new Promise(requestAnimationFrame);
    if (performance.now() - begin > 120000) throw new Error("nothing in two minutes");
  }
  return performance.now() - begin;
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


def visits(browser: Browser, url: str, rounds: int) -> tuple[list[dict], dict[str, int]]:
    """Seconds of what a visitor waits for, and what is transferred before the first face is seen."""
    times: dict[str, list[float]] = {"first face": [], "live face": [], "more like this": []}
    sizes: dict[str, int] = {}
    for _ in range(rounds):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=True)
        page, seen = context.new_page(), []
        page.set_default_timeout(120_000)
        page.add_init_script(WATCH)
        network = context.new_cdp_session(page)
        network.send("Network.enable")
        network.on("Network.loadingFinished", lambda event, seen=seen: seen.append(event["encodedDataLength"]))
        page.goto(url, wait_until="load")
        times["first face"].append(page.wait_for_function("window.firstFace").json_value())
        sizes = {"bytes_before_first_face": round(sum(seen)), "requests_before_first_face": len(seen)}
        times["live face"].append(page.wait_for_function(LIVE).json_value())
        times["more like this"].append(page.evaluate(NINE))
        context.close()
    rows = [{"kind": "visit", "what": what, "rounds": rounds, "seconds": spread([t / 1e3 for t in values])}
            for what, values in times.items()]  # fmt: skip
    return rows, sizes


def ask(url: str, seed: int, faces: int) -> tuple[float, bool]:
    """One request of a visitor of its own: seconds, and whether it was answered with faces."""
    begin = time.perf_counter()
    data = json.dumps({"faces": [f"s={seed * faces + number}" for number in range(faces)]}).encode()
    headers = {"Content-Type": "application/json", "X-Forwarded-For": f"10.0.{seed // 250}.{seed % 250}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}draw", data, headers), timeout=600) as answer:
            done = "faces" in json.loads(answer.read().splitlines()[-1])
    except OSError:
        done = False
    return time.perf_counter() - begin, done


def load(url: str, process: psutil.Process, visitors: int, requests: int, faces: int) -> dict:
    """`visitors` at once, each asking again as soon as it is answered; memory before, halfway and after."""
    ask(url, 10**6, faces)
    memory, answers, begin = [process.memory_info().rss], [], time.perf_counter()  # memory: before, after each answer
    with ThreadPoolExecutor(visitors) as pool:
        for answer in pool.map(lambda seed: ask(url, seed, faces), range(requests)):
            answers.append(answer)
            memory.append(process.memory_info().rss)
    times = [seconds for seconds, done in answers if done]
    seconds = time.perf_counter() - begin
    return {
        "kind": "load", "visitors": visitors, "requests": requests, "faces": faces,
        "errors": requests - len(times), "seconds": seconds, "p50": statistics.median(times),
        "p95": statistics.quantiles(times, n=20)[-1],
        "memory": [memory[0], memory[requests // 2], memory[-1]],
    }  # fmt: skip


def axe_findings(browser: Browser, url: str, node_modules: Path) -> int:
    """Findings of axe in every tab, in light and dark."""
    script, found = (node_modules / "axe-core" / "axe.min.js").read_text(), 0
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme, bypass_csp=True)
        for tab in ("draw", "edit", "walk", "expert", "how"):
            page.goto(f"{url}?s=3" if tab == "draw" else f"{url}?tab={tab}", wait_until="networkidle")
            page.evaluate(script)
            findings = page.evaluate("axe.run()")["violations"]
            for finding in findings:
                print(f"axe, {scheme}, {tab}: {finding['id']}: {finding['nodes'][0]['html'][:120]}")
            found += len(findings)
        page.close()
    return found


def lighthouse_scores(url: str, node_modules: Path, chromium: str) -> dict[str, int]:
    """Scores of Lighthouse from 0 to 100."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [
            str(node_modules / ".bin" / "lighthouse"),
            url,
            "--quiet",
            "--output=json",
            f"--output-path={report}",
        ]
        command += ["--only-categories=accessibility,best-practices", "--chrome-flags=--headless --no-sandbox"]
        subprocess.run(command, check=True, env=os.environ | {"CHROME_PATH": chromium})
        found: dict[str, Any] = json.loads(report.read_text())["categories"]
    return {f"lighthouse_{name.replace('-', '_')}": round(100 * one["score"]) for name, one in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="hub_model/labelled", help="a folder, or a repository of the Hub")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--node_modules", type=Path, help="where npm installed lighthouse and axe-core")
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
            rows, summary = visits(browser, url, arguments.rounds)
            if arguments.node_modules:
                summary["axe_findings"] = axe_findings(browser, url, arguments.node_modules)
                summary |= lighthouse_scores(url, arguments.node_modules, chromium)
            browser.close()
        rows += [load(url, process, arguments.visitors, arguments.requests, faces) for faces in LOADS]
    shown = ["NODE/node_modules" if Path(one).name == "node_modules" else one for one in sys.argv[1:]]
    command = shlex.join(["python", "benchmarks/demo.py", *shown])
    what = f"The demo with a network of {side} px, {steps} steps; medians, least to most in brackets"
    write_result(arguments.output, what, command, PACKAGES, rows=rows, summary=summary)
    print(render_demo(json.loads(arguments.output.read_text())))
    print(f"To reproduce: {command}")


if __name__ == "__main__":
    main()
