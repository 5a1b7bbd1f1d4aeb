"""Pushing to a Hub: what it then holds, what is not sent twice, and what becomes of trouble."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hub_server import TOKEN
from recipe_runs import ROOT, environment, flags
from recipe_runs import run as train

from pipeline_anime_ddpm import AnimeDDPMPipeline

pytestmark = pytest.mark.slow

LFS = "PUT /lfs/.*"
COMMIT = "POST .*/commit/main"


def sent(hub, requests="PUT /lfs/"):
    return [request for request in hub.requests if request.startswith(requests)]


def test_push_holds_the_bundle_byte_for_byte(finished, evaluated, publish, near_hub, tmp_path):
    said = publish(finished, "--repo_id", "me/faces", "--evaluation", evaluated, "--output_dir", tmp_path / "out")
    repository = near_hub.repos["models/me/faces"]
    assert not repository.private and repository.messages == ["initial commit", "Publish the pipeline"]
    files = {path: content for path, content in repository.files.items() if path != ".gitattributes"}
    written = {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*.*")}
    assert files == written and repository.head in said
    assert near_hub.lfs and "POST /api/validate-yaml" in near_hub.requests


def test_private_push_is_private_from_the_first_byte(finished, publish, near_hub):
    publish(finished, "--repo_id", "me/faces", "--private")
    (created,) = sent(near_hub, "POST /api/repos/create")
    assert near_hub.requests.index(created) < near_hub.requests.index(sent(near_hub)[0])
    request = near_hub.repos["models/me/faces"].request
    assert request.get("private") is True or request.get("visibility") == "private"


def test_private_push_refuses_an_existing_public_repository(finished, publish, near_hub):
    publish(finished, "--repo_id", "me/faces")
    before = near_hub.repos["models/me/faces"].messages.copy()
    assert "is public, but --private" in publish(finished, "--repo_id", "me/faces", "--private")
    assert near_hub.repos["models/me/faces"].messages == before


def test_pushing_again_makes_no_commit(finished, publish, near_hub):
    publish(finished, "--repo_id", "me/faces")
    near_hub.requests.clear()
    assert "is up to date" in publish(finished, "--repo_id", "me/faces")
    assert len(near_hub.repos["models/me/faces"].commits) == 2 and not sent(near_hub)


def test_change_sends_only_what_changed_and_deletes_what_is_gone(finished, publish, near_hub):
    publish(finished, "--repo_id", "me/faces", "--weights", "both")
    repository = near_hub.repos["models/me/faces"]
    repository.commit(repository.files | {"notes.txt": b"by hand"}, "A file of the owner's")
    near_hub.requests.clear()
    publish(finished, "--repo_id", "me/faces", "--message", "Whole precision alone")
    files = near_hub.repos["models/me/faces"].files
    assert "unet/diffusion_pytorch_model.fp16.safetensors" not in files and files["notes.txt"] == b"by hand"
    assert not sent(near_hub) and repository.messages[-1] == "Whole precision alone"


def test_card_written_by_hand_stays_unless_told(finished, publish, near_hub):
    publish(finished, "--repo_id", "me/faces")
    repository = near_hub.repos["models/me/faces"]
    repository.commit(repository.files | {"README.md": b"---\nlicense: mit\n---\n# My own words\n"}, "By hand")
    assert "it is kept. Give --replace_card" in publish(finished, "--repo_id", "me/faces")
    assert b"My own words" in repository.files["README.md"]
    publish(finished, "--repo_id", "me/faces", "--replace_card")
    assert b"made by anime-ddpm" in repository.files["README.md"]


def test_secret_stops_everything_before_the_first_byte(finished, publish, near_hub):
    record = finished / "training_config.yaml"
    record.write_text(record.read_text() + "note: hf_" + "a1B2" * 8 + "\n")
    said = publish(finished, "--repo_id", "me/faces")
    assert said.startswith("error: training_config.yaml holds a Hugging Face token") and "a1B2" not in said
    assert not sent(near_hub) and not near_hub.repos


# ---------------------------------------------------------------------------------------------------------- trouble


@pytest.mark.parametrize("where", ["POST /api/repos/create", LFS, COMMIT, "POST .*/preupload/main", "POST .*/batch"])
@pytest.mark.parametrize("how", ["500", "429", "drop"])
def test_hub_that_is_away_for_a_moment_is_waited_for(finished, publish, near_hub, monkeypatch, where, how):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # of the client's own tries
    near_hub.drop(where, 2) if how == "drop" else near_hub.fail(where, int(how), 2)
    assert "is at" in publish(finished, "--repo_id", "me/faces")
    assert len(near_hub.repos["models/me/faces"].commits) == 2 and not any(fault.times for fault in near_hub.faults)


def test_hub_that_stays_away_ends_and_the_next_push_goes_on(finished, publish, near_hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    near_hub.fail(COMMIT, 500, 100)
    said = publish(finished, "--repo_id", "me/faces")
    assert "run the same command again" in said and said.count("error: ") == 1
    assert "Traceback" not in said and len(near_hub.repos["models/me/faces"].commits) == 1
    near_hub.faults.clear()
    uploaded = len(near_hub.lfs)
    near_hub.requests.clear()
    assert uploaded and "is at" in publish(finished, "--repo_id", "me/faces")
    assert not sent(near_hub) and len(near_hub.lfs) == uploaded  # what had arrived is not sent again


@pytest.mark.parametrize("fault, said", [
    ((401, "Invalid username or password."), "log in with `hf auth login`"),
    ((403, "You have exceeded your private storage limit"), "free storage"),
    ((413, "Payload too large"), "run the same command again"),
])  # fmt: skip
def test_refusals_end_at_once_with_the_hubs_reason(finished, publish, near_hub, fault, said):
    near_hub.fail(COMMIT, fault[0], 100, fault[1])
    answer = publish(finished, "--repo_id", "me/faces")
    assert said in answer and "'me/faces' cannot be used" in answer and "Traceback" not in answer
    assert len(sent(near_hub, "POST /api/models/me/faces/commit")) == 1
    assert TOKEN not in answer


def test_wrong_token_ends_before_any_work(finished, publish, near_hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "log in with `hf auth login`" in publish(finished, "--repo_id", "me/faces")
    assert not near_hub.repos
    publish(finished, "--repo_id", "me/faces", "--hub_token", TOKEN)
    assert near_hub.repos


def test_card_that_the_hub_does_not_take_is_refused_before_the_weights_are_sent(finished, publish, near_hub, tmp_path):
    (tmp_path / "facts.yaml").write_text("license: my-own\n")
    assert '"license" must be' in publish(finished, "--repo_id", "me/faces", "--card", tmp_path / "facts.yaml")
    assert not sent(near_hub)


# --------------------------------------------------------------------------------------------------------- training


def settings(**more):
    return {"push_to_hub": True, "hub_model_id": "me/run", "save_model_epochs": 1, "max_train_steps": 15} | more


def test_run_pushes_with_a_card_whenever_it_is_saved(work, hub, tmp_path):
    (tmp_path / "facts.yaml").write_text("license: mit\nsubject: noise\n")
    more = settings(hub_card=tmp_path / "facts.yaml")
    train(*flags(work, tmp_path / "pushed", **more), **hub.env, HF_HOME=str(tmp_path / "home"))
    repository = hub.repos["models/me/run"]
    pushes = ["After 20 images", "After 40 images", "After 60 images"]
    assert repository.messages == ["initial commit", *pushes]
    card = repository.files["README.md"].decode()
    assert "license: mit" in card and "generates noise of" in card and "| images seen | 60 |" in card
    assert not [path for path in repository.files if "checkpoint" in path or "optimizer" in path]
    content = b"".join(repository.files.values())
    assert str(tmp_path).encode() not in content and TOKEN.encode() not in content


def test_facts_that_cannot_be_read_end_a_run_before_it_begins(work, in_process, tmp_path, capsys):
    with pytest.raises(SystemExit):
        in_process(*flags(work, tmp_path / "x", **settings(hub_card=tmp_path / "none.yaml")))
    assert "--hub_card" in (said := capsys.readouterr().err) and "none.yaml cannot be read" in said
    assert not (tmp_path / "x").exists()


def test_push_that_fails_on_the_way_does_not_end_a_run_and_at_the_end_is_reported(
    work, near_hub, in_process, tmp_path, capsys
):
    facts = tmp_path / "facts.yaml"
    facts.write_text("subject: noise\n")
    output = tmp_path / "pushed"
    near_hub.fail(COMMIT, 413, 1, "Payload too large")
    in_process(*flags(work, output, **settings(hub_card=facts, max_train_steps=10)))
    assert near_hub.repos["models/me/run"].messages == ["initial commit", "After 40 images"]
    near_hub.fail(COMMIT, 403, 100, "No room is left")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        in_process(*flags(work, output, **settings(hub_card=facts, max_train_steps=15)))
    said = capsys.readouterr().err
    assert "error: The run has ended, but its pipeline is not on the Hub." in said
    assert "No room is left" in said and "free storage" in said and "Traceback" not in said
    assert AnimeDDPMPipeline.from_pretrained(output) and (output / "checkpoint-15").is_dir()


def test_no_token_is_kept_anywhere_and_a_push_at_the_end_is_one_commit(work, hub, tmp_path):
    tokens = {"HF_TOKEN": TOKEN, "WANDB_API_KEY": "0123456789abcdef" * 2 + "01234567"}
    more = settings(hub_token=TOKEN, report_to="wandb,tensorboard", hub_strategy="end")
    env = hub.env | tokens | {"WANDB_MODE": "offline", "HF_HOME": str(tmp_path / "home")}
    done = train(*flags(work, tmp_path / "run", **more), **env)
    assert hub.repos["models/me/run"].messages == ["initial commit", "After 60 images"]  # at the end alone
    assert list((tmp_path / "run").rglob("*.wandb")) and list((tmp_path / "run").rglob("events.out*"))
    kept = {str(path): path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    kept |= {"printed": (done.stdout + done.stderr).encode()}
    kept |= {f"hub {name}/{path}": c for name, repo in hub.repos.items() for path, c in repo.files.items()}
    for token in tokens.values():
        assert [name for name, content in kept.items() if token.encode() in content] == []


# ----------------------------------------------------------------------------------------------- a visitor of the Hub


def snippets(card):
    """The Python of a card, each with what a visitor would type around it."""
    return [part.split("```")[0] for part in card.split("```python\n")[1:]]


@pytest.mark.parametrize("stock", [False, True], ids=["own", "stock"])
def test_every_snippet_of_the_card_runs(finished, publish, near_hub, run_python, tmp_path, stock):
    assert "is at" in publish(finished, "--repo_id", "me/faces", *["--export_stock"] * stock)
    codes = snippets(near_hub.repos["models/me/faces"].files["README.md"].decode())
    assert len(codes) == 3 and sum("pipeline_anime_ddpm" in code for code in codes) == 1
    looks = "\nimport os\nassert os.path.getsize('face.png') > 100\nos.remove('face.png')\n"
    for package in (True, False):
        program = looks.join(code for code in codes if ("pipeline_anime_ddpm" in code) == package) + looks
        run_python(
            program.replace("num_inference_steps=250", "num_inference_steps=2"), env=near_hub.env, package=package
        )


# Blocks every distribution that torch and diffusers do not need themselves, as in an environment with those two alone.
ONLY_DIFFUSERS_AND_TORCH = """
import importlib.metadata as metadata, re, sys
wanted, needed = ["torch", "diffusers"], set()
while wanted:
    name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
    if name in needed:
        continue
    needed.add(name)
    try:
        for line in metadata.requires(name) or ():
            if "extra ==" not in line:
                wanted.append(re.match(r"[\\w.-]+", line).group())
    except metadata.PackageNotFoundError:
        pass
