"""The page and its own routes: faces as a stream of JSON lines, pictures, contact sheets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from PIL import Image

from ..drawing import Faces, edit_job, face_job, walk_job
from ..jobs import ASKED, Job, Jobs, Progress, Stopped
from ..limits import KEPT, MAX_FACES, MAX_STOPS, SIZES, Refused, checked
from ..model import Model
from ..pictures import contact_sheet, data_url, enlarge, film, from_data_url, png, webp
from ..recipe import Recipe, described, facts_of, file_name, parse
from ..uploads import on_white, painted, read_upload
from .how import how_it_works
from .page import Page

LARGE = 512  # pixels of a face that is looked at
FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}


class Routes:
    """The handlers of the page's own requests."""

    def __init__(self, model: Model, jobs: Jobs, faces: Faces, page: Page):
        self.model, self.jobs, self.faces, self.page = model, jobs, faces, page
        self.how: dict[str, Any] = {}

    def add_to(self, app: FastAPI) -> None:
        router = APIRouter()
        router.add_api_route("/", self.index, methods=["GET", "HEAD"])
        router.add_api_route("/web/{version}/{name:path}", self.page.file)
        router.add_api_route("/favicon.ico", self.page.icon)
        router.add_api_route("/picture", self.picture)
        router.add_api_route("/how", self.explain)
        for name in ("draw", "edit", "walk", "enlarge", "sheet"):
            router.add_api_route(f"/{name}", getattr(self, name), methods=["POST"])
        app.include_router(router)
        app.add_exception_handler(Refused, refused)

    async def index(self, request: Request) -> Response:
        return self.page.html(request)

    async def picture(self, request: Request) -> Response:
        """A face as a PNG that holds its recipe: `/picture?s=2&hair=blue&size=512`."""
        query = dict(request.query_params)
        is_download = query.pop("download", None) is not None
        size = checked_size(query.pop("size", str(LARGE)))
        recipe = parse(self.model, query)
        (large,) = await self.finished(request, self.draw_job([recipe], request, size))
        name = file_name(self.model, recipe)
        kept = {"Content-Disposition": f'attachment; filename="{name}"'} if is_download else {}
        return Response(png(large[1], facts_of(self.model, recipe)), 200, FOREVER | kept, "image/png")

    async def draw(self, request: Request) -> Response:
        """Faces of recipes, as a stream: places in the queue, previews, then the faces."""
        body = await json_of(request)
        queries = listed(body, "faces", 1, MAX_FACES)
        recipes = [parse(self.model, str(query)) for query in queries]
        if len({recipe.settings for recipe in recipes}) > 1:
            raise Refused("Faces of one request must have the same steps, sampler and guidance.", "steps")
        size = LARGE if body.get("large") else 0

        def result(pairs: list) -> dict:
            return {"faces": [self.shown(one, *pair) for one, pair in zip(recipes, pairs, strict=True)]}

        return self.stream(self.draw_job(recipes, request, size), result)

    def draw_job(self, recipes: list[Recipe], request: Request, size: int) -> Job:
        return face_job(self.model, self.faces, visitor_of(request), recipes, size)

    def shown(self, recipe: Recipe, image: Image.Image, large: Image.Image | None) -> dict[str, Any]:
        """A face for the page."""
        face = described(self.model, recipe) | {"picture": data_url(webp(image, 100))}
        return face | ({"large": data_url(webp(large))} if large else {})

    async def edit(self, request: Request) -> Response:
        """A picture that is varied, or repaired where its mask is painted, as a stream."""
        body = await json_of(request)
        image = on_white(read_upload(from_data_url(str(body.get("picture"))), "picture"))
        mask = body.get("mask")
        mask = painted([from_data_url(str(mask))], image.size) if mask else None
        recipe = parse(self.model, str(body.get("recipe")))
        strength = checked(body.get("strength", 1), 0, 1, "Strength", float)
        job = edit_job(self.model, visitor_of(request), image, mask, recipe, strength)
        what = "repaired" if mask else f"varied by {strength:g}"

        def result(pairs: list) -> dict:
            ((before, after),) = pairs
            face = self.shown(recipe, after, enlarge(self.model, after, LARGE))
            face |= {"edited": what, "name": f"{what} {face['name']}", "file": f"anime-face-{what.split()[0]}.png"}
            return {"faces": [face], "before": data_url(webp(enlarge(self.model, before, LARGE)))}

        return self.stream(job, result)

    async def walk(self, request: Request) -> Response:
        """Frames from face to face, and the film of them, as a stream."""
        body = await json_of(request)
        stops = [parse(self.model, str(query)) for query in listed(body, "faces", 2, MAX_STOPS)]

        def result(found: list) -> dict:
            (frames,) = found
            pictures = [data_url(webp(enlarge(self.model, frame, 256), 85)) for frame in frames]
            return {"frames": pictures, "film": data_url(film(frames))}

        return self.stream(walk_job(self.model, visitor_of(request), stops), result)

    async def enlarge(self, request: Request) -> Response:
        """A face that has no link, such as a repaired one, as a PNG of 512 or 1024 pixels."""
        body = await json_of(request)
        size = checked_size(body.get("size"))
        image = on_white(read_upload(from_data_url(str(body.get("picture"))), "picture"))
        facts = {"model": self.model.title, "recipe": str(body.get("recipe", ""))[:300]}
        large = await asyncio.to_thread(enlarge, self.model, image, size)
        return Response(png(large, facts), media_type="image/png")

    async def sheet(self, request: Request) -> Response:
        """A contact sheet of the shelf."""
        addresses = listed(await json_of(request), "pictures", 1, KEPT)
        images = [on_white(read_upload(from_data_url(str(one)), "picture")) for one in addresses]
        sheet = await asyncio.to_thread(contact_sheet, images)
        return Response(png(sheet, {"model": self.model.title}), media_type="image/png")

    async def explain(self, request: Request) -> Response:
        """What "How it works" shows; drawn once."""
        if not self.how:
            recipe = self.page.first_recipe
            job = Job(visitor_of(request), [recipe], lambda *_: [how_it_works(self.model, recipe)], 20)
            (self.how,) = await self.finished(request, job)
        return JSONResponse(self.how)

    # Answers.

    def stream(self, job: Job, result: Callable[[list], dict]) -> Response:
        """The job's updates as JSON lines; the job ends when the visitor leaves."""

        async def lines() -> AsyncIterator[str]:
            async for update in self.updates(job):
                if isinstance(update, Progress):
                    said = {"step": update.done, "steps": update.steps, "left": max(1, round(update.left))}
                    pictures = [data_url(webp(image, 75)) for image in update.images or ()]
                    yield json.dumps(said | {"pictures": pictures}) + "\n"
                elif isinstance(update, Refused):
                    yield json.dumps({"error": str(update), "field": update.field}) + "\n"
                elif isinstance(update, list):
                    found = await asyncio.to_thread(result, update)
                    yield json.dumps(found | {"seconds": round(job.seconds, 2)}) + "\n"
                else:
                    said = {"before": update.before, "seconds": max(1, round(update.seconds))}
                    yield json.dumps({"waiting": said}) + "\n"

        self.jobs.submit(job)
        return StreamingResponse(lines(), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})

    async def updates(self, job: Job) -> AsyncIterator[Any]:
        """What happens to a job; leaving the loop stops it."""
        changed, loop = asyncio.Event(), asyncio.get_running_loop()

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # the server has been closed
                loop.call_soon_threadsafe(changed.set)

        job.on_update = notify
        try:
            while True:
                changed.clear()
                while not job.updates.empty():
                    update = job.updates.get()
                    if isinstance(update, Stopped):
                        return
                    yield update
                    if isinstance(update, (list, Refused)):
                        return
                if place := self.jobs.place(job):
                    yield place
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), ASKED)
        finally:
            job.stop()

    async def finished(self, request: Request, job: Job) -> list:
        """The results of a job."""
        async for update in self.updates(self.jobs.submit(job)):
            if isinstance(update, Refused):
                raise update
            if isinstance(update, list):
                return update
            if await request.is_disconnected():
                break
        raise Refused("Stopped.")


async def refused(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error), "field": getattr(error, "field", "")}, 400)


def visitor_of(request: Request) -> str:
    return request.client.host if request.client else ""


async def json_of(request: Request) -> dict[str, Any]:
    """The body of a request; `Guard` has bounded its size."""
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise Refused("The request must be a JSON object.")
    return body


def listed(body: dict[str, Any], name: str, least: int, most: int) -> list:
    found = body.get(name)
    if not isinstance(found, list) or not least <= len(found) <= most:
        raise Refused(f"Send from {least} to {most} {name}.", name)
    return found


def checked_size(value: Any) -> int:
    """Of an enlarged face."""
    if str(value) not in map(str, SIZES):
        raise Refused(f"The size must be {' or '.join(map(str, SIZES))}.", "size")
    return int(value)
