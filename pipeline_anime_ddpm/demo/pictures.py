"""Picture files: enlarged faces, data addresses, contact sheets, films."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence

import torch
from PIL import Image, PngImagePlugin

from .model import Model

FRAME = 90  # milliseconds of a film
FILM = 256  # pixels of a film's side, at least
SHEET = 256  # pixels of a face on a contact sheet


def enlarge(model: Model, image: Image.Image, size: int) -> Image.Image:
    """A face of `size` pixels: by the model's upscaler if it has one, the rest by resampling."""
    if model.can_upscale and size > max(image.size):
        image = model.pipeline.upscale(image, generator=torch.Generator().manual_seed(0)).images[0]
    factor = size / max(image.size)
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def png(image: Image.Image, facts: Mapping[str, str]) -> bytes:
    """A PNG file that holds `facts` as text."""
    text, file = PngImagePlugin.PngInfo(), io.BytesIO()
    for name, value in facts.items():
        text.add_itxt(name, value)
    image.save(file, "PNG", pnginfo=text)
    return file.getvalue()


def webp(image: Image.Image, quality: int = 90) -> bytes:
    """A WebP file; a quality of 100 is lossless."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, lossless=quality == 100, method=2)
    return file.getvalue()


def film(frames: Sequence[Image.Image]) -> bytes:
    """There and back as an animated WebP, large enough to be seen."""
    factor = max(1, FILM // min(frames[0].size))
    sizes = (frames[0].width * factor, frames[0].height * factor)
    large = [frame.resize(sizes, Image.Resampling.BICUBIC) for frame in frames]
    way, file = large + large[-2:0:-1], io.BytesIO()
    way[0].save(
        file, "WEBP", save_all=True, append_images=way[1:], duration=FRAME, loop=0, quality=80, method=0,
    )  # fmt: skip
    return file.getvalue()


def data_url(content: bytes, kind: str = "webp") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def from_data_url(address: str) -> bytes:
    """The file in a data address; nothing if it is none."""
    head, _, body = address.partition(";base64,")
    try:
        return base64.b64decode(body, validate=True) if head.startswith("data:image/") else b""
    except ValueError:
        return b""


def contact_sheet(images: Sequence[Image.Image]) -> Image.Image:
    """Faces in rows, as many columns as rows or one more."""
    columns = min(6, math.ceil(math.sqrt(len(images))))
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * SHEET, rows * SHEET), "white")
    for number, image in enumerate(images):
        large = image.convert("RGB").resize((SHEET, SHEET), Image.Resampling.LANCZOS)
        sheet.paste(large, (number % columns * SHEET, number // columns * SHEET))
    return sheet
