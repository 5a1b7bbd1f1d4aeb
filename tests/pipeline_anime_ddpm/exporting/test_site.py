"""The page around an export: its files, and the runtime, which is pinned."""

import base64
import gzip
import hashlib
import io
import json
import re
import tarfile

import pytest

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.exporting import site

FILES = (*site.RUNTIME_FILES, *site.WEBGPU_FILES)


@pytest.fixture
def pinned(tmp_path, monkeypatch):
    """A folder `web` without node_modules, whose lock names a package on disk: `pinned(content)` gives the folder."""

    def make(expected: bytes, stored: bytes | None = None):
        web, package = tmp_path / "web", tmp_path / "package.tgz"
        web.mkdir(exist_ok=True)
        package.write_bytes(expected if stored is None else stored)
        digest = base64.b64encode(hashlib.sha512(expected).digest()).decode()
        entry = {"version": "1.2.3", "resolved": package.as_uri(), "integrity": f"sha512-{digest}"}
        (web / "package-lock.json").write_text(json.dumps({"packages": {f"node_modules/{site.RUNTIME}": entry}}))
        return web

    monkeypatch.setattr(site, "find_asset", lambda name: tmp_path / name)
    return make


def archive():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name in FILES:
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return content.getvalue()


def test_runtime_is_downloaded_once(pinned, tmp_path):
    pinned(archive())
    folder = site.find_runtime(str(tmp_path / "cache"))
    assert {path.name: path.read_text() for path in folder.iterdir()} == {name: name for name in FILES}
    (tmp_path / "package.tgz").unlink()
    assert site.find_runtime(str(tmp_path / "cache")) == folder


def test_runtime_of_npm_is_taken_if_its_version_is_that_of_the_lock(pinned, tmp_path):
    installed = pinned(archive()) / "node_modules" / site.RUNTIME
    installed.mkdir(parents=True)
    (installed / "package.json").write_text(json.dumps({"version": "1.2.3"}))
    assert site.find_runtime(str(tmp_path / "cache")) == installed / "dist"
    (installed / "package.json").write_text(json.dumps({"version": "1.2.4"}))
    assert site.find_runtime(str(tmp_path / "cache")).is_relative_to(tmp_path / "cache")


def test_another_runtime_than_the_pinned_one_is_refused(pinned, tmp_path):
    pinned(archive(), archive()[:-1] + b"x")
    with pytest.raises(UserError, match=re.escape("is not the file that web/package-lock.json names")):
        site.find_runtime(str(tmp_path / "cache"))
    (tmp_path / "package.tgz").unlink()
    with pytest.raises(UserError, match=r"cannot be downloaded .* connect to the internet"):
        site.find_runtime(str(tmp_path / "cache"))


@pytest.mark.slow
def test_site_lists_its_files(exported, tmp_path):
    runtime, folder = tmp_path / "runtime", tmp_path / "site"
    runtime.mkdir()
    for name in FILES:
        (runtime / name).write_text(name)
    folder.mkdir()
    for path in exported.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert "MB in all" in site.build_site(folder, runtime)
    text = (folder / "files.js").read_text()
    listing = json.loads(text.removeprefix("self.FILES = ").rstrip(";\n"))
    for path, size in listing["sizes"].items():
        assert (folder / path).stat().st_size == size
    assert {"index.html", "page/app.js", "src/faces.js", "model.onnx.gz", "first.png"} <= set(listing["paths"])
    recipe = json.loads((folder / "recipe.json").read_text())
    packed = (folder / recipe["networks"]["base"]["file"]).read_bytes()
    assert gzip.decompress(packed) == (exported / "model.onnx").read_bytes()
