"""Files of a checkpoint, and handling of damaged ones."""

import itertools
import json
import os
import random
import shutil
import signal
from unittest.mock import Mock

import fault_kinds
import fault_runs
import pytest
import torch
from checkpoint_parts import everything, new_state, train
from safetensors import SafetensorError

from pipeline_anime_ddpm.common.atomic import restore_replaced
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.runs import checkpoint_files
from pipeline_anime_ddpm.runs.checkpoint_files import check_whole
from pipeline_anime_ddpm.runs.checkpoints import (
    check_checkpoint,
    find_checkpoint,
    last_good_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"block_out_channels": (8, 24)}, "block_out_channels is"),
        ({"averages": ()}, "ema, power-0.1 there, none now"),
        ({"averages": ("ema", "power-0.05")}, "ema, power-0.1 there, ema, power-0.05 now"),
        ({"noise": AnimeNoiseScheduler(prediction_type="sample")}, "prediction_type is v_prediction there"),
        ({"noise": AnimeNoiseScheduler(beta_schedule="linear")}, "noise table is"),
    ],
)
def test_another_model_s_checkpoint_is_refused(tiny_unet, tmp_path, change, says):
    same = new_state(tiny_unet, ("ema", "power-0.1"))
    folder = save_checkpoint(tmp_path, same)
    check_checkpoint(folder, same.unet, same.scheduler, averages=["power-0.1", "ema"])
    other = new_state(tiny_unet, **{"averages": ("ema", "power-0.1")} | change)
    with pytest.raises(UserError, match=says):
        check_checkpoint(folder, other.unet, other.scheduler, averages=other.averages)


@pytest.mark.parametrize("averages", [(), ("ema",)])
def test_old_checkpoint_with_one_ema_still_resumes(tiny_unet, tmp_path, averages):
    state = new_state(tiny_unet, averages)
    train(state, 2)
    record = save_checkpoint(tmp_path, state) / "progress.json"
    old = json.loads(record.read_text())
    del old["averages"], old["model"]["averages"], old["optimizer"]["same"]
    old["model"]["use_ema"], old["ema_step"] = bool(averages), 2 if averages else None
    record.write_text(json.dumps(old))
    again = new_state(tiny_unet, averages)
    check_checkpoint(record.parent, again.unet, again.scheduler, averages=averages)
    with pytest.raises(UserError, match="other averages of the weights"):
        check_checkpoint(record.parent, again.unet, again.scheduler, averages=["power-0.1"])
    load_checkpoint(record.parent, again)
    assert all(map(torch.equal, everything(state), everything(again)))
    assert [average.step for average in again.averages.values()] == [2] * len(averages)


def test_loaded_ema_is_float32_on_its_device(tiny_unet, tmp_path):
    state, again = (new_state(tiny_unet, ("power-0.1",)) for _ in range(2))
    train(state, 1)
    places = [shadow.data_ptr() for shadow in again.averages["power-0.1"].shadow]
    load_checkpoint(save_checkpoint(tmp_path, state), again)
    shadow = again.averages["power-0.1"].shadow
    assert [s.data_ptr() for s in shadow] == places and {s.dtype for s in shadow} == {torch.float32}
    assert all(map(torch.equal, shadow, state.averages["power-0.1"].shadow))


class EightBitOptimizer:
    """State as 8-bit optimisers have it: bytes, and tables that are one tensor for all parameters."""

    def __init__(self):
        self.parameters = [torch.zeros(2, 3) for _ in range(3)]
        self.state = {}
        self.param_groups = [{"lr": 1e-3, "betas": (0.9, 0.99), "params": self.parameters}]

    def fill(self):
        table, flat = torch.linspace(-1, 1, 256), torch.arange(12.0)
        for index, parameter in enumerate(self.parameters):
            self.state[parameter] = {
                "step": 7,
                "state1": torch.arange(6, dtype=torch.uint8).reshape(2, 3) + index,
                "qmap1": table,
                "absmax1": flat[2 * index : 2 * index + 4],  # overlaps with the next
                "reversed": torch.arange(6, dtype=torch.int64).reshape(2, 3).T,
                "none": torch.empty(0),
            }

    def state_dict(self):
        state = {index: self.state[parameter] for index, parameter in enumerate(self.parameters)}
        return {"state": state, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.99), "params": [0, 1, 2]}]}

    def load_state_dict(self, state):
        self.state = {self.parameters[index]: entries for index, entries in state["state"].items()}


