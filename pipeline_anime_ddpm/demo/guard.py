"""What every request passes first: bounds on what is sent, and a record of whose answers are read."""

from __future__ import annotations

import time
from collections import deque
from typing import Any
from urllib.parse import parse_qs

from .limits import HOURS, MAX_BODY, MAX_BYTES, MAX_CANVAS, MAX_UPLOADS, UNHEARD

FRAMING = 10_000  # bytes that a form adds to the file in it
DRAINED = 32_000_000  # bytes of a refused request that are read and dropped


class Guard:
    """ASGI middleware. Behind a proxy, such as that of a Space, uvicorn has already put the visitor's address in."""

    def __init__(self, app: Any):
        self.app = app
        self.uploads: deque[tuple[float, str, int]] = deque()  # when, who, bytes
        self.streams: dict[str, int] = {}  # answers that are being read, by session
        self.heard: dict[str, float] = {}  # when somebody was last there, or was first expected

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "POST" and (trouble := self.trouble(scope)):
            await refuse(receive, send, *trouble)
            return
        session = session_of(scope)
        if session is None:
            await self.app(scope, receive, send)
            return
        self.streams[session] = self.streams.get(session, 0) + 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.streams[session] -= 1
            self.heard[session] = time.monotonic()
            if not self.streams[session]:
                del self.streams[session]

    def trouble(self, scope: dict) -> tuple[int, str] | None:
        """Status and sentence for a request that sends too much."""
        path, length = scope["path"], dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return 411, "Say how long the request is, by Content-Length."
        is_upload = path.endswith("/upload")
        most = MAX_BYTES if is_upload else MAX_CANVAS if "component_server" in path else MAX_BODY
        if int(length) > most + FRAMING:
            return 413, f"The request has more than {most / 1e6:g} MB. Send a smaller picture."
        return self.count_upload(scope, int(length)) if is_upload else None

    def count_upload(self, scope: dict, size: int) -> tuple[int, str] | None:
        """Bound what is kept of uploads."""
        now, visitor = time.monotonic(), (scope.get("client") or ("",))[0]
        while self.uploads and now - self.uploads[0][0] > HOURS * 3600:
            self.uploads.popleft()
        sums = sum(one[2] for one in self.uploads), sum(one[2] for one in self.uploads if one[1] == visitor)
        if any(used + size > most for used, most in zip(sums, MAX_UPLOADS, strict=True)):
            return 429, f"Too much was uploaded. Uploads are forgotten after {HOURS} hours; try again then."
        self.uploads.append((now, visitor, size))
        return None

    def is_heard(self, session: str) -> bool:
        """Whether somebody reads the answers to a session, or may still begin to."""
        now = time.monotonic()
        if session in self.streams:
            return True
        if len(self.heard) > 1000:
            self.heard = {one: at for one, at in self.heard.items() if now - at <= UNHEARD}
        return now - self.heard.setdefault(session, now) <= UNHEARD


def session_of(scope: dict) -> str | None:
    """The session whose answers a request reads: Gradio's two ways, `/queue/data` and `/call/<name>/<event>`."""
    path = scope["path"]
    if scope["method"] != "GET":
        return None
    if path.endswith("/queue/data"):
        return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [None])[0]
    parts = path.strip("/").split("/")
    return parts[3] if len(parts) == 4 and parts[1] == "call" else None


async def refuse(receive: Any, send: Any, status: int, sentence: str) -> None:
    """Answer, after the rest of the request if it is not endless: a client that still sends reads no answer."""
    read, more = 0, status != 411
    while more and read < DRAINED:
        message = await receive()
        read, more = read + len(message.get("body", b"")), message.get("more_body", False)
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": sentence.encode()})
