"""Finding the launcher of a run, whose end stops the run too."""

import os

import psutil
import pytest

from pipeline_anime_ddpm.recipe.stopping import find_launcher


@pytest.mark.parametrize(
    ("command", "is_launcher"),
    [
        ("/env/bin/accelerate launch train_anime_ddpm.py", True),
        ("/env/bin/python3.11 /env/bin/accelerate launch train_anime_ddpm.py", True),
        ("python -m accelerate.commands.launch train_anime_ddpm.py", True),
        ("/env/bin/python /env/bin/torchrun --nproc_per_node 2 train_anime_ddpm.py", True),
        ("python -u -m torch.distributed.run train_anime_ddpm.py", True),
        ("bash submit.sh --backend torchrun", False),
        ("python submit.py --launcher accelerate", False),
        ("bash", False),
        ("", False),
    ],
)
def test_launcher_is_recognised_by_its_command(monkeypatch, command, is_launcher):
    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: command.split())
    assert find_launcher() == (os.getppid() if is_launcher else None)
