# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""A Hugging Face Hub on loopback, in memory: just enough for pushing and loading in tests.

It knows create_repo, upload_folder (regular and LFS files), model cards, from_pretrained, snapshot_download,
`Dataset.push_to_hub` and streaming, for models, datasets and Spaces. Writing and private repositories need the token.
`fail`, `drop` and `cuts` make it ail as the real one sometimes does.
`huggingface_hub` reads its environment when imported, so a test starts a subprocess with `HubServer.env`.
"""

import base64
import hashlib
import json
import re
import socket
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from loopback import LoopbackServer

TOKEN = "hf_loopback"
USER = "tester"
LFS_SUFFIXES = (".safetensors", ".bin", ".png", ".parquet", ".npy", ".pt")


@dataclass
class Repo:
    """One repository: what was asked for when it was made, and every commit as a full picture of its files."""

    name: str
    kind: str  # "models", "datasets" or "spaces"
    private: bool
    request: dict
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    @property
    def head(self) -> str:
        """Name of the latest commit."""
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        """Path to content, as of the latest commit."""
        return self.commits[self.head]

    def commit(self, files: dict[str, bytes], message: str) -> str:
        sha = hashlib.sha1(f"{self.name} {len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[sha] = files
        self.messages.append(message)
        return sha


@dataclass
class Fault:
    """What befalls some requests: an error, or without a status no answer at all."""

    requests: str
    times: int
    status: int | None = None
    message: str = ""


class HubServer(LoopbackServer):
    """`with HubServer() as hub:` serves until the block ends. `hub.repos["models/tester/name"]` is a `Repo`."""

    def __init__(self):
        super().__init__(_Handler)
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[str] = []  # "GET /api/models/…", in order of arrival
        self.cuts: list[int] = []  # connections are cut when so many bytes of files are served in all; made ones go
        self.cuts_made: list[str] = []  # in whose requests
        self.faults: list[Fault] = []  # that are still to come
        self.served = 0
        self.env = {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def add_dataset(self, name: str, files: dict[str, Path]) -> Repo:
        """Put a data set there without the detour of uploading it."""
        repo = self.repos[f"datasets/{name}"] = Repo(name, "datasets", False, {})
        repo.commit({path: file.read_bytes() for path, file in files.items()}, "data")
        return repo

    def fail(self, requests: str, status: int, times: int = 1, message: str = "It ails") -> None:
        """The next `times` requests such as "PUT /lfs/.*" are answered with an error."""
        self.faults.append(Fault(requests, times, status, message))

    def drop(self, requests: str, times: int = 1) -> None:
        """The next `times` such requests get no answer: the connection is closed in the middle of what they send."""
        self.faults.append(Fault(requests, times))


class _Error(Exception):
    """Arguments: HTTP status, the Hub's error code, and optionally the body."""


