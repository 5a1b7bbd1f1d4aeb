"""Pictures that visitors send: bounded, decoded once, and stripped of all that is not pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import HTTPException
from PIL import Image

from .limits import CANVASES, MAX_BYTES, MAX_CANVAS, MAX_LAYERS, MAX_PIXELS, Refused

try:
    from ..pipeline_anime_ddpm import open_picture, to_mode
except ImportError:  # in a Space, where the file stands in this folder
    from .pipeline_anime_ddpm import open_picture, to_mode  # type: ignore[no-redef]


def read_upload(source: str | bytes | None, what: str) -> Image.Image:
    """The first frame of an upload, upright, as `RGBA`, without anything else that its file says.

    Args:
        source: its path, or its content.
        what: what to call it.

    Raises:
        Refused: there is none, or it is too large, or no picture.
    """
    if not source:
        raise Refused(f"Choose a {what} first.")
    if (len(source) if isinstance(source, bytes) else os.path.getsize(source)) > MAX_BYTES:
        raise Refused(f"The {what} has more than {MAX_BYTES / 1e6:g} MB. Take a smaller one.")
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        return to_mode(open_picture(content, _check_size)[0], "RGBA")
    except Image.DecompressionBombError as error:
        raise Refused(f"The {what} has more than {MAX_PIXELS / 1e6:g} megapixels. Take a smaller one.") from error
    except Exception as error:  # decoders raise almost anything on a broken file
        raise Refused(f"The {what} cannot be read. Take a PNG, JPEG, WebP or GIF file that is whole.") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Image.DecompressionBombError


def on_white(image: Image.Image) -> Image.Image:
    """`RGB` of an `RGBA` image."""
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    return page.convert("RGB")


def painted(layers: Iterable[str | bytes], size: tuple[int, int]) -> Image.Image:
    """`L` of a picture's size, white where any layer is not transparent.

    Raises:
        Refused: a layer cannot be read or has another size.
    """
    mask = Image.new("L", size)
    for source in layers:
        layer = read_upload(source, "mask")
        if layer.size != size:
            raise Refused("What is painted over must have the size of the picture.")
        mask.paste(255, mask=layer.getchannel("A").point(lambda value: 255 * (value > 0)))
    return mask


def by_path(component: gr.Image) -> gr.Image:
    """Let its picture come as it was uploaded, for `read_upload`: nothing is decoded before it is looked at."""
    component.preprocess = lambda payload: payload.path if payload else None
    return component


def bounded(editor: gr.ImageEditor) -> gr.ImageEditor:
    """Likewise, and let the canvas, which the page sends in parts, take bounded memory on the server."""
    take, parts = editor.accept_blobs, editor.blob_storage

    def accept_blobs(data: Any) -> None:
        index = data.data.get("index")
        if index not in (None, "", "null") and not 0 <= int(index) < MAX_LAYERS:
            raise HTTPException(413, "There are too many layers.")
        if len(data.files[0][1]) > MAX_CANVAS:
            raise HTTPException(413, "The canvas is too large.")
        while len(parts) >= CANVASES:
            del parts[next(iter(parts))]
        take(data)

    def preprocess(payload: Any) -> dict[str, Any]:
        found = payload if payload is None or payload.id is None else parts.pop(payload.id, None)
        if found is None:
            return {}
        if len(found.layers or ()) > MAX_LAYERS:
            raise gr.Error("There are too many layers.", print_exception=False)
        sources = [
            part if isinstance(part, bytes) else part and part.path for part in (found.background, *found.layers)
        ]
        return {"background": sources[0], "layers": sources[1:]}

    accept_blobs._is_server_fn = True  # type: ignore[attr-defined]  # Gradio's mark of what a page may call
    editor.accept_blobs, editor.preprocess = accept_blobs, preprocess
    return editor
