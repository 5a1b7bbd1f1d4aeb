"""A checkpoint brings a run back bit for bit, and a broken or foreign one is refused in words."""

import json

import pytest
import torch
from diffusers.training_utils import EMAModel

from pipeline_anime_ddpm.training import checkpoints
from pipeline_anime_ddpm.training.checkpoints import (
    TrainingState,
    check_checkpoint,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from pipeline_anime_ddpm.training.errors import UserError
from pipeline_anime_ddpm.training.tracking import LossMeter
from schedulers import AnimeNoiseScheduler


def new_state(tiny_unet, ema=True, noise=None, **unet_settings):
    torch.manual_seed(0)
    unet = tiny_unet(**unet_settings)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-2)
    lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    average = EMAModel(unet.parameters(), use_ema_warmup=True, foreach=True) if ema else None
    return TrainingState(
        unet=unet,
        scheduler=noise or AnimeNoiseScheduler(),
        ema=average,
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        scaler=None,
        meter=LossMeter(1000, "cpu"),
        data={"images": 5},
        images_per_step=2,
    )


def train(state, steps):
    for _ in range(steps):
        noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(state.step))
        error = state.unet(noise, torch.tensor([1, 900])).sample.square().mean(dim=(1, 2, 3))
        error.mean().backward()
        state.meter.add(error.mean(), error.detach(), torch.tensor([1, 900]))
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.lr_scheduler.step()
        if state.ema:
            state.ema.step(state.unet.parameters())
        state.step += 1


def everything(state):
    entries = state.optimizer.state_dict()["state"]
    optimizer = [entries[index][name] for index in sorted(entries) for name in sorted(entries[index])]
    shadow = state.ema.shadow_params if state.ema else []
    return [*state.unet.state_dict().values(), *optimizer, *shadow, state.meter.sums]


@pytest.mark.parametrize("ema", [True, False])
def test_resuming_equals_never_having_stopped(tiny_unet, tmp_path, ema):
    whole = new_state(tiny_unet, ema)
    train(whole, 4)
    first = new_state(tiny_unet, ema)
    train(first, 2)
    save_checkpoint(tmp_path, first)
    second = new_state(tiny_unet, ema)
    load_checkpoint(find_checkpoint(tmp_path, None), second)
    assert second.step == 2
    train(second, 2)
    assert all(torch.equal(a, b) for a, b in zip(everything(whole), everything(second), strict=True))
    assert second.lr_scheduler.get_last_lr() == whole.lr_scheduler.get_last_lr()


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


def test_the_checkpoint_just_written_is_never_pruned(tiny_unet, tmp_path):
    state = new_state(tiny_unet)
    for step in (10, 20, 30):
        state.step = step
        save_checkpoint(tmp_path, state)
    state.step = 15  # resumed by name from an older one
    assert save_checkpoint(tmp_path, state, keep=2).exists()
    assert [p.name for p in list_checkpoints(tmp_path)] == ["checkpoint-15", "checkpoint-30"]
    save_checkpoint(tmp_path, state, keep=2)
    assert not list(tmp_path.glob(".*")), "writing the same step again leaves nothing beside it"


def test_a_checkpoint_cut_off_while_written_is_never_chosen(tiny_unet, tmp_path, monkeypatch):
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


def test_a_checkpoint_can_be_asked_for_by_name_or_path(tiny_unet, tmp_path):
    state = new_state(tiny_unet)
    save_checkpoint(tmp_path, state)
    assert find_checkpoint(tmp_path, "checkpoint-0") == tmp_path / "checkpoint-0"
    assert find_checkpoint(tmp_path / "elsewhere", str(tmp_path / "checkpoint-0")) == tmp_path / "checkpoint-0"
    assert find_checkpoint(tmp_path / "elsewhere", None) is None
    with pytest.raises(UserError, match="there are: checkpoint-0"):
        find_checkpoint(tmp_path, "checkpoint-7")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"block_out_channels": (8, 24)}, "block_out_channels is"),
        ({"ema": False}, "use_ema is True there and False here"),
        ({"noise": AnimeNoiseScheduler(prediction_type="sample")}, "prediction_type is v_prediction there"),
        ({"noise": AnimeNoiseScheduler(beta_schedule="linear")}, "noise table is"),
    ],
)
def test_another_model_s_checkpoint_is_refused(tiny_unet, tmp_path, change, says):
    same = new_state(tiny_unet)
    folder = save_checkpoint(tmp_path, same)
    check_checkpoint(folder, same.unet, same.scheduler, use_ema=True)
    other = new_state(tiny_unet, **change)
    with pytest.raises(UserError, match=says):
        check_checkpoint(folder, other.unet, other.scheduler, use_ema=other.ema is not None)


@pytest.mark.parametrize(
    ("name", "value", "says"), [("data", {"images": 6}, "images: 5 there, 6 now"), ("images_per_step", 77, "must stay")]
)
def test_a_checkpoint_of_other_data_is_refused_and_changes_nothing(tiny_unet, tmp_path, name, value, says):
    state = new_state(tiny_unet)
    train(state, 1)
    folder = save_checkpoint(tmp_path, state)
    other = new_state(tiny_unet)
    setattr(other, name, value)
    before = [t.clone() for t in other.unet.state_dict().values()]
    with pytest.raises(UserError, match=says):
        load_checkpoint(folder, other)
    assert all(map(torch.equal, before, other.unet.state_dict().values()))


@pytest.mark.parametrize("file", ["progress.json", "unet.safetensors", "optimizer.safetensors", "ema.safetensors"])
def test_a_damaged_checkpoint_is_refused_with_a_sentence(tiny_unet, tmp_path, file):
    state = new_state(tiny_unet)
    train(state, 1)
    folder = save_checkpoint(tmp_path, state)
    (folder / file).write_bytes((folder / file).read_bytes()[:20])
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(folder, new_state(tiny_unet))


def test_progress_is_strict_json(tiny_unet, tmp_path):
    state = new_state(tiny_unet)
    train(state, 1)

    def refuse(constant):
        raise AssertionError(constant)

    text = (save_checkpoint(tmp_path, state) / "progress.json").read_text()
    assert json.loads(text, parse_constant=refuse)["step"] == 1


def test_where_the_data_stand_is_kept_for_every_rank_and_asks_for_as_many(tiny_unet, tmp_path):
    state = new_state(tiny_unet)
    state.feeds = [{"places": [1]}, {"places": [2]}]
    again = new_state(tiny_unet)
    load_checkpoint(save_checkpoint(tmp_path, state), again)
    assert again.feed_of(1, 2) == {"places": [2]}
    with pytest.raises(UserError, match="streaming with 2 processes and has 3 now"):
        again.feed_of(0, 3)
    state.feeds = [None, None]  # cached: the order follows from the step, on any number of ranks
    assert state.feed_of(0, 1) is None
