"""Shared by the tests of data."""

import io
import json
import tarfile

import datasets
import numpy as np
from PIL import Image

from pipeline_anime_ddpm.training.config import TrainingConfig

COLOURS = ["red", "green", "blue"]
HAIR = [n % 3 if n % 5 else None for n in range(12)]  # every fifth has none
AGE = [n % 4 for n in range(12)]


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8, 3), number, np.uint8))


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def class_label(values):
    return datasets.Dataset.from_dict(
        {"image": [picture(n) for n in range(12)], "hair": values, "age": AGE},
        datasets.Features(
            {"image": datasets.Image(), "hair": datasets.ClassLabel(names=COLOURS), "age": datasets.Value("int32")}
        ),
    )


def make_parquet(folder):
    class_label(HAIR).to_parquet(folder / "train-0.parquet")


def make_parquet_of_text(folder):
    hair = ["" if h is None else f" {COLOURS[h]} " for h in HAIR]
    table = {"image": [picture(n) for n in range(12)], "hair": hair, "age": AGE}
    datasets.Dataset.from_dict(table).cast_column("image", datasets.Image()).to_parquet(folder / "train-0.parquet")


def make_arrow(folder):
    class_label(HAIR).save_to_disk(folder / "saved")
    (folder / "saved" / "dataset_info.json").rename(folder / "dataset_info.json")
    for file in (folder / "saved").glob("*.arrow"):
        file.rename(folder / "train-0.arrow")
    (folder / "dataset_info.json").unlink()
    (folder / "saved" / "state.json").unlink()
    (folder / "saved").rmdir()


def make_csv(folder):
    lines = ["file_name,hair,age"]
    for n in range(12):
        picture(n).save(folder / f"{n:02d}.png")
        lines.append(f"{n:02d}.png,{'' if HAIR[n] is None else COLOURS[HAIR[n]]},{AGE[n]}")
    (folder / "metadata.csv").write_text("\n".join(lines))


def make_jsonl(folder):
    (folder / "deep").mkdir()
    rows = []
    for n in range(12):
        picture(n).save(folder / "deep" / f"{n:02d}.png")
        hair = {} if HAIR[n] is None else {"hair": COLOURS[HAIR[n]]}
        rows.append(json.dumps({"file_name": f"deep/{n:02d}.png", "age": AGE[n]} | hair))
    (folder / "metadata.jsonl").write_text("\n".join(rows))


def make_tar(folder):
    with tarfile.open(folder / "faces.tar", "w") as archive:
        for n in range(12):
            hair = {} if HAIR[n] is None else {"hair": COLOURS[HAIR[n]]}
            values = json.dumps({"age": AGE[n], "seen": [1]} | hair).encode()
            for name, content in ((f"{n:02d}.json", values), (f"{n:02d}.png", png(n))):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def settings(tmp_path, columns="hair,age", flag="dataset_name", **more):
    return TrainingConfig(
        **{flag: str(tmp_path / "set")}, label_columns=columns, cache_dir=str(tmp_path / "cache"),
        output_dir=str(tmp_path / "run"), shuffle_buffer_size=5, **more,
    )  # fmt: skip
