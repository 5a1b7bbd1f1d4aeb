"""`Run`: its progress, and the share of the data that a rank reads."""

from types import SimpleNamespace

import pytest
from checkpoint_parts import new_state

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.recipe.run import Run, check
from pipeline_anime_ddpm.recipe.schedule import RunSchedule
from pipeline_anime_ddpm.training.config import TrainingConfig


def run_of(state, **given):
    plans = SimpleNamespace(feed=lambda plan: plan)
    accelerator = SimpleNamespace(process_index=1, num_processes=2)
    config = TrainingConfig(output_dir="run", dataloader_num_workers=3)
    fields = {"model": state.unet, "unet": state.unet, "scheduler": state.scheduler, "patches": None} | given
    return Run(config, accelerator, state=state, schedule=RunSchedule(20, 8, 5), data=plans, **fields)


def test_progress_follows_the_step(tiny_unet):
    run = run_of(new_state(tiny_unet))
    run.state.step = 4
    assert run.images_seen == 32 and not run.is_done
    run.state.step = 5
    assert run.is_done and run.upscale_ratio == 1


def test_rank_reads_its_share_of_the_steps_that_are_left(tiny_unet):
    state = new_state(tiny_unet)
    state.step, state.feeds = 2, [{"at": 1}, {"at": 7}]
    plan = run_of(state).feed()
    assert (plan.rank_batch, plan.first_step, plan.last_step) == (4, 2, 5)
    assert (plan.rank, plan.world, plan.num_workers, plan.state) == (1, 2, 3, {"at": 7})


def test_metrics_are_checked_only_where_they_are_measured(tmp_path):
    output = str(tmp_path / "run")
    assert check(TrainingConfig(output_dir=output)).title is None
    with pytest.raises(UserError, match="--eval_metrics knows"):
        check(TrainingConfig(output_dir=output, eval_steps=5, eval_metrics="isc"))
