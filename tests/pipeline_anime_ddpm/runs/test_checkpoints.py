"""Checkpoints: which one is taken, refused, pruned."""

import json
import os

import pytest
import torch
from checkpoint_parts import everything, new_state, train

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.runs import checkpoints
from pipeline_anime_ddpm.runs.checkpoint_files import check_whole
from pipeline_anime_ddpm.runs.checkpoints import (
    drop_checkpoints_after,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)


@pytest.mark.parametrize(
    ("averages", "optimizer"),
    [((), "adamw"), (("ema",), "muon"), (("ema", "power-0.05", "power-0.1"), "adamw")],
)
def test_resuming_equals_never_having_stopped(tiny_unet, tmp_path, averages, optimizer):
    whole = new_state(tiny_unet, averages, optimizer=optimizer)
    train(whole, 4)
    first = new_state(tiny_unet, averages, optimizer=optimizer)
    train(first, 2)
    save_checkpoint(tmp_path, first)
    second = new_state(tiny_unet, averages, optimizer=optimizer)
    load_checkpoint(find_checkpoint(tmp_path, None), second)
    assert second.step == 2 and all(average.step == 2 for average in second.averages.values())
    assert (second.ema is None) == (not averages)
    train(second, 2)
    assert all(torch.equal(a, b) for a, b in zip(everything(whole), everything(second), strict=True))
    assert second.lr_scheduler.get_last_lr() == whole.lr_scheduler.get_last_lr()


@pytest.mark.parametrize(("before", "after"), [("adamw", "muon"), ("muon", "adamw")])
def test_checkpoint_of_another_optimizer_is_refused_and_changes_nothing(tiny_unet, tmp_path, before, after):
    written, other = new_state(tiny_unet, optimizer=before), new_state(tiny_unet, optimizer=after)
    train(written, 1)
    folder = save_checkpoint(tmp_path, written)
    weights = [weight.clone() for weight in other.unet.state_dict().values()]
    with pytest.raises(UserError, match=f"{folder} was written with another optimiser; give the same --optimizer"):
        load_checkpoint(folder, other)
    assert all(map(torch.equal, weights, other.unet.state_dict().values()))


def test_tensors_are_safetensors_and_nothing_is_pickled(tiny_unet, tmp_path):
    state = new_state(tiny_unet)
    train(state, 1)
    folder = save_checkpoint(tmp_path, state)
    assert {p.suffix for p in folder.iterdir()} == {".safetensors", ".json"}


