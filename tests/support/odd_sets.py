"""Data sets as people have them, one of each odd kind: each is made in an empty folder."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 99\n"
HIDDEN = (".ipynb_checkpoints", ".thumbnails", "__MACOSX", "@eaDir")
PLACES = ("[artist] faces", "re::zero", "hf:", "a\\b", "a\nb", "a*b?", "100%#1", "~", "$HOME", "é日本")
Make = Callable[[Path], None]


def png(number: int = 0) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pngs(count: int, begin: int = 0) -> dict[str, bytes]:
    return {f"{number}.png": png(number) for number in range(begin, begin + count)}


def tar(files: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def table(files: Mapping[str, bytes | None]) -> bytes:
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    rows = pyarrow.array([{"bytes": content, "path": name} for name, content in files.items()], kind)
    features = '{"info": {"features": {"image": {"_type": "Image"}}}}'
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}).replace_schema_metadata({"huggingface": features}), file)
    return file.getvalue()


def holding(files: Mapping[str, bytes]) -> Make:
    """A folder of these files."""

    def make(folder: Path) -> None:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    return make


def beside_hidden(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {**files, **{f"{folder}/9.png": png(9) for folder in HIDDEN}, "__MACOSX/._0.png": b"\0\5\x16\7"}


CAPTIONED = {
    **pngs(20), **{f"{number}.txt": b"1girl" for number in range(20)},
    "Thumbs.db": b"\xd0\xcf\x11\xe0", "LICENSE": b"MIT", "metadata.csv": b"file_name,text\n0.png,x\n",
}  # fmt: skip
AS_SPLITS = dict(zip(("train", "a", "b", "test_1", "valid-2"), pngs(5).values(), strict=True))


def jpeg(number: int) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(png(number))).save(file, "JPEG")
    return file.getvalue()


def avif(number: int) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(png(number))).save(file, "AVIF")
    return file.getvalue()


OTHER_KINDS = {
    **pngs(3), "a.avif": avif(5), "b.jpg_large": jpeg(6), "c": png(7), "d.psd": b"8BPS\0\1" + bytes(20),
    "e.svg": b"<svg/>", "f.pdf": b"%PDF-1.7",
}  # fmt: skip
DOTTED = {
    "1.0.png": png(0), "1.1.png": png(1), "ep01.frame000.png": png(2), "ep01.frame001.png": png(3),
    "mr.smith.png": png(4), "v1.2.final.png": png(5),
}  # fmt: skip
MASKED = {f"{n}.{role}": png(n + 10 * ("mask" in role)) for n in range(3) for role in ("jpg", "mask.png")}

SETS: dict[str, Make] = {
    "pictures and hidden folders with pictures": holding(beside_hidden(pngs(3))),
    "a tar with hidden folders": holding({"faces.tar": tar(beside_hidden(pngs(3)))}),
    "a zip with hidden folders": holding({"faces.zip": zipped(beside_hidden(pngs(3)))}),
    "parquet files in hidden folders too": holding(
        {"a.parquet": table(pngs(3)), ".cache/a.parquet": table(pngs(3)), "__MACOSX/._a.parquet": b"\0\5\x16\7"}
    ),
    "20 png, captions, `Thumbs.db`, LICENSE, metadata.csv": holding(CAPTIONED),
    "a zip of the same 43 files": holding({"faces.zip": zipped(CAPTIONED)}),
    "a tar of the same 43 files": holding({"faces.tar": tar(CAPTIONED)}),
    "names that look like splits": holding({f"{name}.png": content for name, content in AS_SPLITS.items()}),
    "parquet files, one of which is called train": holding(
        {"train.parquet": table(pngs(2)), "a.parquet": table(pngs(3, 5))}
    ),
    "3 png and a zip of them": holding({**pngs(3), "faces.zip": zipped(pngs(3))}),
    "5 png and a tar of 2": holding({**pngs(5), "faces.tar": tar(pngs(2))}),
    "5 png and a parquet file of 2": holding({**pngs(5), "faces.parquet": table(pngs(2))}),
    "a tar and a parquet file": holding({"faces.tar": tar(pngs(2)), "faces.parquet": table(pngs(2))}),
    "avif, `.jpg_large`, no suffix, psd, svg, pdf beside 3 png": holding(OTHER_KINDS),
    "a zip of these kinds": holding({"faces.zip": zipped(OTHER_KINDS)}),
    "a tar of these kinds": holding({"faces.tar": tar(OTHER_KINDS)}),
    "dots in names within a tar": holding({"faces.tar": tar(DOTTED)}),
    "`jpg` and `mask.png` of each example in a tar": holding({"faces.tar": tar(MASKED)}),
    "a git-lfs pointer among parquet files": holding({"a.parquet": table(pngs(2)), "b.parquet": POINTER}),
    "a git-lfs pointer among tars": holding({"a.tar": tar(pngs(2)), "b.tar": POINTER}),
    "a git-lfs pointer among zips": holding({"a.zip": zipped(pngs(2)), "b.zip": POINTER}),
    "a tar cut off": holding({"a.tar": tar(pngs(2)), "b.tar": tar(pngs(4))[:2000]}),
    "half a zip": holding({"a.zip": zipped(pngs(2)), "b.zip": zipped(pngs(4))[:1500]}),
    "half a parquet file": holding({"a.parquet": table(pngs(2)), "b.parquet": table(pngs(4))[:1500]}),
    "an empty parquet file": holding({"a.parquet": table(pngs(2)), "b.parquet": b""}),
    "a parquet file without rows": holding({"a.parquet": table(pngs(2)), "b.parquet": table({})}),
    "an empty tar": holding({"a.tar": tar(pngs(2)), "b.tar": b""}),
    "a tar that is compressed": holding({"a.tar": b"\x1f\x8b\x08" + bytes(50)}),
    "a web page instead of a zip": holding({"a.zip": b"<!DOCTYPE html><html>Sign in</html>"}),
    "absolute paths in a parquet file": holding({"a.parquet": table({"/home/me/faces/0.png": None})}),
    "text files alone": holding({"a.txt": b"1girl", "README.md": b"# Faces"}),
    "a rar archive alone": holding({"a.rar": b"Rar!\x1a\7"}),
    **{
        f"`[ ] :: hf: \\ * ? % # ~ $`, é or a line break in the path, {kind}": holding(
            {f"{place}/{name}": content for place in PLACES}
        )
        for kind, name, content in (
            ("png", "a.png", png()), ("parquet", "a.parquet", table(pngs(1))),
            ("zip", "a.zip", zipped(pngs(1))), ("tar", "a.tar", tar(pngs(1))),
        )
    },
    "the same in a zip": holding({"a.zip": zipped({f"{place}/a.png": png() for place in PLACES})}),
    "the same in a tar": holding({"a.tar": tar({f"{place}/a.png": png() for place in PLACES})}),
}  # fmt: skip
