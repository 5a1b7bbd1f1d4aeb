"""The command line: what it says at once, and that only what is asked for is imported."""

import contextlib
import subprocess
import sys

import pytest

from pipeline_anime_ddpm import __version__
from pipeline_anime_ddpm.cli import COMMANDS, main

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


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "cache"])
def test_each_command_tells_its_flags(command, capsys):
    with contextlib.suppress(SystemExit):
        main([command, "--help"])
    assert f"usage: anime-ddpm {command}" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["evaluat"], ["--nonsense"]])
def test_a_command_that_is_none_is_refused_with_the_list(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2 and "COMMAND" in capsys.readouterr().err


def test_bitsandbytes_does_not_complain_of_what_nobody_asked_for():
    pytest.importorskip("bitsandbytes")
    code = "from pipeline_anime_ddpm import AnimeDDPMPipeline; import bitsandbytes"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "gemm_4bit_forward" not in done.stderr