def test_only_the_newest_are_kept_in_order_of_steps(tiny_unet, tmp_path):
    state = new_state(tiny_unet)
    for step in (5, 90, 100):
        state.step = step
        save_checkpoint(tmp_path, state, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["checkpoint-90", "checkpoint-100"]
    state.step = 110
    save_checkpoint(tmp_path, state, keep=None)
    assert len(list_checkpoints(tmp_path)) == 3


def test_checkpoint_just_written_is_never_pruned(tiny_unet, tmp_path):
    state = new_state(tiny_unet)
    for step in (10, 20, 30):
        state.step = step
        save_checkpoint(tmp_path, state)
    state.step = 15  # resumed by name from an older one
    assert save_checkpoint(tmp_path, state, keep=2).exists()
    assert [p.name for p in list_checkpoints(tmp_path)] == ["checkpoint-15", "checkpoint-30"]
    save_checkpoint(tmp_path, state, keep=2)
    assert not list(tmp_path.glob(".*")), "writing the same step again leaves nothing beside it"


def test_checkpoint_cut_off_while_written_is_never_chosen(tiny_unet, tmp_path, monkeypatch):
    state = new_state(tiny_unet)
    save_checkpoint(tmp_path, state)

    def killed(*_):
        raise KeyboardInterrupt

    state.step = 1
    monkeypatch.setattr(checkpoints, "publish_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, state)
    monkeypatch.undo()
    assert find_checkpoint(tmp_path, "latest").name == "checkpoint-0"
    save_checkpoint(tmp_path, state)
    assert find_checkpoint(tmp_path, None).name == "checkpoint-1"


def test_checkpoint_can_be_asked_for_by_name_or_path(tiny_unet, tmp_path):
    state = new_state(tiny_unet)
    save_checkpoint(tmp_path, state)
    assert find_checkpoint(tmp_path, "checkpoint-0") == tmp_path / "checkpoint-0"
    assert find_checkpoint(tmp_path / "elsewhere", str(tmp_path / "checkpoint-0")) == tmp_path / "checkpoint-0"
    assert find_checkpoint(tmp_path / "elsewhere", None) is None
    for missing in ("checkpoint-7", str(tmp_path / "elsewhere" / "checkpoint-0")):
        with pytest.raises(UserError, match="there are: checkpoint-0"):
            find_checkpoint(tmp_path, missing)


def test_rerun_with_resume_from_checkpoint_uses_the_newest_checkpoint(tiny_unet, tmp_path, monkeypatch):
    state, mine, other = new_state(tiny_unet), tmp_path / "mine", tmp_path / "other"
    save_checkpoint(mine, state)
    save_checkpoint(other, state)
    assert find_checkpoint(mine, str(other / "checkpoint-0")) == other / "checkpoint-0", "and not the one of that name"
    state.step = 1
    save_checkpoint(mine, state)
    for asked in ("checkpoint-0", str(other / "checkpoint-0")):
        assert find_checkpoint(mine, asked).name == "checkpoint-0"
        assert find_checkpoint(mine, asked, is_same_resume_request=True) == mine / "checkpoint-1"
        assert (
            find_checkpoint(tmp_path / "new", str(other / "checkpoint-0"), is_same_resume_request=True).parent == other
        )
    state.step = 3
    save_checkpoint(other, state)
    asked = str(other / "checkpoint-3")
    assert find_checkpoint(mine, asked, is_same_resume_request=True) == other / "checkpoint-3", (
        "killed before one of its own"
    )
    monkeypatch.chdir(tmp_path / "other")
    assert find_checkpoint(tmp_path / "new", "checkpoint-0").resolve() == other / "checkpoint-0"


@pytest.mark.parametrize(
    "spoilt",
    [[], {}, {"step": "3"}, {"model": None}, {"model": {}}, {"feeds": {}}, {"averages": {}}, {"optimizer": {}},
     {"numerics": None}, "[" * 10**5],
)  # fmt: skip
def test_progress_that_says_something_else_is_damage(tiny_unet, tmp_path, spoilt):
    state = new_state(tiny_unet)
    folder = save_checkpoint(tmp_path, state)
    record = folder / "progress.json"
    whole = json.loads(record.read_text())
    record.write_text(spoilt if isinstance(spoilt, str) else json.dumps(whole | spoilt if spoilt else spoilt))
    with pytest.raises(UserError, match=f"{folder} is damaged"):
        load_checkpoint(folder, new_state(tiny_unet))


@pytest.mark.parametrize("digests", ["{}", "[]", "names that lead elsewhere"])
def test_digests_of_other_files_are_damage(tiny_unet, tmp_path, digests):
    folder = save_checkpoint(tmp_path, new_state(tiny_unet))
    record = folder / "digests.json"
    elsewhere = json.dumps(json.loads(record.read_text()) | {str(tmp_path / "pipe"): "0"})
    os.mkfifo(tmp_path / "pipe")  # whoever reads it waits for ever
    record.write_text(elsewhere if "names" in digests else digests)
    with pytest.raises(UserError, match=f"{folder} is damaged"):
        check_whole(folder)


def test_machine_that_is_short_of_memory_has_no_damaged_checkpoint(tiny_unet, tmp_path, monkeypatch):
    state = new_state(tiny_unet)
    folder = save_checkpoint(tmp_path, state)

    def too_large(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(state.optimizer, "load_state_dict", too_large)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        load_checkpoint(folder, state)


def test_checkpoint_that_is_a_link_is_pruned_without_what_it_leads_to(tiny_unet, tmp_path):
    state = new_state(tiny_unet)
    kept = save_checkpoint(tmp_path / "other", state)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint-0").symlink_to(kept)
    state.step = 1
    save_checkpoint(tmp_path / "run", state, keep=1)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["checkpoint-1"]
    check_whole(kept)


def test_run_that_resumes_from_a_step_keeps_its_checkpoint_and_drops_later_ones(tmp_path):
    for step in (3, 6, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
    drop_checkpoints_after(tmp_path, 6)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-6"]
