"""What becomes of odd inputs at every entrance, as the page docs/inputs.md.

`python tests/support/input_table.py` writes the page anew.
"""

import io
import logging
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from odd_pictures import Picture, made
from odd_sets import SETS
from PIL import Image

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data import open_data
from pipeline_anime_ddpm.data.decoding import tell_once
from pipeline_anime_ddpm.data.feed import FeedPlan
from pipeline_anime_ddpm.data.reading import read_unit
from pipeline_anime_ddpm.data.sources import open_source
from pipeline_anime_ddpm.demo.uploads import on_white, read_upload
from pipeline_anime_ddpm.evaluation.image_sets import read_folder, read_images
from pipeline_anime_ddpm.pipeline_anime_ddpm import to_tensor
from pipeline_anime_ddpm.training.config import TrainingConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "inputs.md"
RESOLUTION = 16
TOLERANCE = 8  # of a colour, after JPEG
Colours = dict[str, tuple[int, int, int] | None]  # of each picture, by its name; None if it is not used


def config_for(folder: Path, flag: str = "train_data_dir", **settings) -> TrainingConfig:
    beside = {"cache_dir": str(folder.parent / "cache"), "output_dir": str(folder.parent / "run")}
    return TrainingConfig(**{flag: str(folder)} | beside | {"max_skipped_fraction": 1.0} | settings)


def colour_of(pixels: np.ndarray) -> tuple[int, int, int]:
    """That in the middle of the upper left quarter of `(3, h, w)`."""
    return tuple(int(value) for value in pixels[:, pixels.shape[1] // 4, pixels.shape[2] // 4])


def cached(folder: Path) -> Colours:
    """Decoded to a cache."""
    config = config_for(folder, center_crop=True)
    source = open_source(config)
    entry = open_data(config, RESOLUTION, False, source).entry
    skipped = {image.name for image in entry.skipped}
    names = [image.name for unit in range(source.num_units) for image in read_unit(source, unit)]
    images = entry.pixels().reshape(-1, 3, RESOLUTION, RESOLUTION)
    kept = zip((name for name in names if name not in skipped), images, strict=True)
    return dict.fromkeys(map(last, skipped)) | {last(name): colour_of(image) for name, image in kept}


def streamed(folder: Path) -> Colours:
    """Read while training: one epoch."""
    (folder.parent / "run").mkdir(exist_ok=True)
    data = open_data(config_for(folder, center_crop=True, streaming=True), RESOLUTION, False)
    count = sum(1 for unit in range(data.source.num_units) for _ in read_unit(data.source, unit))
    feed = data.feed(FeedPlan(1, 0, count))
    colours: Colours = {}
    for step, batch in enumerate(feed):
        (name,) = feed.images_of(step)
        colours[last(name)] = colour_of(batch.images[0].numpy())
    return colours


def last(name: str) -> str:
    return name.rpartition("/")[2]


def in_folder(pictures: list[Picture], folder: Path) -> None:
    for picture in pictures:
        (folder / picture.name).write_bytes(picture.content)


def in_zip(pictures: list[Picture], folder: Path) -> None:
    with zipfile.ZipFile(folder / "faces.zip", "w") as archive:
        for picture in pictures:
            archive.writestr(picture.name, picture.content)


def in_tar(pictures: list[Picture], folder: Path) -> None:
    with tarfile.open(folder / "faces.tar", "w") as archive:
        for number, picture in enumerate(pictures):
            member = tarfile.TarInfo(f"{number}/{picture.name}")
            member.size = len(picture.content)
            archive.addfile(member, io.BytesIO(picture.content))


def in_table(pictures: list[Picture], folder: Path) -> None:
    rows = [{"bytes": picture.content, "path": picture.name} for picture in pictures]
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), folder / "faces.parquet")


def of_each(read: Callable[[Picture], np.ndarray]) -> Callable[[list[Picture]], Colours]:
    def colours(pictures: list[Picture]) -> Colours:
        found: Colours = {}
        for picture in pictures:
            try:
                found[picture.name] = colour_of(read(picture))
            except Exception:  # whatever the entrance refuses a picture with
                found[picture.name] = None
        return found

    return colours


def evaluated(picture: Picture) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, picture.name)
        path.write_bytes(picture.content)
        return read_images([path])[0]


def uploaded(picture: Picture) -> np.ndarray:
    return np.asarray(on_white(read_upload(picture.content, "picture"))).transpose(2, 0, 1)


def given(picture: Picture) -> np.ndarray:
    image = Image.open(io.BytesIO(picture.content))
    return np.round(to_tensor(image, "image", (3, RESOLUTION, RESOLUTION))[0].numpy() * 255)


