"""The flags of every command that the pages name, read from the commands themselves."""

import argparse
import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAG = re.compile(r"(?<![\w-])--[A-Za-z][\w-]*")
SEPARATORS = {"&&", "||", ";", "|", "&"}
# Flags of commands whose parsers are not at hand.
FOREIGN = {
    "pip": {"--upgrade", "--index-url", "--extra-index-url", "--no-deps", "--editable"},
    "pytest": {"--pdb", "--durations", "--lf"},
    "git": {"--depth", "--tags", "--branch"},
    "ruff": {"--check", "--fix"},
    "gradio": {"--share"},
    "wandb": {"--sync-all"},
    "tensorboard": {"--logdir", "--port"},
    "hf": {"--token", "--repo-type", "--local-dir", "--revision"},
    "python": {"--version"},
    "nvidia-smi": set(),
}


def _options(parser: argparse.ArgumentParser) -> set[str]:
    found = {flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                found |= _options(inner)
    return found


@functools.cache
def training_flags() -> frozenset[str]:
    from pipeline_anime_ddpm.training.config import _build_parser

    return frozenset(_options(_build_parser("train")))


@functools.cache
def own_flags(command: str) -> frozenset[str] | None:
    """Of `anime-ddpm COMMAND`; None if there is no such command."""
    from pipeline_anime_ddpm import cli

    if command not in cli.COMMANDS:
        return None
    if command in ("train", "plan"):
        return training_flags() | (frozenset({"--memory"}) if command == "plan" else frozenset())
    if command == "demo":  # without waiting for Gradio
        return script_flags(ROOT / "pipeline_anime_ddpm" / "demo" / "server.py")
    whole = cli._build_parser(command)
    subparsers = next(action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
    return frozenset(_options(subparsers.choices[command]))


@functools.cache
def launch_flags() -> frozenset[str]:
    from accelerate.commands.launch import launch_command_parser

    flags = _options(launch_command_parser())
    return frozenset(flags | {flag.replace("-", "_").replace("__", "--", 1) for flag in flags})


@functools.cache
def torchrun_flags() -> frozenset[str]:
    from torch.distributed.run import get_args_parser

    flags = _options(get_args_parser())
    return frozenset(flags | {"--" + flag[2:].replace("-", "_") for flag in flags})


@functools.cache
def script_flags(path: Path) -> frozenset[str]:
    """The flags that a script adds to its parser, read from its source, which is not run."""
    source = path.read_text()
    found = {"--help"}
    for node in ast.walk(ast.parse(source)):
        names = [node] if isinstance(node, ast.Call) else []
        values: list[str] = []
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):  # add_argument(f"--{name}") of several
            values = [one.value for one in node.iter.elts if isinstance(one, ast.Constant)]
            names = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]
        for call in names:
            if getattr(call.func, "attr", "") != "add_argument" or not call.args:
                continue
            first = call.args[0]
            if isinstance(first, ast.Constant):
                found.add(first.value)
            elif isinstance(first, ast.JoinedStr):
                found |= {f"--{value}" for value in values}
    if re.search(r"^from judging import .*add_flags", source, re.MULTILINE):
        found |= script_flags(path.parent / "judging.py")
    if path.name == "app.py":
        found |= own_flags("demo") or set()
    return frozenset(flag for flag in found if flag.startswith("--"))


@functools.cache
def all_flags() -> frozenset[str]:
    """Of any command that the project has, or that its pages use."""
    from pipeline_anime_ddpm import cli

    found = launch_flags() | torchrun_flags() | training_flags() | {"--help", "--version"}
    for command in cli.COMMANDS:
        found |= own_flags(command) or set()
    for script in (ROOT / "benchmarks").glob("*.py"):
        found |= script_flags(script)
    return frozenset(found.union(*FOREIGN.values()))


def commands(code: str) -> Iterator[tuple[int, list[str]]]:
    """The commands of shell code, as words, with the number of the line that each begins in, from 0.

    Raises:
        ValueError: a quotation is not closed.
    """
    lines = code.splitlines()
    number = 0
    while number < len(lines):
        first, text = number, lines[number]
        while text.endswith("\\") and number + 1 < len(lines):
            number += 1
            text = text[:-1] + " " + lines[number]
        here_document = re.search(r"<<-?\s*['\"]?(\w+)['\"]?", text)
        if here_document:  # what it holds is no command
            while number + 1 < len(lines) and lines[number + 1].strip() != here_document[1]:
                number += 1
            number += 1
        number += 1
        lexer = shlex.shlex(text.removeprefix("$ "), posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in SEPARATORS:
                words.append(word)
            elif words:
                yield first, words
                words = []


def known_flags(words: list[str]) -> frozenset[str] | None:
    """The flags that a command may have; None for a program that is not known."""
    words = without_environment(words)
    if not words:
        return frozenset()
    program, rest = Path(words[0]).name, words[1:]
    if program == "anime-ddpm":
        return frozenset({"--help", "--version"}) | _of_own(rest)
    if program in ("accelerate", "torchrun"):
        return (launch_flags() if program == "accelerate" else torchrun_flags()) | _of_target(rest)
    if program == "python" and (rest[:1] == ["-m"] or rest[:1]):
        return _of_target(rest) | FOREIGN["python"]
    return frozenset(FOREIGN[program]) if program in FOREIGN else None


def without_environment(words: list[str]) -> list[str]:
    while words and re.match(r"[A-Z_][A-Z0-9_]*=", words[0]):
        words = words[1:]
    return words


def _of_own(rest: list[str]) -> frozenset[str]:
    return (own_flags(rest[0]) or frozenset()) if rest else frozenset()


def _of_target(words: list[str]) -> frozenset[str]:
    """Of the script or module that an interpreter or launcher runs."""
    for number, word in enumerate(words):
        if word == "pipeline_anime_ddpm":
            return _of_own(words[number + 1 :])
        if Path(word).name == "train_anime_ddpm.py":
            return training_flags() | {"--help"}
        if word == "app.py" or (word.startswith("benchmarks/") and word.endswith(".py")):
            script = ROOT / word
            own = script_flags(script) if script.is_file() else frozenset()
            return own | (training_flags() if "--" in words else frozenset())
    return frozenset()


def wrong_flags(words: list[str]) -> list[str]:
    """The flags of a command that it does not have."""
    known = known_flags(words)
    given = [match[0] for word in words if (match := re.match(r"--[A-Za-z][\w-]*", word))]
    return [flag for flag in given if flag not in (all_flags() if known is None else known)]
