# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""The server of Weights & Biases on loopback: just enough for a run to be logged to it online."""

import gzip
import json
from http.server import BaseHTTPRequestHandler

from loopback import LoopbackServer


class TrackerServer(LoopbackServer):
    """`with TrackerServer() as tracker:` serves until the block ends."""

    def __init__(self):
        super().__init__(_Handler)
        self.requests: list[str] = []  # "POST /graphql UpsertBucket", in order of arrival


class _Handler(BaseHTTPRequestHandler):
    """Of HTTP/1.0, so that no connection outlives its request, or the server."""

    owner: TrackerServer

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        asked = json.loads(body) if self.path == "/graphql" else {}
        operation, variables = asked.get("operationName", ""), asked.get("variables") or {}
        self.owner.requests.append(f"{self.command} {self.path} {operation}".strip())
        answer = json.dumps({"data": self._data(operation, variables)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST

    def _data(self, operation: str, variables: dict) -> dict:
        """What the client needs to go on; it is content with nothing for all else that it asks."""
        if operation == "Viewer":
            return {"viewer": {"id": "viewer", "entity": "tester", "username": "tester", "flags": "{}"}}
        if operation == "UpsertBucket":
            project = {"id": "project", "name": "anime-ddpm", "entity": {"id": "entity", "name": "tester"}}
            bucket = {"id": "run", "name": variables.get("name"), "displayName": "run", "project": project}
            return {"upsertBucket": {"bucket": bucket | {"historyLineCount": 0, "config": "{}"}, "inserted": True}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.owner.url}/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}
        return {}

    def log_message(self, *_):
        pass
