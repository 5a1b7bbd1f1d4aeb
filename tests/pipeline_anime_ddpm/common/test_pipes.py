"""A command ends quietly when the reader of its output closes the pipe."""

import os
import subprocess
import sys

import pytest

from pipeline_anime_ddpm.common.pipes import EXIT_STATUS, quiet_on_closed_pipe


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["cache", "ls"]])
def test_commands_end_quietly_when_the_reader_closes_the_pipe(argv, tmp_path):
    command = [sys.executable, "-m", "pipeline_anime_ddpm", *argv]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=100, env=environment)
    os.close(writer)
    assert done.returncode in (0, EXIT_STATUS) and done.stderr == ""


def test_broken_pipe_of_another_stream_stays_an_error():
    with pytest.raises(BrokenPipeError), quiet_on_closed_pipe():
        raise BrokenPipeError
