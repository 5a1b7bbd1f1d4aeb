"""A static Space that draws in the browser, pushed beside its model."""

import pytest
import yaml
from export_parts import distilled

from pipeline_anime_ddpm.exporting import site

pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    """Stands in for onnxruntime-web, which the browser alone needs."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in site.RUNTIME_FILES:
        (folder / name).write_text(name)
    monkeypatch.setattr(site, "find_runtime", lambda: folder)


def test_static_space_holds_the_page_and_the_model(tiny_unet, tmp_path, publish, near_hub):
    distilled(tiny_unet).save_pretrained(tmp_path / "model")
    (tmp_path / "facts.yaml").write_text("title: Tiny faces\nlicense: other\nlicense_name: research-only\n")
    flags = ("--card", tmp_path / "facts.yaml", "--repo_id", "me/faces", "--web_space", "me/web")
    assert "me/web is at" in publish(tmp_path / "model", *flags)
    space = near_hub.repos["spaces/me/web"]
    front = yaml.safe_load(space.files["README.md"].decode().split("---")[1])
    assert space.request["sdk"] == front["sdk"] == "static" and front["models"] == ["me/faces"]
    assert front["app_file"] in space.files and len(front["short_description"]) <= 60
    assert front["custom_headers"]["cross-origin-opener-policy"] == "same-origin"
    assert b'"licence": "research-only"' in space.files["recipe.json"]
    assert b'"title": "Tiny faces"' in space.files["recipe.json"]
    assert {"sw.js", "files.js", "model.onnx.gz", "page/app.js", "src/faces.js"} <= set(space.files)


def test_nothing_is_pushed_for_a_model_of_many_steps(finished, publish, near_hub):
    answer = publish(finished, "--repo_id", "me/faces", "--web_space", "me/web")
    assert "only distilled models are exported" in answer and not near_hub.repos
    assert "--web_space needs --repo_id" in publish(finished, "--web_space", "me/web", "--dry_run")
