# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""The server of Weights & Biases on loopback: just enough for a run to be logged to it online."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class TrackerServer:
    """`with TrackerServer() as tracker:` serves until the block ends; connections are refused from then on."""

    def __init__(self):
        self.requests: list[str] = []  # "POST /graphql UpsertBucket", in order of arrival
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"tracker": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Of HTTP/1.0, so that no connection outlives its request, or the server."""

    tracker: TrackerServer

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        asked = json.loads(body) if self.path == "/graphql" else {}
        operation, variables = asked.get("operationName", ""), asked.get("variables") or {}
        self.tracker.requests.append(f"{self.command} {self.path} {operation}".strip())
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
            files = [{"name": name, "uploadUrl": f"{self.tracker.url}/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}
        return {}

    def log_message(self, *_):
        pass
