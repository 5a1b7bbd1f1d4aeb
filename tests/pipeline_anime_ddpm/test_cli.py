"""The command line: help, lazy imports and exit status."""

import contextlib
import subprocess
import sys

import pytest

from pipeline_anime_ddpm import __version__
from pipeline_anime_ddpm.cli import COMMANDS, main
from pipeline_anime_ddpm.evaluation.commands import MOST_USED as EVALUATE_FLAGS
from pipeline_anime_ddpm.training.config import MOST_USED as TRAIN_FLAGS

QUICK = """
import sys
from pipeline_anime_ddpm.cli import main

try:
    main(sys.argv[1:])
finally:
    print([name for name in ("torch", "diffusers", "numpy", "huggingface_hub") if name in sys.modules])
"""


@pytest.mark.parametrize("argument, said", [("--help", list(COMMANDS)), ("--version", [__version__])])
def test_help_and_version_import_nothing_heavy(argument, said, run_python, tmp_path):
    printed = run_python(QUICK, argument)
    assert all(word in printed for word in said) and printed.endswith("[]\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_begins_with_one_line_of_usage_and_an_example(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with contextlib.suppress(SystemExit):
        main([command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: anime-ddpm {command} ") and lines[1] == ""
    assert any(line.startswith(f"  anime-ddpm {command} ") for line in lines[2:6])
    assert max(map(len, lines[:10])) <= 100


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize(("command", "most_used"), [("train", TRAIN_FLAGS), ("evaluate", EVALUATE_FLAGS)])
def test_most_used_flags_fit_on_the_first_screen(command, most_used, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    with contextlib.suppress(SystemExit):
        main([command, "--help"])
    lines = capsys.readouterr().out.splitlines()[:40]
    assert all(f"  --{name} " in "\n".join(lines) for name in most_used)
    assert max(map(len, lines)) <= columns


def test_help_of_train_explains_how_to_resume(capsys):
    with contextlib.suppress(SystemExit):
        main(["train", "--help"])
    printed = capsys.readouterr().out
    assert "run the same command again" in printed and "--no-random_flip" not in printed


@pytest.mark.parametrize("argv", [[], ["evaluat"], ["--nonsense"]])
def test_unknown_command_is_refused_with_the_list(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2 and "COMMAND" in capsys.readouterr().err


def test_bitsandbytes_import_is_silent():
    pytest.importorskip("bitsandbytes")
    code = "from pipeline_anime_ddpm import AnimeDDPMPipeline; import bitsandbytes"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "gemm_4bit_forward" not in done.stderr
