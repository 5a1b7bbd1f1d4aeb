"""What is written in which step, and that nothing is lost when a run ends early."""

import contextlib
import logging
from types import SimpleNamespace

import pytest

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.recipe import saving
from pipeline_anime_ddpm.recipe.schedule import RunSchedule

WRITERS = ("evaluate", "save_samples", "save_model", "save_snapshots", "save_guide", "save_everything")


@pytest.fixture
def written(monkeypatch):
    """The names of the functions that were called instead of writing."""
    names = []
    for name in WRITERS:
        monkeypatch.setattr(saving, name, lambda *_, name=name: names.append(name))
    return names


def run_at(step, total=8, processes=1, **settings):
    """A run on 8 images, 2 a step: an epoch has four steps."""
    config = {"eval_steps": 3, "save_images_epochs": 1, "save_model_epochs": 1, "ema_snapshot_images": 10}
    config |= {"save_guide_at": 6, "checkpointing_steps": 5, "output_dir": "run"} | settings
    state = SimpleNamespace(step=step, averaged_weights=contextlib.nullcontext)
    accelerator = SimpleNamespace(is_main_process=True, num_processes=processes)
    fields = {"schedule": RunSchedule(8, 2, total), "is_done": step >= total, "judge": True, "unet": None}
    fields |= {"config": SimpleNamespace(**config), "state": state, "accelerator": accelerator, "folder": None}
    return SimpleNamespace(**fields)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1, set()),
        (3, {"evaluate", "save_guide"}),
        (4, {"save_samples", "save_model"}),
        (5, {"save_snapshots", "save_everything"}),
        (8, {"evaluate", "save_samples", "save_snapshots", "save_everything"}),
    ],
)
def test_files_are_written_at_their_intervals_and_at_the_end(written, step, expected):
    saving.save_due_files(run_at(step), None, None)
    assert set(written) == expected and len(written) == len(expected)


@pytest.mark.parametrize(
    ("step", "settings", "is_shown"),
    [
        (0, {}, True),
        (1, {}, False),
        (0, {"pretrained_model_name_or_path": None}, False),
        (0, {"new_noise": True}, False),
        (0, {"distill": True}, False),
    ],
)
def test_pretrained_model_is_shown_before_the_first_step(written, step, settings, is_shown):
    given = {"pretrained_model_name_or_path": "model", "new_noise": False, "distill": False} | settings
    saving.save_first_samples(run_at(step, **given), None)
    assert written == ["save_samples"] * is_shown


@pytest.mark.parametrize(("step", "processes", "is_saved"), [(5, 1, True), (0, 1, False), (5, 2, False)])
def test_data_error_keeps_what_was_learned(written, step, processes, is_saved):
    """Other processes wait for this one's gradients, and cannot save."""
    with pytest.raises(UserError), saving.checkpoint_on_data_error(run_at(step, processes=processes), None):
        raise UserError("unreadable")
    assert written == ["save_everything"] * is_saved


def test_step_with_a_checkpoint_is_not_written_again(monkeypatch):
    monkeypatch.setattr(saving, "read_numerics", lambda *_: pytest.fail("written"))
    saving.save_everything(SimpleNamespace(state=SimpleNamespace(step=5, kept_step=5)), None)


def test_warning_of_copies_says_how_many(caplog):
    with caplog.at_level(logging.WARNING):
        saving.warn_of_copies({"memorised": 0.25, "memorised_held_out": 0.01})
    assert "25 % of the samples are copies" in caplog.text and "of held-out images 1 % are" in caplog.text
