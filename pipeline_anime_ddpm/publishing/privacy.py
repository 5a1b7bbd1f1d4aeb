"""Scan every file for tokens, local paths and pickled code before any upload."""

from __future__ import annotations

import contextlib
import gzip
import json
import netrc
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import get_token
from PIL import Image

from ..common.errors import UserError, first_line
from ..runs.provenance import is_local, public_name

CODE = frozenset((".py", ".css", ".js", ".svg"))
WEB_CODE = frozenset((".mjs", ".webmanifest", ""))  # what a static page has beside that
TEXT = CODE | {".html", ".json", ".yaml", ".yml", ".md", ".txt", ".csv"}
KNOWN = TEXT | {".safetensors", ".png", ".webp"}  # what may travel at all; the others may hold pickled code
WEB = WEB_CODE | {".gz"}  # what may travel in a static page too: `.gz` is what `anime-ddpm export` has packed
SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "KAGGLE_KEY", "GITHUB_TOKEN", "GH_TOKEN")
SECRETS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{16,}",
    "a GitHub token": r"\b(?:gh[pousr]_|github_pat_)[A-Za-z0-9_]{20,}",
    "an AWS key": r"\bAKIA[0-9A-Z]{16}\b",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{35}",
    "an API key": r"\b(?:sk|wandb_v1)[-_][A-Za-z0-9_-]{20,}",
    "a password in an address": r"://[^/\s:@]+:[^/\s:@]+@",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
# The ends of addresses are no paths: what comes before a path is neither a word nor a slash, dot or colon.
PATHS = {
    "a path of this machine": r"(?<![\w/.:-])/(?:home|root|Users|mnt|media|tmp|var|opt|srv|content|kaggle|workspace"
    r"|work|scratch|data|gpfs|lustre|nfs|private|Volumes)/[\w.~-]+",
    "a path of Windows": r"\b[A-Za-z]:\\\\?(?:Users|Documents)\b",
    "the address of a file": r"\bfile://",
}


def without_paths(value: Any) -> Any:
    """JSON-like `value` with the last part of each path of this machine in place of the path."""
    if isinstance(value, dict):
        return {key: without_paths(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_paths(part) for part in value]
    if isinstance(value, str) and "/" in value and is_local(value):
        return public_name(value)
    return value


def check_private(folder: Path, source: Path, secrets: tuple[str, ...] = (), known: frozenset[str] = KNOWN) -> None:
    """Look through every file of `folder` for what must stay at home.

    Args:
        source: where the content comes from, whose path must not be in it.
        secrets: that must not be in it, besides those that the environment and the logins of this machine hold.
        known: endings of the files that may be in it.

    Raises:
        UserError: that names the file, and what is in it, but not the secret.
    """
    tokens = [secret for secret in (*secrets, *known_secrets()) if len(secret) >= 8]
    exact = {token.encode(): "a token that this machine uses" for token in tokens}
    places = {str(source.resolve()), os.getcwd(), str(Path.home())}
    exact |= {f"{place}/".encode(): "a path of this machine" for place in places if len(Path(place).parts) > 1}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or path.suffix not in known:
            raise UserError(f"{name} is of a file type that may hold code or private data; remove it from {source}.")
        for what in _found(path, exact):
            raise UserError(f"{name} holds {what}, so nothing was uploaded; remove it from {source} and try again.")


def _found(path: Path, exact: dict[bytes, str]) -> Iterator[str]:
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    yield from (what for secret, what in exact.items() if secret in content)
    is_code = path.suffix in CODE | WEB_CODE
    patterns = SECRETS if is_code else SECRETS | PATHS  # code may speak of a folder of any machine
    text = _text_of(path, content)
    yield from (what for what, pattern in patterns.items() if re.search(pattern, text))


def _text_of(path: Path, content: bytes) -> str:
    """The text in a file: all of it, or the header of files with tensors or pixels."""
    if path.suffix == ".gz":
        return ""
    if path.suffix in TEXT | WEB_CODE:
        return content.decode(errors="replace")
    if path.suffix == ".safetensors":
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return json.dumps(header.get("__metadata__", {}))
    try:
        with Image.open(path, formats=("PNG", "WEBP")) as image:
            image.load()  # some of the text comes after the pixels
            return " ".join(map(str, image.info.values())) + str(dict(image.getexif()))
    except Exception as error:  # decoders raise almost anything on a broken file
        raise UserError(f"{path.name} is not an image ({first_line(error)}); remove it from its source.") from error


def known_secrets() -> Iterator[str]:
    """Tokens in the environment and of the logins of this machine."""
    yield from (os.environ[name] for name in SECRET_VARIABLES if os.environ.get(name))
    if token := get_token():
        yield token
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        yield from (password for _, _, password in netrc.netrc().hosts.values() if password)