def picture_results() -> dict[str, dict[str, str]]:
    """What each entrance makes of each picture."""
    pictures = made()
    found: dict[str, Colours] = {}
    for name, put in (("folder", in_folder), ("zip", in_zip), ("tar", in_tar), ("parquet", in_table)):
        for path in (cached, streamed) if name in ("folder", "tar") else (cached,):
            with tempfile.TemporaryDirectory() as work:
                folder = Path(work, "faces")
                folder.mkdir()
                put(list(pictures.values()), folder)
                found[name if path is cached else f"{name}, `--streaming`"] = path(folder)
    for name, read in (("`evaluate`", evaluated), ("demo", uploaded), ("`pipe(image=…)`", given)):
        found[name] = of_each(read)(list(pictures.values()))
    return {
        what: {entrance: said_of(picture, colours.get(picture.name)) for entrance, colours in found.items()}
        for what, picture in pictures.items()
    }


def said_of(picture: Picture, colour: tuple[int, int, int] | None) -> str:
    if colour is None:
        return "left out"
    wanted = picture.colour
    if wanted is None or max(abs(a - b) for a, b in zip(colour, wanted, strict=True)) > TOLERANCE:
        return f"WRONG: {colour}"
    return "read"


def set_results() -> dict[str, tuple[list[str], str]]:
    """How many images each entrance finds in each data set, and what is said of it."""
    return {what: _set_result(make) for what, make in SETS.items()}


def _set_result(make: Callable[[Path], None]) -> tuple[list[str], str]:
    counts: list[str] = []
    said: list[str] = []
    for flag, streaming in (("train_data_dir", False), ("dataset_name", False), ("train_data_dir", True)):
        with tempfile.TemporaryDirectory() as work, listening() as heard:
            folder = Path(work, "faces")
            folder.mkdir()
            make(folder)
            try:
                counts.append(str(_count(folder, flag, streaming)))
            except UserError as error:
                counts.append("refused")
                heard.append(str(error))
            said += [sentence.replace(f"{work}/", "") for sentence in heard]
    with tempfile.TemporaryDirectory() as work, listening():
        folder = Path(work, "faces")
        folder.mkdir()
        make(folder)
        try:
            counts.append(str(len(read_folder(folder))))
        except UserError:
            counts.append("refused")
    return counts, "<br>".join(dict.fromkeys(said))


def _count(folder: Path, flag: str, streaming: bool) -> int:
    if not streaming:
        return open_data(config_for(folder, flag), RESOLUTION, False).num_images
    source = open_source(config_for(folder, flag, streaming=True))
    return sum(1 for unit in range(source.num_units) for _ in read_unit(source, unit))


class listening(logging.Handler):
    """`with listening() as sentences:` collects what the data code logs."""

    def __enter__(self) -> list[str]:
        self.sentences: list[str] = []
        tell_once.cache_clear()
        logging.getLogger("pipeline_anime_ddpm").addHandler(self)
        return self.sentences

    def __exit__(self, *_) -> None:
        logging.getLogger("pipeline_anime_ddpm").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.sentences.append(record.getMessage())


def page() -> Iterator[str]:
    """The lines of the page."""
    pictures = picture_results()
    entrances = list(next(iter(pictures.values())))
    yield from (
        "# Which pictures are read, and what happens to the others",
        "",
        "For everyone who brings their own pictures: what training, evaluation, the demo and the pipeline do",
        "with unusual, damaged or misplaced files. `python tests/support/input_table.py` writes it; tests check it.",
        "",
        "## One picture",
        "",
        "*Read* means: in the colours that a viewer shows, the first frame, upright, on white. *Left out* means:",
        "training skips the picture and lists it in `skipped.jsonl`, and the other entrances refuse it.",
        "`evaluate --images` takes finished images only: square, RGB or grey, and without transparency. HEIC pictures,",
        'which phones take, are read after `pip install "anime-ddpm[heic]"`.',
        "",
        "Some damage cannot be noticed: other values among the pixels of a BMP, TGA, PPM or uncompressed TIFF file, or",
        "a few changed bytes in the middle of a JPEG, WebP, AVIF or JPEG 2000 file.",
        "",
        f"| picture | {' | '.join(entrances)} |",
        f"|---|{'---|' * len(entrances)}",
    )
    for what, cells in pictures.items():
        yield f"| {what} | {' | '.join(cells.values())} |"
    yield from (
        "",
        "## A data set",
        "",
        "The numbers are images; *refused* means one sentence before training begins.",
        "",
        "| data set | `--train_data_dir` | `--dataset_name` | `--streaming` | `evaluate --images` | the command says |",
        "|---|---|---|---|---|---|",
    )
    for what, (counts, said) in set_results().items():
        yield f"| {what} | {' | '.join(counts)} | {said} |"


if __name__ == "__main__":
    PAGE.write_text("\n".join([*page(), ""]))
    sys.exit(0)
