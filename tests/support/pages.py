"""The pages of the documentation, and the parts of Markdown that their tests look at."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README, DOCS = ROOT / "README.md", ROOT / "docs"
RENDERED = re.compile(r"<!-- (results|api):(\S+) -->.*?<!-- end \1:\2 -->", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
CODE_SPAN = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^\s{0,3}\[[^\]]+\]:\s*(\S+)")
HTML_LINK = re.compile(r"<(?:img|a|source)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"")
HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*$")
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block: `line` is the number of its fence, `not_run` the reason of the comment before it."""

    language: str
    code: str
    line: int
    not_run: str | None


def all_pages() -> list[Path]:
    """All pages under `docs/`, and those of the repository's root that people read."""
    own = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
    return [path for path in (*own, *sorted(DOCS.rglob("*.md"))) if path.is_file()]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blanked(text: str, pattern: re.Pattern) -> str:
    """`text` without the matches of `pattern`, and with as many lines as before."""
    return pattern.sub(lambda match: "\n" * match[0].count("\n"), text)


def without_rendered(text: str) -> str:
    """`text` with empty lines in place of what a generator has written."""
    return blanked(text, RENDERED)


def numbered_prose(text: str) -> Iterator[tuple[int, str]]:
    """The lines outside of fenced blocks, with their numbers."""
    fence = None
    for number, line in enumerate(text.splitlines(), 1):
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if mark and (fence is None or line.strip().startswith(fence)):
            fence = mark[1] if fence is None else None
        elif fence is None:
            yield number, line


def blocks(text: str) -> list[Block]:
    """The fenced blocks, in the order of the page."""
    found, lines, start = [], text.splitlines(), None
    for number, line in enumerate(lines, 1):
        mark = re.match(r"(\s*)(`{3,}|~{3,})\s*(\S*)", line)
        if mark and start is None:
            start, indent, fence, language = number, len(mark[1]), mark[2], mark[3]
        elif mark and not mark[3] and mark[2].startswith(fence):
            code = [inner[indent:] if not inner[:indent].strip() else inner for inner in lines[start : number - 1]]
            found.append(Block(language, "\n".join(code) + "\n", start, _reason(lines[: start - 1])))
            start = None
    return found


def _reason(before: list[str]) -> str | None:
    """What the comment in the last line that is not empty says."""
    last = next((line for line in reversed(before) if line.strip()), "")
    match = NOT_RUN.fullmatch(last.strip())
    return match[1] if match else None


def links(text: str) -> Iterator[tuple[int, str]]:
    """Targets of links and images outside of code, with the numbers of their lines."""
    for number, line in numbered_prose(blanked(text, COMMENT)):
        line = CODE_SPAN.sub("`x`", line)
        for pattern in (LINK, REFERENCE, HTML_LINK):
            for match in pattern.finditer(line):
                yield number, match[1]
        for inner in re.finditer(r"\[!\[[^\]]*\]\(([^)\s]+)\)\]", line):  # an image that is a link
            yield number, inner[1]


def anchors(text: str) -> set[str]:
    """The fragments that GitHub gives to the headings of a page, and explicit ones."""
    found: set[str] = set()
    for _, line in numbered_prose(text):
        heading = HEADING.fullmatch(line.rstrip())
        if heading:
            base = slug(heading[2])
            count = 0
            name = base
            while name in found:
                count += 1
                name = f"{base}-{count}"
            found.add(name)
        found |= set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", line))
    return found


def slug(heading: str) -> str:
    """The fragment of a heading by GitHub's rule: lower case, without punctuation, hyphens for spaces."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # a link is its text
    text = re.sub(r"[^\w\- ]", "", text.replace("`", "").replace("*", "").strip().lower())
    return text.replace(" ", "-")
