"""Mistakes of the user become one sentence."""

import errno
import os
import sys

import pytest
from safetensors import SafetensorError

from pipeline_anime_ddpm.common import errors
from pipeline_anime_ddpm.common.errors import UserError, advise_without_flag, one_sentence_errors


def said(capsys, error, starts_over=False):
    sentences = (one_sentence_errors(), advise_without_flag("--overwrite_output_dir", starts_over))
    with pytest.raises(SystemExit) as exit, sentences[0], sentences[1]:
        raise error
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "error: The disk is full ({}: 'runs/x'); free some space and run the same command again."),
        (
            errno.EROFS,
            "error: A file cannot be read or written ({}: 'runs/x'); fix this and run the same command again.",
        ),
        (
            errno.EACCES,
            "error: A file cannot be read or written ({}: 'runs/x'); fix this and run the same command again.",
        ),
    ],
)
def test_disk_errors_are_one_sentence(capsys, number, says):
    reason = f"[Errno {number}] {os.strerror(number)}"
    assert said(capsys, OSError(number, os.strerror(number), "runs/x")) == says.format(reason)
    of_safetensors = SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
    assert os.strerror(number) in said(capsys, of_safetensors)


def test_unexpected_errors_keep_their_traceback():
    for error in (FileNotFoundError(errno.ENOENT, "No such file"), RuntimeError("shapes"), SafetensorError("header")):
        with pytest.raises(type(error)), one_sentence_errors():
            raise error


def test_advice_to_rerun_omits_overwrite_output_dir(capsys):
    for error in (UserError, "make room, and run the same command again."), (OSError, errno.ENOSPC, "No space"):
        kind, *arguments = error
        assert said(capsys, kind(*arguments), True).endswith(
            "run the same command again without --overwrite_output_dir."
        )
        assert said(capsys, kind(*arguments)).endswith("run the same command again.")


@pytest.mark.parametrize("starts_over", [False, True])
def test_process_is_killed_safely(capsys, monkeypatch, starts_over):
    line = said(capsys, RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), starts_over)
    assert line.startswith("error: A process that decodes images has died (DataLoader worker (pid 7) is killed")
    assert ("again without --overwrite_output_dir to resume" in line) is starts_over
    monkeypatch.setattr(errors, "_is_of_lost_rank", lambda error: True)
    monkeypatch.setattr(errors.os, "_exit", sys.exit)
    line = said(capsys, RuntimeError("Connection closed by peer"), starts_over)
    assert line.startswith("error: Another process of this run has ended")
    assert ("again without --overwrite_output_dir to resume" in line) is starts_over
