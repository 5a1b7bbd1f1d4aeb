"""The pages: links lead somewhere, flags exist, sentences are short, and the page of the Python API is up to date."""

import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from command_flags import FLAG, all_flags, commands, known_flags, wrong_flags
from pages import (
    CODE_SPAN,
    COMMENT,
    DOCS,
    README,
    RENDERED,
    ROOT,
    all_pages,
    anchors,
    blanked,
    blocks,
    links,
    name_of,
    numbered_prose,
    without_rendered,
)
from prose import average_length, banned, sentences, words

SHELL = ("bash", "sh", "shell", "console")
MOST_LINES, MOST_LINES_README, MOST_WORDS = 250, 150, 20
PAGES = all_pages()
each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
each_prose_page = pytest.mark.parametrize(
    "page", [page for page in PAGES if page == README or DOCS in page.parents], ids=name_of
)


def report(page: Path, faults: list[tuple[int, str]]) -> None:
    """Fail with one line for each fault: where it is, and what to do."""
    if faults:
        pytest.fail("\n".join(f"{name_of(page)}:{line}: {text}" for line, text in sorted(faults)), pytrace=False)


@each_page
def test_links_and_images_exist(page):
    faults = []
    for line, target in links(page.read_text()):
        path, _, fragment = unquote(target).partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        there = page if not path else (page.parent / path).resolve()
        if not there.exists():
            faults.append((line, f"{target} is not there; write the path from {name_of(page.parent / 'x')[:-1]}"))
        elif not there.is_relative_to(ROOT):
            faults.append((line, f"{target} is outside of the repository; link to a file in it"))
        elif fragment and there.suffix == ".md" and fragment not in anchors(there.read_text()):
            close = ", ".join(sorted(anchors(there.read_text())))
            faults.append((line, f"{name_of(there)} has no heading #{fragment}; it has {close}"))
    report(page, faults)


@each_page
def test_flags_in_code_exist(page):
    faults = []
    for block in blocks(without_rendered(page.read_text())):
        if block.language not in SHELL:
            continue
        for offset, command in commands(block.code):
            line = block.line + 1 + offset
            faults += [(line, f"{flag} is no flag of `{command[0]}`; see its --help") for flag in wrong_flags(command)]
            if known_flags(command) == frozenset() and command[0] in ("anime-ddpm", "python", "accelerate"):
                faults.append((line, f"`{' '.join(command[:3])}` is no command of the project; correct it"))
    report(page, faults)


@each_page
def test_flags_in_prose_exist(page):
    faults = []
    text = page.read_text()
    for line, prose in numbered_prose(blanked(text, COMMENT)):
        found = {flag: None for flag in FLAG.findall(prose) if flag not in all_flags()}
        for span in CODE_SPAN.finditer(prose):
            if span[2].startswith(("anime-ddpm ", "accelerate launch ", "python ", "torchrun ")):
                found |= dict.fromkeys(flag for _, command in commands(span[2]) for flag in wrong_flags(command))
        faults += [(line, f"{flag} is no flag of that command; see its --help") for flag in found]
    for block in blocks(text):
        if block.language not in SHELL:
            unknown = [flag for flag in FLAG.findall(block.code) if flag not in all_flags()]
            faults += [(block.line, f"{flag} in this block is no flag of the project; correct it") for flag in unknown]
    report(page, faults)


@each_page
def test_pages_are_short(page):
    text = page.read_text()
    most = MOST_LINES_README if page == README else MOST_LINES
    lines = len((text if page == README else RENDERED.sub("", text)).splitlines())
    assert lines <= most, f"{name_of(page)} has {lines} lines; make it {most} or fewer, or split it"


@each_prose_page
def test_sentences_are_short(page):
    text = page.read_text()
    longest = sorted(sentences(text), key=words, reverse=True)[:5]
    shown = "\n".join(f"  {words(sentence)} words: {sentence}" for sentence in longest)
    average = average_length(text)
    assert average <= MOST_WORDS, f"{name_of(page)} has {average:.1f} words a sentence; split the longest:\n{shown}"


@each_page
def test_wording_is_plain(page):
    found = banned(page.read_text())
    report(page, [(line, f'"{wording}" is hard to read; write: {plain}') for line, wording, plain in found])


def test_index_links_every_page():
    index = DOCS / "README.md"
    assert index.is_file(), "docs/README.md is not there; write an index that links every page of docs/"
    linked = {(DOCS / target.partition("#")[0]).resolve() for _, target in links(index.read_text())}
    missing = [name_of(page) for page in DOCS.rglob("*.md") if page != index and page.resolve() not in linked]
    assert not missing, f"docs/README.md: add links to {', '.join(sorted(missing))}"


@each_page
def test_code_blocks_say_their_language(page):
    text = without_rendered(page.read_text())
    report(page, [(b.line, "write the language after ```, such as text") for b in blocks(text) if not b.language])


@each_page
def test_python_blocks_are_python(page):
    faults = []
    for block in blocks(without_rendered(page.read_text())):
        if block.language == "python":
            try:
                compile(block.code, name_of(page), "exec")
            except SyntaxError as error:
                faults.append((block.line + (error.lineno or 0), f"{error.msg}; correct the block"))
    report(page, faults)


def test_python_api_pages_are_what_the_code_says():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import api_page

    for page in api_page.PAGES:
        text = page.read_text()
        assert api_page.rendered(text) == text, f"{name_of(page)} is out of date; run `python benchmarks/api_page.py`"


PROSE = """# Not a sentence

One two three. Four `five six` [seven eight](x.md), e.g. nine. See arXiv:1.2 and 3.5 M.

| a table | is none |
|---|---|

- An item
- another one.

```bash
no sentence here
```
"""


def test_sentences_of_a_page():
    assert [words(sentence) for sentence in sentences(PROSE)] == [3, 6, 5, 2, 2]


def test_slugs_are_those_of_github():
    page = "# What it `is`: a, b & c\n## Same\n## Same\n```\n# none\n```\n## Café – [x](y)_z\n"
    assert anchors(page) == {"what-it-is-a-b--c", "same", "same-1", "café--x_z"}


def test_wrong_flags_are_found():
    code = "A=1 anime-ddpm train --resolution 64 --resolutoin 3 \\\n  && accelerate launch --num_processes 2 x.py\n"
    assert [wrong_flags(command) for _, command in commands(code)] == [["--resolutoin"], []]
    assert wrong_flags(["anime-ddpm", "evaluate", "--train_batch_size", "2"]) == ["--train_batch_size"]
    assert not wrong_flags(["python", "benchmarks/long_run.py", "--hours", "2", "--", "--learning_rate", "1"])