class _Handler(BaseHTTPRequestHandler):
    owner: HubServer
    protocol_version = "HTTP/1.1"

    API = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
    PAGE = r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+?)"
    ROUTES = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", API + r"/preupload/(?P<rev>[^/]+)", "preupload"),
        ("POST", API + r"/commit/(?P<rev>[^/]+)", "commit"),
        ("GET", API + r"/tree/(?P<rev>[^/]+)(?:/(?P<path>.*))?", "tree"),
        ("GET", API + r"(?:/revision/(?P<rev>[^/]+))?", "info"),
        ("POST", PAGE + r"\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
        ("GET", PAGE + r"/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
    )

    def handle_any(self):
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.owner.requests.append(f"{self.command} {self.path}")
        fault = next(
            (f for f in self.owner.faults if f.times and re.fullmatch(f.requests, self.owner.requests[-1])), None
        )
        if fault:
            fault.times -= 1
        length = int(self.headers.get("Content-Length") or 0)
        if fault and fault.status is None:
            self.rfile.read(length // 2)
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        self.payload = self.rfile.read(length)
        method = "GET" if self.command == "HEAD" else self.command
        try:
            if fault:
                raise _Error(fault.status, "Fault", {"error": fault.message})
            if method != "GET" and not url.path.startswith("/lfs/") and url.path != "/api/validate-yaml":
                self.authorise()
            for wanted, pattern, name in self.ROUTES:
                match = re.fullmatch(pattern, url.path) if wanted == method else None
                if match:
                    arguments = {key: unquote(value) if value else value for key, value in match.groupdict().items()}
                    return getattr(self, name)(**arguments)
            raise _Error(404, "EntryNotFound")
        except _Error as error:
            status, code, *body = error.args
            message = body[0]["error"] if body else code
            self.reply(body[0] if body else {"error": code}, status, {"X-Error-Code": code, "X-Error-Message": message})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def log_message(self, *_):
        pass

    def reply(self, body, status: int = 200, headers: dict | None = None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": len(data), **(headers or {})}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        room = self.owner.cuts[0] - self.owner.served if self.owner.cuts and "/resolve/" in self.path else len(data)
        self.wfile.write(data[:room])
        self.owner.served += min(room, len(data)) if "/resolve/" in self.path else 0
        if room < len(data):
            self.owner.cuts.pop(0)
            self.owner.cuts_made.append(self.path)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def repo(self, kind: str | None, name: str) -> Repo:
        repo = self.owner.repos.get(f"{kind or 'models'}/{name}")
        if repo is None or (repo.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            raise _Error(404, "RepoNotFound")
        return repo

    def revision(self, repo: Repo, rev: str | None) -> str:
        sha = repo.head if rev in (None, "main") else rev
        if sha not in repo.commits:
            raise _Error(404, "RevisionNotFound")
        return sha

    def authorise(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Error(401, "Unauthorized", {"error": "Invalid username or password."})

    def whoami(self):
        self.authorise()
        self.reply({"name": USER, "type": "user", "orgs": []})

    def validate(self):  # of the YAML of a README: what the real one wants of the fields that our cards have
        lines = json.loads(self.payload)["content"].split("---\n")[1]
        card = yaml.safe_load(lines)
        errors = []
        if "license" in card and card["license"] not in ("apache-2.0", "mit", "cc-by-nc-4.0", "other"):
            errors.append('"license" must be one of the known ones')
        if card.get("license") == "other" and not card.get("license_name"):
            errors.append('"license_name" is required for "other"')
        for name in ("metrics", "tags", "datasets"):
            if not all(isinstance(part, str) for part in card.get(name, [])):
                errors.append(f'"{name}" must be a list of strings')
        for entry in card.get("model-index", []):
            for result in entry["results"]:
                if not (result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]):
                    errors.append('"model-index" has a result without task or dataset')
        self.reply({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)

    def create(self):
        request = json.loads(self.payload)
        kind = request.get("type", "model") + "s"
        name = f"{request.get('organization') or USER}/{request['name']}"
        url = f"{self.owner.url}/{'' if kind == 'models' else kind + '/'}{name}"
        if f"{kind}/{name}" in self.owner.repos:
            raise _Error(409, "Conflict", {"error": "You already created this repo", "url": url})
        private = request.get("private") is True or request.get("visibility") == "private"
        repo = self.owner.repos[f"{kind}/{name}"] = Repo(name, kind, private, request)
        files = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
        if kind == "spaces":
            files["README.md"] = b"---\nsdk: gradio\n---\n\nCheck out the configuration reference at https://hf.co\n"
        repo.commit(files, "initial commit")
        self.reply({"url": url, "name": name, "id": repo.head})

    def preupload(self, kind, name, rev):
        there = self.repo(kind, name).files
        self.reply({"files": [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LFS_SUFFIXES) else "regular",
             "shouldIgnore": False, "oid": _remote_oid(f["path"], there)}
            for f in json.loads(self.payload)["files"]
        ]})  # fmt: skip

    def lfs_batch(self, kind, name):
        self.repo(kind, name)
        objects = json.loads(self.payload)["objects"]
        for item in objects:
            if item["oid"] not in self.owner.lfs:
                item["actions"] = {"upload": {"href": f"{self.owner.url}/lfs/{item['oid']}", "header": {}}}
        self.reply({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        if hashlib.sha256(self.payload).hexdigest() != oid:
            raise _Error(400, "BadRequest")
        self.owner.lfs[oid] = self.payload
        self.reply({})

    def commit(self, kind, name, rev):
        repo = self.repo(kind, name)
        files, message = dict(repo.files), ""
        for line in self.payload.decode().splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.owner.lfs[value["oid"]]
            elif key in ("deletedFile", "deletedFolder"):
                gone = value["path"].rstrip("/")
                files = {p: c for p, c in files.items() if p != gone and not p.startswith(gone + "/")}
        sha = repo.commit(files, message)
        self.reply({"success": True, "commitOid": sha, "commitUrl": f"{self.owner.url}/{name}/commit/{sha}"})

    def info(self, kind, name, rev):
        repo = self.repo(kind, name)
        sha = self.revision(repo, rev)
        self.reply({
            "_id": sha[:24], "id": name, "sha": sha, "private": repo.private, "tags": [], "downloads": 0, "likes": 0,
            "lastModified": "2026-01-01T00:00:00.000Z", "siblings": [{"rfilename": p} for p in repo.commits[sha]],
        })  # fmt: skip

    def tree(self, kind, name, rev, path):
        repo = self.repo(kind, name)
        files = repo.commits[self.revision(repo, rev)]
        prefix = f"{path}/" if path else ""
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        rows = {}
        for name in (p for p in files if p.startswith(prefix)):
            folder, _, rest = name[len(prefix) :].partition("/")
            if rest and not recursive:
                rows[prefix + folder] = {"type": "directory", "path": prefix + folder, "oid": "0" * 40, "size": 0}
            else:
                rows[name] = {"type": "file", "path": name, "size": len(files[name]), **_oids(name, files[name])}
        if prefix and not rows:
            raise _Error(404, "EntryNotFound")
        self.reply(list(rows.values()))

    def resolve(self, kind, name, rev, path):
        repo = self.repo(kind, name)
        sha = self.revision(repo, rev)
        if path not in repo.commits[sha]:
            raise _Error(404, "EntryNotFound")
        data = repo.commits[sha][path]
        oids = _oids(path, data)
        etag = oids["lfs"]["oid"] if "lfs" in oids else oids["oid"]
        headers = {"Content-Type": "application/octet-stream", "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        headers |= {"ETag": f'"{etag}"', "X-Linked-Size": len(data), "X-Linked-Etag": f'"{etag}"'}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self.reply(data, headers=headers)
        first, last = wanted.groups()
        start = int(first) if first else max(len(data) - int(last), 0)
        end = min(int(last), len(data) - 1) if first and last else len(data) - 1
        if start >= len(data):
            return self.reply(b"", 416, {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        self.reply(data[start : end + 1], 206, headers)


def _remote_oid(path: str, there: dict[str, bytes]) -> str | None:
    """What the client compares with its own file, to send only what has changed."""
    if path not in there:
        return None
    oids = _oids(path, there[path])
    return oids["lfs"]["oid"] if "lfs" in oids else oids["oid"]


def _oids(path: str, data: bytes) -> dict:
    """Git's name of the content; for LFS files also their sha256, as the tree of the real Hub gives both."""
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    if not path.endswith(LFS_SUFFIXES):
        return {"oid": oid}
    return {"oid": oid, "lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}}
