"""Lengths and intervals are the same in images whatever the batch, the ranks and the accumulation."""

import pytest

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.recipe.schedule import RunSchedule
from pipeline_anime_ddpm.training.config import TrainingConfig


def plan(processes=1, num_images=100, **settings):
    return RunSchedule.plan(TrainingConfig(train_data_dir="faces", **settings), num_images, processes)


@pytest.mark.parametrize(("batch", "accumulation", "processes"), [(8, 1, 1), (4, 2, 1), (2, 1, 4)])
def test_same_images_make_the_same_steps(batch, accumulation, processes):
    settings = {"train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    schedule = plan(processes, max_train_images=84, **settings)
    assert (schedule.images_per_step, schedule.total_steps) == (8, 11)
    assert plan(processes, num_epochs=2, **settings).total_steps == 25
    assert plan(processes, max_train_steps=3, **settings).total_steps == 3


def test_epochs_end_once_each():
    schedule = plan(num_images=10, train_batch_size=4, num_epochs=6)
    ends = [step for step in range(1, schedule.total_steps + 1) if schedule.epochs_end(step, 1)]
    assert ends == [3, 5, 8, 10, 13, 15]
    assert [step for step in range(1, 16) if schedule.epochs_end(step, 2)] == [5, 10, 15]


def test_data_set_of_unknown_size_needs_a_length_in_images_or_steps():
    with pytest.raises(UserError, match="--max_train_images"):
        plan(num_images=None)
    schedule = plan(num_images=None, max_train_steps=9)
    assert schedule.total_steps == 9
    assert not any(schedule.epochs_end(step, 1) for step in range(1, 10))