def test_tensors_that_share_memory_and_bytes_survive_in_an_optimizer_s_state(tiny_unet, tmp_path):
    state, again = new_state(tiny_unet), new_state(tiny_unet)
    state.optimizer, again.optimizer = EightBitOptimizer(), EightBitOptimizer()
    state.optimizer.fill()
    folder = save_checkpoint(tmp_path, state)
    load_checkpoint(folder, again)
    before, after = (s.optimizer.state_dict()["state"] for s in (state, again))
    assert after.keys() == before.keys() == {0, 1, 2}
    for index, entries in before.items():
        restored = after[index]
        assert restored.keys() == entries.keys() and restored.pop("step") == 7
        for name, value in restored.items():
            assert value.dtype == entries[name].dtype and torch.equal(value, entries[name]), name
    assert after[0]["qmap1"] is after[2]["qmap1"], "stored once"
    assert (folder / "optimizer.safetensors").stat().st_size < 2 * 256 * 4


@pytest.mark.parametrize(
    ("name", "value", "says"), [("data", {"images": 6}, "images: 5 there, 6 now"), ("images_per_step", 77, "must stay")]
)
def test_checkpoint_of_other_data_is_refused_and_changes_nothing(tiny_unet, tmp_path, name, value, says):
    state = new_state(tiny_unet)
    train(state, 1)
    folder = save_checkpoint(tmp_path, state)
    other = new_state(tiny_unet)
    setattr(other, name, value)
    before = [t.clone() for t in other.unet.state_dict().values()]
    with pytest.raises(UserError, match=says):
        load_checkpoint(folder, other)
    assert all(map(torch.equal, before, other.unet.state_dict().values()))


FILES = ["progress.json", *(f"{name}.safetensors" for name in ("unet", "optimizer", "ema", "power-0.1"))]


@pytest.mark.parametrize("file", FILES)
def test_damaged_checkpoint_is_refused_with_a_sentence(tiny_unet, tmp_path, file):
    state = new_state(tiny_unet, ("ema", "power-0.1"))
    train(state, 1)
    folder = save_checkpoint(tmp_path, state)
    (folder / file).write_bytes((folder / file).read_bytes()[:20])
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(folder, new_state(tiny_unet, ("ema", "power-0.1")))


@pytest.mark.parametrize("file", [*FILES, "meter.safetensors", "digests.json"])
@pytest.mark.parametrize(
    "spoil", [fault_kinds.unreadable, fault_kinds.truncated, fault_kinds.flipped, lambda file, _: file.unlink()]
)
def test_checkpoint_before_is_taken_for_a_damaged_one(tiny_unet, tmp_path, caplog, file, spoil):
    state = new_state(tiny_unet, ("ema", "power-0.1"))
    for _ in range(2):
        train(state, 1)
        save_checkpoint(tmp_path, state)
    spoil(tmp_path / "checkpoint-2" / file, random.Random(0))
    assert find_checkpoint(tmp_path, None).name == "checkpoint-1"
    assert "checkpoint-2 is damaged" in caplog.text and "resuming from the previous one" in caplog.text
    with pytest.raises(UserError, match="is damaged" if file != "progress.json" else "is (damaged|not a checkpoint)"):
        find_checkpoint(tmp_path, "checkpoint-2")
    spoil(tmp_path / "checkpoint-1" / file, random.Random(1))
    with pytest.raises(UserError, match=r"All checkpoints in .* are damaged; give --overwrite_output_dir"):
        find_checkpoint(tmp_path, "latest")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("spoil", [fault_kinds.unreadable, fault_kinds.truncated, lambda file, _: file.unlink()])
def test_run_goes_back_to_the_newest_whole_checkpoint_after_a_finite_gradient(tiny_unet, tmp_path, caplog, file, spoil):
    state = new_state(tiny_unet, ("ema", "power-0.1"))
    for state.step, state.numerics.in_a_row in ((1, 0), (2, 0), (3, 1)):
        save_checkpoint(tmp_path, state)
    assert last_good_checkpoint(tmp_path).name == "checkpoint-2" and not caplog.text
    for name, left in (("checkpoint-3", "checkpoint-2"), ("checkpoint-2", "checkpoint-1"), ("checkpoint-1", None)):
        spoil(tmp_path / name / file, random.Random(0))
        found = last_good_checkpoint(tmp_path)
        assert (found and found.name) == left and f"{name} is damaged" in caplog.text


