"""The npm package: its tests and types in Node, with faces that Python has drawn, and what `npm pack` would send."""

import itertools
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from recipe_runs import ROOT

from pipeline_anime_ddpm import AnimeONNX

WEB = ROOT / "web"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("npm"), reason="Node is not installed; try `apt-get install nodejs npm`"),
    pytest.mark.skipif(not (WEB / "node_modules").is_dir(), reason="web/ is not set up; try `npm ci --prefix web`"),
]


def run(*command, **environment):
    result = subprocess.run(command, cwd=WEB, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return result.stdout


def test_package_in_node(exported_large, tmp_path):
    """Its pixels are those of `AnimeONNX`, which the export has compared with `pipe.upscale`."""
    folder = shutil.copytree(exported_large, tmp_path / "model")
    model = AnimeONNX(folder)
    jobs = [("Ada", {}), ("Zoë", {"hair": "blue"}), ("桜", {"hair": "mint", "eyes": "green"})]
    drawn = []
    for (name, labels), upscale in itertools.product(jobs, (True, False)):
        face = np.asarray(model.face(name, labels, upscale))
        drawn.append({
            "name": name, "labels": labels, "upscale": upscale, "side": len(face), "pixels": face.ravel().tolist()
        })  # fmt: skip
    assert {one["side"] for one in drawn} == {32, 64}
    (folder / "expected.json").write_text(json.dumps(drawn))
    report = run("npm", "test", "--silent", FACES_MODEL=str(folder))
    assert "fail 0" in report and "skipped 0" in report


def test_types_are_sound():
    run("npm", "run", "typecheck")


def test_package_holds_code_and_types_alone(tmp_path):
    for name in ("src", "page", "package.json", "tsconfig.json", "README.md", "NOTICE.txt"):
        (shutil.copytree if (WEB / name).is_dir() else shutil.copyfile)(WEB / name, tmp_path / name)
    (tmp_path / "node_modules").symlink_to(WEB / "node_modules")
    subprocess.run(["npm", "run", "types"], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    listing = subprocess.run(
        ["npm", "pack", "--dry-run", "--json", "--ignore-scripts"],
        cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    (packed,) = json.loads(listing.stdout)
    files = {file["path"] for file in packed["files"]}
    assert {"src/index.js", "types/src/index.d.ts", "README.md", "NOTICE.txt", "package.json"} <= files
    assert not any(path.startswith(("node_modules", "test", "page", "types/page")) for path in files)
    assert "face(name: string" in (tmp_path / "types" / "src" / "index.d.ts").read_text()
