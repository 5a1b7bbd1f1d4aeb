"""The HTML of the page and the files that it loads, all from memory."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2
from fastapi import Request, Response
from fastapi.responses import HTMLResponse

from ..limits import KEPT, MAX_FACES, MAX_GUIDANCE, MAX_SEED, MAX_STOPS, Refused
from ..model import Model
from ..recipe import Recipe, described, parse
from ..wall import COLUMNS, FIRST, Wall

STATIC = Path(__file__).parent / "static"
PACKED = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
KINDS = PACKED | {".webp": "image/webp"}
FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}
SETTINGS = ("s", "v", "steps", "sampler", "guidance")  # of a link, with the labels
SWATCHES = {  # of the values of labels that are colours
    "aqua": "#4fd0d8", "black": "#26242c", "blonde": "#f4d682", "blue": "#4576e8", "brown": "#8a5a3c",
    "gray": "#a9adb8", "grey": "#a9adb8", "green": "#46b25e", "orange": "#f58a3a", "pink": "#f78fb8",
    "purple": "#9560d6", "red": "#d93a4a", "white": "#f6f5f2", "yellow": "#f5cf3c",
}  # fmt: skip
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'"
)


class Page:
    """Renders the page."""

    def __init__(self, model: Model, wall: Wall):
        self.model, self.wall = model, wall
        files = sorted(path for path in STATIC.rglob("*") if path.suffix in PACKED)
        self.files = {path.relative_to(STATIC).as_posix(): path.read_bytes() for path in files}
        digest = hashlib.sha256(b"".join(self.files.values()) + wall.version.encode())
        self.version = digest.hexdigest()[:12]
        self.packed = {name: gzip.compress(content) for name, content in self.files.items()}
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        self.template = environment.from_string((STATIC / "index.html").read_text())
        self.first_recipe = wall.recipes[FIRST]

    def html(self, request: Request) -> Response:
        """The page for an address, which may name a face."""
        asked, trouble = self.asked(request)
        scheme = request.headers.get("x-forwarded-proto", request.url.scheme).split(",")[0]
        origin = f"{scheme}://{request.url.netloc}"
        first = described(self.model, asked or self.first_recipe)
        context = {
            "base": f"web/{self.version}", "origin": origin, "labels": self.model.labels, "swatches": SWATCHES,
            "title": first["name"].partition(",")[0].capitalize() if asked else "Draw anime faces",
            "first": first, "asked": asked is not None, "trouble": trouble, "wall": self.tiles(),
            "columns": COLUMNS, "side": self.model.side,
            "config": self.config(first, asked is not None, trouble),
        }  # fmt: skip
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        return HTMLResponse(self.template.render(context), headers=headers | {"X-Content-Type-Options": "nosniff"})

    def asked(self, request: Request) -> tuple[Recipe | None, str]:
        """The face that the address names, and what is wrong with the address. Others' parameters are ignored."""
        names = {*SETTINGS, *self.model.labels, "hair", "eyes"}
        query = {name: value for name, value in request.query_params.items() if name in names}
        try:
            recipe = parse(self.model, {"s": "0"} | query) if query else None
        except Refused as error:
            return None, f"This link does not work here. {error}"
        return (recipe if "s" in query else None), ""

    def tiles(self) -> list[dict[str, Any]]:
        """The faces of the wall, if it is drawn."""
        return [described(self.model, recipe) for recipe in self.wall.recipes] if self.wall.is_drawn else []

    def config(self, first: dict[str, Any], is_asked: bool, trouble: str) -> str:
        """What the scripts must know, as JSON that can stand in HTML."""
        model = self.model
        config = {
            "labels": model.labels, "samplers": model.samplers, "distilled": model.is_distilled, "side": model.side,
            "steps": [model.least_steps, model.most_steps, model.default_steps], "mostSeed": MAX_SEED,
            "guidance": [1, MAX_GUIDANCE, model.default_guidance], "guides": model.can_guide, "kept": KEPT,
            "mostFaces": MAX_FACES, "mostStops": MAX_STOPS, "first": first, "asked": is_asked, "trouble": trouble,
            "wall": self.tiles(), "columns": COLUMNS, "sprite": f"web/{self.version}/wall.webp",
        }  # fmt: skip
        return json.dumps(config).replace("<", "\\u003c")

    async def file(self, request: Request, version: str, name: str) -> Response:
        """A file of the page; its address changes with its content."""
        drawn = {"wall.webp": self.wall.sprite, "first.webp": self.wall.first}
        content = drawn.get(name) or self.files.get(name)
        if not content:
            return Response("There is no such file.", 404, media_type="text/plain")
        kind = KINDS[Path(name).suffix]
        headers = dict(FOREVER) if version == self.version else {}
        if name in self.packed and "gzip" in request.headers.get("accept-encoding", ""):
            content, headers["Content-Encoding"] = self.packed[name], "gzip"
        return Response(content, headers=headers | {"Vary": "Accept-Encoding"}, media_type=kind)

    async def icon(self) -> Response:
        return Response(self.files["favicon.svg"], headers={"Cache-Control": "max-age=86400"}, media_type=KINDS[".svg"])
