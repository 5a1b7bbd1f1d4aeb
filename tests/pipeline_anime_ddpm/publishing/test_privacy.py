"""Tokens and paths are found wherever they are, and named by file but never repeated."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.publishing.privacy import check_private, without_paths


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("HF_TOKEN", "WANDB_API_KEY", "KAGGLE_KEY", "GITHUB_TOKEN", "GH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home of mine"))
    (tmp_path / "bundle").mkdir()
    return tmp_path / "bundle"


def refusal(folder, **settings):
    with pytest.raises(UserError) as refused:
        check_private(folder, folder.parent / "run", **settings)
    return str(refused.value)


@pytest.mark.parametrize("text, what", [
    ("token: hf_" + "a1B2" * 8, "a Hugging Face token"),
    ("ghp_" + "a1B2" * 9, "a GitHub token"),
    ("github_pat_" + "a1B2" * 9, "a GitHub token"),
    ("AKIA" + "ABCD1234" * 2, "an AWS key"),
    ("AIza" + "x" * 35, "a Google key"),
    ("sk-" + "abcd1234" * 4, "an API key"),
    ("https://me:password1@example.org/data", "a password in an address"),
    ("-----BEGIN OPENSSH PRIVATE KEY-----", "a private key"),
    ("data: /home/me/faces", "a path of this machine"),
    ("data: '/content/drive/faces'", "a path of this machine"),
    ("C:\\\\Users\\\\me", "a path of Windows"),
    ("file:///a/b", "the address of a file"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["README.md", "training_config.yaml", "metrics.json", "unet/config.json", "page.html"])
def test_texts(folder, text, what, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(f"harmless\n{text}\n")
    said = refusal(folder)
    assert said.startswith(f"{name} holds {what}") and text.split()[-1] not in said


@pytest.mark.parametrize("text", [
    "https://huggingface.co/me/data/faces and https://example.org/home/me", "arXiv 2010.02502/v1", "a/tmp/b", "8/16",
    "hf_hub_download, ghp_x, sk-x", "you/home/faces",
])  # fmt: skip
def test_harmless_text_is_not_mistaken_for_a_secret(folder, text):
    (folder / "README.md").write_text(text)
    check_private(folder, folder.parent / "run")


@pytest.mark.parametrize("variable", ["HF_TOKEN", "WANDB_API_KEY", "KAGGLE_KEY"])
def test_tokens_in_use_are_found_by_what_they_are(folder, monkeypatch, variable):
    (folder / "scheduling.py").write_text("x = 'of-no-known-form-1'")
    check_private(folder, folder.parent / "run")
    monkeypatch.setenv(variable, "of-no-known-form-1")
    assert "scheduling.py holds a token that this machine uses" in refusal(folder)


def test_given_token_and_a_login_are_found(folder, monkeypatch, tmp_path):
    (folder / "a.json").write_text('"given-token-1"')
    assert "a.json holds a token" in refusal(folder, secrets=("given-token-1",))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home of mine")
    (tmp_path / "home of mine").mkdir()
    (tmp_path / "home of mine" / ".netrc").write_text("machine api.wandb.ai login user password given-token-1\n")
    (tmp_path / "home of mine" / ".netrc").chmod(0o600)
    assert "a.json holds a token" in refusal(folder)


def test_run_s_own_place_is_found_in_any_file(folder):
    (folder / "a.py").write_text(f"# {folder.parent.resolve()}/run/x")
    assert "a.py holds a path of this machine" in refusal(folder)


def test_headers_of_weights_and_pictures(folder):
    save_file({"w": torch.zeros(2)}, folder / "w.safetensors", metadata={"from": "/home/me/w"})
    assert "w.safetensors holds a path" in refusal(folder)
    (folder / "w.safetensors").unlink()
    notes = PngInfo()
    notes.add_text("comment", "hf_" + "a1B2" * 8, zip=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "p.png", pnginfo=notes)
    assert "p.png holds a Hugging Face token" in refusal(folder)


@pytest.mark.parametrize("name", ["optimizer.bin", "state.pt", "x.pkl", "events.out.tfevents.1", "photo.jpg"])
def test_only_known_kinds_of_files_travel(folder, name):
    (folder / name).write_bytes(b"x")
    assert name in refusal(folder)


def test_links_do_not_travel(folder, tmp_path):
    (tmp_path / "elsewhere.md").write_text("x")
    (folder / "README.md").symlink_to(tmp_path / "elsewhere.md")
    assert "README.md" in refusal(folder)


def test_without_paths_keeps_names_and_drops_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    value = {"a": ["/x/y/z", "google/ddpm", "runs/mine", "../faces", 3, None], "b": {"c": "~/data/cats/"}}
    expected = {"a": ["z", "google/ddpm", "mine", "faces", 3, None], "b": {"c": "cats"}}
    assert without_paths(value) == expected
    assert json.loads(json.dumps(value)) == value  # untouched
