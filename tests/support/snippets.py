"""Runs the code blocks of a page in its order, in one folder, as a reader would."""

import contextlib
import glob
import io
import re
import subprocess
from pathlib import Path

from command_flags import commands, without_environment, wrong_flags
from pages import ROOT, Block

SHELL = ("bash", "sh", "shell", "console")
# Programs that install, ask a network or open a server: their flags are read, and they are not run.
NOT_RUN = {
    "pip", "git", "hf", "wandb", "tensorboard", "pytest", "make", "ruff", "mypy", "twine", "pre-commit", "apt-get",
    "nvidia-smi", "docker", "source", "export", "cd",
}  # fmt: skip
PLAIN = {"ls", "cat", "mkdir", "cp", "head", "tail", "find", "du", "echo", "rm", "mv", "wc"}
HUB_MODEL = re.compile(r"(from_pretrained\(\s*)([\"'])(?:you|google)/[\w.-]+\2")


class SnippetError(Exception):
    """A block does not do what the page says."""


def run_block(block: Block, name: str, values: dict) -> None:
    """Run one block; `values` are the variables of the page's Python code.

    Raises:
        SnippetError: it fails, with the page's name and the block's line.
    """
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            if block.language in SHELL:
                run_shell(block.code)
            else:
                code = HUB_MODEL.sub(r"\1\2runs/mine\2", "\n" * block.line + block.code)
                exec(compile(code, name, "exec"), values)
    except (Exception, SystemExit) as error:
        said = "\n".join(line for line in output.getvalue().splitlines() if line.startswith("error:"))
        raise SnippetError(f"{name}:{block.line}: {said or f'{type(error).__name__}: {error}'}") from error


def run_shell(code: str) -> None:
    """Run each command of a block: those of the project in this process."""
    if any(words[0] in PLAIN for _, words in commands(code)):
        subprocess.run(["bash", "-euc", code], check=True, capture_output=True, text=True)
        return
    for _, words in commands(code):
        run_command(without_environment(words))


def run_command(words: list[str]) -> None:
    """Run a command in this process, or only check its flags where it cannot run.

    Raises:
        SnippetError: a flag, a file or the command itself is unknown, or it fails.
    """
    wrong = wrong_flags(words)
    if wrong:
        raise SnippetError(f"{wrong[0]} is no flag of `{words[0]}`")
    if not words or words[0] in NOT_RUN:
        return
    target = own_command(words)
    if target is None or target[0] == "demo":
        return
    if target[0] == "publish" and "--dry_run" not in target:
        target.append("--dry_run")
    with one_process():
        from pipeline_anime_ddpm import cli

        cli.main([part for word in target for part in _expanded(word)])


def own_command(words: list[str]) -> list[str] | None:
    """The words after `anime-ddpm` that do the same; None for a benchmark or a server, which are not run.

    Raises:
        SnippetError: it is no command that the tests know.
    """
    program = Path(words[0]).name
    if program == "anime-ddpm":
        return words[1:]
    if program in ("accelerate", "torchrun"):
        script, is_module, rest = _launched(words)
    elif program == "python":
        is_module = words[1] == "-m"
        script, rest = (words[2], words[3:]) if is_module else (words[1], words[2:])
    else:
        raise SnippetError(f"`{program}` is not known; add it to tests/support/snippets.py, or mark the block")
    if is_module and script == "pipeline_anime_ddpm":
        return rest
    if is_module or not (ROOT / script).is_file():
        raise SnippetError(f"{script} is not there")
    return ["train", *rest] if script == "train_anime_ddpm.py" else None


def _launched(words: list[str]) -> tuple[str, bool, list[str]]:
    """What a launcher starts: the script or module, whether it is a module, and its arguments."""
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args(words[1:])
    else:
        from accelerate.commands.launch import launch_command_parser

        given = launch_command_parser().parse_args(words[2:])
        if given.config_file and not Path(given.config_file).is_file():
            raise SnippetError(f"--config_file {given.config_file} is not there")
    return given.training_script, given.module, given.training_script_args


def _expanded(word: str) -> list[str]:
    return sorted(glob.glob(word)) or [word] if "*" in word else [word]


@contextlib.contextmanager
def one_process():
    """Let accelerate begin anew, on the CPU."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    try:
        yield
    finally:
        AcceleratorState._reset_state(True)