owners = metadata.packages_distributions()
normal = lambda name: re.sub(r"[-_.]+", "-", name).lower()
blocked = {top for top, of in owners.items() if not any(normal(name) in needed for name in of)}
assert {"transformers", "accelerate", "datasets", "gradio"} <= blocked, blocked
from importlib.machinery import PathFinder
class Only(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [Only if finder is PathFinder else finder for finder in sys.meta_path]
version = metadata.version
def only_version(name):
    if normal(name) not in needed:
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = only_version
"""


def test_with_diffusers_and_torch_alone_at_a_revision_and_in_half_precision(
    finished, publish, near_hub, run_python, tmp_path
):
    publish(finished, "--repo_id", "me/faces", "--weights", "both")
    repository = near_hub.repos["models/me/faces"]
    revision = repository.head
    evil = {path: b"raise SystemExit('changed')" for path in repository.files if path.endswith(".py")}
    repository.commit(repository.files | evil, "Changed by somebody")
    run_python(
        ONLY_DIFFUSERS_AND_TORCH
        + """
import numpy as np, torch
from diffusers import DiffusionPipeline
torch.set_num_threads(1)
revision, out = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained("me/faces", trust_remote_code=True, revision=revision)
draw = lambda p: p(2, torch.Generator().manual_seed(3), num_inference_steps=4, output_type="np").images
np.save(out + "/whole.npy", draw(pipe))
pipe = DiffusionPipeline.from_pretrained("me/faces", trust_remote_code=True, revision=revision, variant="fp16")
np.save(out + "/half.npy", draw(pipe))
try:
    DiffusionPipeline.from_pretrained("me/faces", trust_remote_code=True)
except SystemExit as error:
    assert "changed" in str(error)
else:
    raise SystemExit("the newest code was not run, so that this test shows nothing")
""",
        revision,
        tmp_path,
        env=near_hub.env,
        package=False,
    )
    pipe = AnimeDDPMPipeline.from_pretrained(finished)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(2, torch.Generator().manual_seed(3), num_inference_steps=4, output_type="np").images
    assert np.array_equal(np.load(tmp_path / "whole.npy"), expected)
    half = np.load(tmp_path / "half.npy")
    assert not np.array_equal(half, expected) and np.abs(half - expected).max() < 0.02


def test_weights_that_are_pickled_are_not_loaded(finished, tmp_path):
    """A pickle in place of the weights would run on loading; nothing of it is touched."""
    weights = finished / "unet" / "diffusion_pytorch_model.safetensors"
    trap = tmp_path / "trap"
    (finished / "unet" / "diffusion_pytorch_model.bin").write_bytes(
        b"cos\nsystem\n(S'touch " + str(trap).encode() + b"'\ntR."
    )
    AnimeDDPMPipeline.from_pretrained(finished)
    weights.unlink()
    with pytest.raises((OSError, ValueError)):
        AnimeDDPMPipeline.from_pretrained(finished)
    assert not trap.exists()


def test_data_set_on_the_hub_is_streamed_into_a_run_that_is_published(work, hub, run_python, tmp_path):
    run_python(
        """
import sys
from datasets import load_dataset
load_dataset("imagefolder", data_dir=sys.argv[1], split="train").push_to_hub("tester/faces-data", private=True)
""",
        work / "faces",
        env=hub.env | {"HF_DATASETS_OFFLINE": "0"},
    )
    assert hub.repos["datasets/tester/faces-data"].private
    more = settings(dataset_name="tester/faces-data", streaming=True, hub_strategy="end")
    arguments = [a for a in flags(work, tmp_path / "run", **more) if not a.startswith("--train_data_dir")]
    train(*arguments, **hub.env, HF_DATASETS_OFFLINE="0", HF_HOME=str(tmp_path / "home"))
    card = hub.repos["models/me/run"].files["README.md"].decode()
    assert "datasets:\n- tester/faces-data" in card


def test_push_that_is_killed_goes_on(finished, hub, tmp_path):
    """SIGKILL in the middle of the upload; the next push sends only what is missing."""
    hub.fail(LFS, 500, 1)  # the client waits before its second try, and is killed there
    command = [sys.executable, "-m", "pipeline_anime_ddpm", "publish", str(finished), "--repo_id", "me/faces"]
    env = environment(**hub.env, HF_HOME=str(tmp_path / "home"), PYTHONPATH=str(ROOT))
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not hub.lfs and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    there = set(hub.lfs)
    assert there and len(hub.repos["models/me/faces"].commits) == 1
    hub.requests.clear()
    subprocess.run(command, env=env, check=True, capture_output=True)
    assert not [request for request in sent(hub) if request.removeprefix("PUT /lfs/") in there]
    assert len(hub.repos["models/me/faces"].commits) == 2
