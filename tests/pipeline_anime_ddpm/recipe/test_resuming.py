"""Runs go on from a checkpoint that all processes share."""

import re
from types import SimpleNamespace

import pytest
from checkpoint_parts import new_state

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.recipe import resuming
from pipeline_anime_ddpm.runs.checkpoints import save_checkpoint
from pipeline_anime_ddpm.training.config import TrainingConfig


def test_processes_that_see_different_checkpoints_are_refused(monkeypatch):
    monkeypatch.setattr(resuming, "gather_object", lambda mine: [*mine, 0])

    class Run:
        class state:
            step = 500

    with pytest.raises(UserError, match=r"different steps \(0, 500\); put --output_dir on storage"):
        resuming.check_ranks_agree(Run)


@pytest.mark.parametrize(
    ("feeds", "processes", "dropout", "says"),
    [
        ([], 2, 0, ""),
        ([None, None], 2, 0, ""),
        ([None], 2, 0, "It had 1 processes and has 2 now: .* only rounding will differ"),
        ([None], 2, 0.1, "only rounding and dropout masks will differ"),
        ([{"at": 1}], 2, 0, ""),
    ],
)
def test_effect_of_another_number_of_processes_is_said(feeds, processes, dropout, says):
    run = SimpleNamespace(
        state=SimpleNamespace(feeds=feeds),
        accelerator=SimpleNamespace(num_processes=processes),
        unet=SimpleNamespace(config=SimpleNamespace(dropout=dropout)),
    )
    said = resuming.other_ranks(run)
    assert re.search(says, said) and bool(said) == bool(says)


def test_checkpoint_of_other_averages_is_refused(tiny_unet, tmp_path):
    state = new_state(tiny_unet, averages=())
    save_checkpoint(tmp_path, state)
    denoiser = SimpleNamespace(unet=state.unet, scheduler=state.scheduler)
    given = {"output_dir": str(tmp_path), "resume_from_checkpoint": "latest"}
    found = resuming.choose_checkpoint(TrainingConfig(use_ema=False, **given), denoiser)
    assert found == tmp_path / "checkpoint-0"
    anew = TrainingConfig(overwrite_output_dir=True, output_dir=str(tmp_path))
    assert resuming.choose_checkpoint(anew, denoiser) is None
    with pytest.raises(UserError, match="ema"):
        resuming.choose_checkpoint(TrainingConfig(use_ema=True, **given), denoiser)
