"""How long the sentences of a page are, and which wordings it should not have."""

import re
from collections.abc import Iterator

from pages import CODE_SPAN, COMMENT, HEADING, numbered_prose, without_rendered

# Wordings that readers have stumbled over; the plain one beside each.
BANNED = {
    "the card says to be unknown": 'the card marks it as "unknown"',
    "what is missing there": "fields that you leave out",
    "put right": "fix",
    "puts right": "fixes",
    "put that right": "fix it",
    "whatever it is": "name the thing",
    "whatever is wrong": "name the fault",
    "whoever": "people who",
    "is whole or not there": "is atomic",
    "if a disk spoils": "if a file is damaged",
    "goes on from": "resumes from",
    "go on from": "resume from",
    "goes on where": "resumes where",
    "where one of several processes is lost": "if one process dies",
    "nothing of ours": "without this package",
    "tells nobody": "sends no telemetry",
    "is told so": "gets a message",
    "are told so": "get a message",
    "none but": "only",
    "nothing but": "only",
    "comes to": "is, reaches",
    "come to 0": "reach 0",
    "is had": "say who has it",
    "to be had": "available",
    "likewise": "also",
    "how good images are": "image quality",
    "length of the average": "EMA length",
    "leave it away": "omit it",
    "leave away": "omit",
    "a length that does not depend": "train for a fixed number of images",
    "the run it belongs to has gone": "say what ended",
    "has gone away": "is unreachable",
    "in spite of": "despite",
    "what befalls": "what happens to",
    "ails": "fails",
}
ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|et al|vs|Eq|Fig|Sec|No|approx|resp|cf)\.$")
END = re.compile(r"(?<=[.!?])[)\"'”’*_]*\s+(?=[\"'“(*_]*[A-Z0-9`])")


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs and items of lists, without headings, tables, code, comments and rendered blocks."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = COMMENT.sub("", without_rendered(text))
    here: list[str] = []
    last = 0
    for number, line in numbered_prose(text):
        plain = line.strip()
        skipped = not plain or plain.startswith(("|", "<")) or HEADING.fullmatch(plain) or _is_picture(plain)
        item = re.match(r"(?:[-*+]|\d+[.)])\s+(.*)", plain)
        if here and (skipped or item or number != last + 1):
            yield " ".join(here)
            here = []
        if not skipped:
            here.append(item[1] if item else plain.removeprefix("> "))
        last = number
    if here:
        yield " ".join(here)


def _is_picture(line: str) -> bool:
    return re.fullmatch(r"(?:\[?!\[[^\]]*\]\([^)]*\)(?:\]\([^)]*\))?\s*)+", line) is not None


def sentences(text: str) -> list[str]:
    """The sentences of a page; code is one word, a link is its text."""
    found = []
    for paragraph in paragraphs(text):
        plain = CODE_SPAN.sub("`code`", paragraph)
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", plain)
        start = 0
        for end in END.finditer(plain):
            if not ABBREVIATIONS.search(plain[start : end.start()].rstrip("*_\"')")):
                found.append(plain[start : end.start()])
                start = end.end()
        found.append(plain[start:])
    return [sentence for sentence in found if words(sentence)]


def words(sentence: str) -> int:
    return sum(any(character.isalnum() for character in word) for word in sentence.split())


def average_length(text: str) -> float:
    """Words a sentence, and 0 for a page without any."""
    lengths = [words(sentence) for sentence in sentences(text)]
    return sum(lengths) / len(lengths) if lengths else 0.0


def banned(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, wording and the plain wording of each that occurs outside of code and of rendered blocks."""
    lines = [(number, CODE_SPAN.sub("`code`", line)) for number, line in numbered_prose(without_rendered(text))]
    whole = "\n".join(line for _, line in lines).lower()
    for wording, plain in BANNED.items():
        anywhere = r"\s+".join(map(re.escape, wording.split()))  # also across the end of a line
        for match in re.finditer(rf"(?<!\w){anywhere}(?!\w)", whole):
            yield lines[whole.count("\n", 0, match.start())][0], wording, plain
