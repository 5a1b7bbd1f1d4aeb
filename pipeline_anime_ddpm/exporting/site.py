"""A folder that any web server can serve: the page of `web/`, a model, and the runtime, pinned and checksummed."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import shutil
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..common.assets import find_asset
from ..common.atomic import find_or_make
from ..common.errors import UserError, first_line
from ..data.cache import cache_root
from .drawing import RECIPE, AnimeONNX

RUNTIME = "onnxruntime-web"
# Of the runtime's package. The last one is kept compressed, and the page unpacks it, whatever the server does.
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
WEBGPU_FILES = ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.jsep.mjs", "ort-wasm-simd-threaded.jsep.wasm")
PACKED = ".gz"
PAGE = ("index.html", "style.css", "icon.svg", "manifest.webmanifest", "sw.js", "_headers", "NOTICE.txt", "page", "src")
FIRST = "Ada"  # whose face the page shows while the model is on its way
MAX_BYTES = 100_000_000  # of the runtime's package; it has 20 million
SECONDS = 60  # without a byte before a download is given up


def find_runtime(cache_dir: str | None = None) -> Path:
    """The folder of the runtime's files: of `npm ci` in `web/`, else downloaded once from npm and kept.

    Raises:
        UserError: if it cannot be downloaded, or is not what `web/package-lock.json` says.
    """
    web = find_asset("web")
    lock_file = web / "package-lock.json"
    if not lock_file.is_file():
        raise UserError(f"There is no {lock_file}; run this in a clone of anime-ddpm, or install the package again.")
    entry = json.loads(lock_file.read_text())["packages"][f"node_modules/{RUNTIME}"]
    installed = web / "node_modules" / RUNTIME
    if _version(installed) == entry["version"]:
        return installed / "dist"
    folder = cache_root(cache_dir) / f"{RUNTIME}-{entry['version']}"
    return find_or_make(folder, _whole, lambda empty: _download(entry, empty))


def _version(package: Path) -> str | None:
    description = package / "package.json"
    return json.loads(description.read_text())["version"] if description.is_file() else None


def _whole(folder: Path) -> Path | None:
    return folder if all((folder / name).is_file() for name in (*RUNTIME_FILES, *WEBGPU_FILES)) else None


def _download(entry: dict[str, Any], folder: Path) -> None:
    """Fill a folder from the package that an entry of package-lock.json describes."""
    address = entry["resolved"]
    advice = "connect to the internet and run the same command again, or run `npm ci` in web/"
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as response:
            content = response.read(MAX_BYTES)
    except OSError as error:
        raise UserError(f"{address} cannot be downloaded ({first_line(error)}); {advice}.") from error
    algorithm, _, expected = entry["integrity"].partition("-")
    if base64.b64encode(hashlib.new(algorithm, content).digest()).decode() != expected:
        raise UserError(f"{address} is not the file that web/package-lock.json names; {advice}.")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for name in (*RUNTIME_FILES, *WEBGPU_FILES):
            (folder / name).write_bytes(archive.extractfile(f"package/dist/{name}").read())


def build_site(folder: Path, runtime: Path, webgpu: bool = False) -> str:
    """Turn an export into a site, and return a line on its size.

    Args:
        folder: with `model.onnx` and `recipe.json`.
        runtime: what `find_runtime` gives.
        webgpu: also copy what computes by WebGPU; a visitor loads one of the two.
    """
    _pack_networks(folder)
    for name in PAGE:
        source = find_asset("web") / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / name)
    (folder / "runtime").mkdir()
    for *scripts, binary in (RUNTIME_FILES, WEBGPU_FILES)[: 1 + webgpu]:
        for script in scripts:
            shutil.copyfile(runtime / script, folder / "runtime" / script)
        _pack(runtime / binary, folder / "runtime" / f"{binary}{PACKED}")
    AnimeONNX(folder).face(FIRST).save(folder / "first.png")
    files = sorted(_files(folder))
    contents = [[path, hashlib.sha256((folder / path).read_bytes()).hexdigest()] for path in files]
    version = hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]
    sizes = {path: (folder / path).stat().st_size for path in files}
    listing = {"version": version, "paths": files, "sizes": sizes}
    (folder / "files.js").write_text(f"self.FILES = {json.dumps(listing, indent=1)};\n")
    size = sum(sizes.values()) / 1e6
    return f"{folder}: a page of {size:.2f} MB in all; try it with `python -m http.server -d {folder}`."


def _files(folder: Path) -> Iterator[str]:
    """What the page needs offline."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in ("_headers", "sw.js", "files.js", "README.md"):
            yield path.relative_to(folder).as_posix()


def _pack_networks(folder: Path) -> None:
    """Compress the networks of an export, and say so in its recipe."""
    recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    for network in recipe["networks"].values():
        path = folder / network["file"]
        network["file"] += PACKED
        _pack(path, folder / network["file"])
        path.unlink()
    (folder / RECIPE).write_text(json.dumps(recipe, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _pack(source: Path, target: Path) -> None:
    target.write_bytes(gzip.compress(source.read_bytes(), mtime=0))