def test_kill_at_any_operation_of_saving_and_pruning_leaves_a_whole_checkpoint(tiny_unet, tmp_path):
    """Forks that each die one operation later than the one before, until one lives to the end."""
    state, folder = new_state(tiny_unet), tmp_path / "run"
    train(state, 1)
    first = save_checkpoint(tmp_path / "first", state, keep=1)
    train(state, 1)
    found = []
    for number in itertools.count(1):
        shutil.copytree(tmp_path / "first", folder)
        if (child := os.fork()) == 0:
            fault_runs.strike_at_operation(tmp_path, fault_runs.Strike(rf"\S+ {folder}", number))
            save_checkpoint(folder, state, keep=1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        newest = find_checkpoint(folder, None)
        check_whole(newest)
        found.append(newest.name)
        save_checkpoint(folder, state, keep=1)  # the same again, as a run does that goes on
        assert [p.name for p in list_checkpoints(folder)] == ["checkpoint-2"]
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        shutil.rmtree(folder)
    written = found.index("checkpoint-2")
    assert first.name == "checkpoint-1" and found == ["checkpoint-1"] * written + ["checkpoint-2"] * (number - written)
    assert written > 10 and number - written > 5, "files written, and an old checkpoint deleted, one by one"


def test_kill_at_any_operation_of_saving_a_checkpoint_anew_leaves_one_of_them(tiny_unet, tmp_path):
    state, folder = new_state(tiny_unet), tmp_path / "run"
    first = save_checkpoint(tmp_path / "first", state)
    state.numerics.went_back = True
    nameless = 0
    for number in itertools.count(1):
        shutil.copytree(tmp_path / "first", folder)
        if (child := os.fork()) == 0:
            fault_runs.strike_at_operation(tmp_path, fault_runs.Strike(rf"\S+ {folder}", number))
            save_checkpoint(folder, state)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        nameless += not list_checkpoints(folder)
        restore_replaced(folder)
        check_whole(find_checkpoint(folder, None))
        if status == 0:
            break
        shutil.rmtree(folder)
    assert nameless == 1 and [p.name for p in folder.iterdir()] == [first.name]


def test_full_disk_leaves_the_previous_checkpoint_intact(tiny_unet, tmp_path, monkeypatch):
    state = new_state(tiny_unet)
    save_checkpoint(tmp_path, state)
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    for error in (full, OSError(28, "No space left on device")):
        monkeypatch.setattr(checkpoint_files, "save_file", Mock(side_effect=error))
        state.step = 1
        with pytest.raises(UserError, match=r"checkpoint-1 cannot be written .*No space left.* run the same command"):
            save_checkpoint(tmp_path, state)
        assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-0"] and find_checkpoint(tmp_path, None)


def test_progress_is_strict_json(tiny_unet, tmp_path):
    state = new_state(tiny_unet)
    train(state, 1)

    def refuse(constant):
        raise AssertionError(constant)

    text = (save_checkpoint(tmp_path, state) / "progress.json").read_text()
    assert json.loads(text, parse_constant=refuse)["step"] == 1


def test_data_position_of_every_rank_is_saved(tiny_unet, tmp_path):
    state = new_state(tiny_unet)
    state.feeds = [{"places": [1]}, {"places": [2]}]
    again = new_state(tiny_unet)
    load_checkpoint(save_checkpoint(tmp_path, state), again)
    assert again.feed_of(1, 2) == {"places": [2]}
    with pytest.raises(UserError, match="streaming with 2 processes and has 3 now"):
        again.feed_of(0, 3)
    state.feeds = [None, None]  # cached: the order follows from the step, on any number of ranks
    assert state.feed_of(0, 1) is None


def test_scale_of_half_precision_gradients_comes_back(tiny_unet, tmp_path):
    state = new_state(tiny_unet)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    state.scaler.scale(torch.ones(1, requires_grad=True).sum())
    state.scaler.update(2048.0)
    folder = save_checkpoint(tmp_path, state)
    again = new_state(tiny_unet)
    again.scaler = torch.amp.GradScaler("cpu")
    load_checkpoint(folder, again)
    assert again.scaler.state_dict() == state.scaler.state_dict()
    assert again.scaler.state_dict()["scale"] == 2048.0
