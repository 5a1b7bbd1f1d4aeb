"""Folders, tables and archives are found, their images named, and a change of them noticed."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data import open_data
from pipeline_anime_ddpm.data.feed import FeedPlan
from pipeline_anime_ddpm.data.files.splits import by_split
from pipeline_anime_ddpm.data.reading import read_unit
from pipeline_anime_ddpm.data.sources import available_splits, check_source, open_source
from pipeline_anime_ddpm.training.config import TrainingConfig


def png(number):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def config_for(folder, tmp_path, **settings):
    return TrainingConfig(
        **{
            "train_data_dir": folder and str(folder),
            "cache_dir": str(tmp_path / "cache"),
            "output_dir": str(tmp_path / "run"),
        }
        | settings
    )


def contents(source):
    return sorted(i.content or Path(i.path).read_bytes() for u in range(source.num_units) for i in read_unit(source, u))


def make_folder(folder, count):
    for number in range(count):
        path = folder / f"nested{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    (folder / ".hidden.png").write_bytes(b"of some other program")


def make_tars(folder, count):
    folder.mkdir()
    for part in range(2):
        with tarfile.open(folder / f"{part}.tar", "w") as archive:
            for number in range(part, count, 2):
                for suffix, content in (("PNG" if number % 3 else "webp", png(number)), ("json", b"{}")):
                    member = tarfile.TarInfo(f"faces/{number:03d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def make_zip(folder, count):
    folder.mkdir()
    with zipfile.ZipFile(folder / "faces.zip", "w") as archive:
        for number in range(count):
            archive.writestr(f"{number}.png", png(number))


def make_tables(folder, count):
    (folder / "data").mkdir(parents=True)
    for split, numbers in (("train", range(count)), ("validation", range(count, count + 3))):
        rows = [{"image": {"bytes": png(n), "path": None}, "label": n} for n in numbers]
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet", row_group_size=2)


MAKERS = {"folder": make_folder, "tars": make_tars, "zip": make_zip, "tables": make_tables}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("flag", ["train_data_dir", "dataset_name"])
def test_every_image_of_the_train_split_is_found_once(kind, flag, tmp_path):
    MAKERS[kind](tmp_path / "set", 7)
    source = open_source(config_for(None, tmp_path, **{"train_data_dir": None, flag: str(tmp_path / "set")}))
    if kind != "zip":
        assert contents(source) == sorted(png(n) for n in range(7))
        assert source.num_images == 7
    data = open_data(config_for(None, tmp_path, **{"train_data_dir": None, flag: str(tmp_path / "set")}), 8, False)
    assert sorted(data.entry.pixels()[:: 3 * 8 * 8].tolist()) == list(range(7))


@pytest.mark.parametrize("kind", ["folder", "tars", "tables"])
def test_a_change_makes_a_new_fingerprint_and_a_copy_keeps_the_identity(kind, tmp_path):
    MAKERS[kind](tmp_path / "one", 5)
    MAKERS[kind](tmp_path / "two", 5)
    one, two = (open_source(config_for(tmp_path / name, tmp_path)) for name in ("one", "two"))
    assert one.identity == two.identity
    file = next(p for p in sorted((tmp_path / "one").rglob("*")) if p.suffix in (".tar", ".parquet") or p.stem == "0")
    os.utime(file, ns=(1, 1))  # the same size, another content: only the time tells
    changed = open_source(config_for(tmp_path / "one", tmp_path))
    assert changed.fingerprint != one.fingerprint
    assert changed.identity == one.identity


def test_captions_beside_the_images_are_no_second_column(tmp_path):
    make_folder(tmp_path / "set", 3)
    for number in range(3):
        (tmp_path / "set" / "nested0" / f"{number}.txt").write_text("1girl, solo")
    assert contents(open_source(config_for(tmp_path / "set", tmp_path))) == sorted(png(n) for n in range(3))


@pytest.mark.parametrize(("make", "says"), [(None, "not a folder"), (lambda p: p.mkdir(), "holds no images")])
def test_a_folder_without_images_gets_one_sentence(tmp_path, make, says):
    folder = tmp_path / "empty"
    if make:
        make(folder)
        (folder / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=says):
        check_source(config_for(folder, tmp_path))


@pytest.mark.parametrize("data", ["train_data_dir", "dataset_name"])
@pytest.mark.parametrize("flag", ["output_dir", "cache_dir"])
def test_a_run_does_not_write_among_its_own_data(flag, data, tmp_path):
    """Its samples would be training data of the next run, and a resumed one would find its data changed."""
    make_folder(tmp_path / "set", 2)
    (tmp_path / "link").symlink_to(tmp_path / "set")
    settings = {"train_data_dir": None, data: str(tmp_path / "set")}
    for place in (tmp_path / "set", tmp_path / "set" / "deep" / "run", tmp_path / "link" / "run"):
        with pytest.raises(UserError, match=rf"--{flag} .* is inside of the data folder .* choose a folder elsewhere"):
            check_source(config_for(None, tmp_path, **settings, **{flag: str(place)}))
    check_source(config_for(None, tmp_path, **settings, **{flag: str(tmp_path / "set beside")}))


def test_a_data_set_without_a_train_split_gets_one_sentence(tmp_path):
    make_tables(tmp_path / "set", 2)
    (tmp_path / "set" / "data" / "train-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match="no train split"):
        open_source(config_for(None, tmp_path, train_data_dir=None, dataset_name=str(tmp_path / "set")))


BYTES, TEXT = pyarrow.binary(), pyarrow.string()
IMAGE = pyarrow.struct({"bytes": BYTES, "path": TEXT})
ENCODED = {"bytes": png(7), "path": "a.png"}


def odd_table(values, kind=None, metadata=None, name="image", file="a.parquet"):
    def make(folder):
        table = pyarrow.table({name: pyarrow.array(values, kind)}).replace_schema_metadata(metadata)
        if file.endswith(".parquet"):
            pyarrow.parquet.write_table(table, folder / file)
        else:
            with pyarrow.ipc.new_stream(str(folder / file), table.schema) as writer:
                writer.write_table(table)

    return make


def odd_file(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def locked_zip(folder):
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("a.png", png(7))
    content = (folder / "a.zip").read_bytes()
    places = [content.index(b"PK\3\4") + 6, content.index(b"PK\1\2") + 8]  # the flag that it is encrypted
    (folder / "a.zip").write_bytes(bytes(byte | (at in places) for at, byte in enumerate(content)))


def beside_a_table(readme, name="README.md"):
    def make(folder):
        odd_table([ENCODED], IMAGE)(folder)
        (folder / name).write_text(readme)

    return make


def image_beside(name, content):
    def make(folder):
        (folder / "a.png").write_bytes(png(7))
        (folder / name).write_text(content)

    return make


ODD = {  # what is made of it: red values, or a part of the sentence
    "null": (odd_table([None, ENCODED, {"bytes": None, "path": None}], IMAGE), [7]),
    "nothing but null": (odd_table([None, None]), "hold images"),
    "bytes alone": (odd_table([png(7), None], pyarrow.binary()), [7]),
    "large bytes": (odd_table([png(7)], pyarrow.large_binary()), [7]),
    "views": (odd_table([png(7)], pyarrow.binary_view()), "hold images"),
    "bytes of a width": (odd_table([png(7)], pyarrow.binary(len(png(7)))), "hold images"),
    "fields in another order": (
        odd_table(
            [{"path": "a", "more": 1, "bytes": png(7)}],
            pyarrow.struct({"path": pyarrow.string(), "more": pyarrow.int8(), "bytes": pyarrow.binary()}),
        ),
        [7],
    ),
    "paths that are numbers": (odd_table([{"bytes": png(7), "path": 3}]), [7]),
    "paths that are no text": (
        odd_table(
            [{"bytes": png(7), "path": b"\xff"}], pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.binary()})
        ),
        [7],
    ),
    "paths alone": (
        odd_table(["/dev/zero"], metadata={"huggingface": '{"info": {"features": {"image": {"_type": "Image"}}}}'}),
        "hold images",
    ),
    "lists of images": (odd_table([[ENCODED, ENCODED]], pyarrow.list_(IMAGE)), "hold images"),
    "pixels": (odd_table([[[1, 2], [3, 4]]]), "hold images"),
    "a struct in a struct": (odd_table([{"bytes": {"bytes": png(7)}}]), "hold images"),
    "no rows": (odd_table([], IMAGE), "holds no images"),
    "no columns": (lambda folder: pyarrow.parquet.write_table(pyarrow.table({}), folder / "a.parquet"), "hold images"),
    "a column with a dot": (odd_table([ENCODED], IMAGE, name="a.b"), [7]),
    "an unknown feature": (
        odd_table([ENCODED], IMAGE, {"huggingface": '{"info": {"features": {"image": {"_type": "Nope"}}}}'}),
        "Nope",
    ),
    "features without end": (odd_table([ENCODED], IMAGE, {"huggingface": "[" * 100_000}), "cannot be loaded"),
    "an arrow file": (odd_table([ENCODED, None], IMAGE, file="a.arrow"), [7]),
    "an arrow file of lists": (odd_table([[ENCODED]], pyarrow.list_(IMAGE), file="a.arrow"), "hold images"),
    "an arrow file that is none": (odd_file("a.arrow", b"ARROW1\0\0" + bytes(range(100))), "cannot be loaded"),
    "a parquet file that is none": (odd_file("a.parquet", b"PAR1" + bytes(range(100))), "cannot be loaded"),
    "an empty parquet file": (odd_file("a.parquet", b""), "cannot be loaded"),
    "a zip that is none": (odd_file("a.zip", b"PK\3\4" + bytes(range(100))), "a.zip cannot be loaded, it is cut off"),
    "an empty zip": (
        odd_file("a.zip", b"PK\5\6" + bytes(18)),
        "a.zip holds no images",
    ),
    "a zip that is encrypted": (locked_zip, "a.zip/a.png (encrypted"),
    "an empty tar": (odd_file("a.tar", bytes(10240)), "holds no images"),
    "a tar that is none": (odd_file("a.tar", bytes(range(256)) * 4), "cannot be loaded"),
    "a README.md that is none": (beside_a_table("---\n: : [\n---\n"), "cannot be loaded"),
    "a README.md of numbers": (beside_a_table("---\n- 3\n---\n"), "cannot be loaded"),
    "features that are none": (beside_a_table("---\ndataset_info:\n  features: 7\n---\n"), "cannot be loaded"),
    "files that are none": (
        beside_a_table("---\nconfigs:\n- config_name: default\n  data_files: 7\n---\n"),
        "Expected data_files",
    ),
    "infos that are none": (beside_a_table("[7]", "dataset_infos.json"), [7]),
    "YAML that is none": (beside_a_table("[", ".huggingface.yaml"), "cannot be loaded"),
    "a csv beside images": (image_beside("metadata.csv", "file_name,text\n../../a.png,x\n"), [7]),
    "another csv beside images": (image_beside("labels.csv", "a,b\n1,2\n"), [7], "files such as labels.csv"),
}


@pytest.mark.parametrize(
    ("flag", "streaming"), [("train_data_dir", False), ("dataset_name", False), ("train_data_dir", True)]
)
@pytest.mark.parametrize("what", ODD)
def test_odd_data_are_read_or_refused_in_a_sentence(what, flag, streaming, tmp_path):
    make, *results = ODD[what]
    (tmp_path / "set").mkdir()
    (tmp_path / "run").mkdir()
    make(tmp_path / "set")
    settings = {"train_data_dir": None, flag: str(tmp_path / "set"), "streaming": streaming}
    config = config_for(None, tmp_path, **settings, max_skipped_fraction=0.9)
    try:
        batch = next(open_data(config, 8, False).feed(FeedPlan(1, 0, 1)))
    except UserError as error:
        sentence = str(error)
        assert "\n" not in sentence and sentence.endswith(".")
        assert any(isinstance(result, str) and result in sentence for result in results), sentence
    else:
        assert batch.images[:, 0, 0, 0].tolist() in results


def split_folders(folder, make, names):
    for count, name in enumerate(names, 1):
        make(folder / name, count)


@pytest.mark.parametrize("make", [make_folder, make_tars])
@pytest.mark.parametrize("names", [("Training", "test", "val"), ("train", "eval")])
def test_of_folders_for_splits_only_that_for_training_is_trained_on(make, names, tmp_path, caplog):
    """As in load_dataset("imagefolder"), `--dataset_name` and folders of parquet files."""
    folder = tmp_path / "data"
    folder.mkdir()
    split_folders(folder, make, names)
    source = open_source(config_for(folder, tmp_path))
    assert contents(source) == [png(0)]
    assert f"train is used ({2 if make is make_tars else 1} file" in caplog.text
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file()]
    assert by_split(files).keys() >= {"train", "test"}


def put_beside(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(number))


@pytest.mark.parametrize(
    "names, trained, splits",
    [
        (["a.png", "test/b.png", "test/c.png"], 3, ["train"]),
        (["a.png", "b.png", "test_1.png", "valid-2.png", "train.png"], 5, ["train"]),
        (["in/train/a.png", "in/test/b.png"], 2, ["train"]),
        (["Train/a.png", "TEST/b.png"], 1, ["train", "test"]),
        (["train/a.png", "training/b.png", "dev/c.png", "test/d.png"], 2, ["validation", "train", "test"]),
        (["train/a.png", "val/b.png", "other/c.png"], 1, ["train", "validation"]),
        (["test/a.png", "cats/b.png"], 2, ["train"]),
    ],
)
@pytest.mark.parametrize("flag", ["train_data_dir", "dataset_name"])
def test_training_and_evaluation_agree_on_what_is_held_out(names, trained, splits, flag, tmp_path):
    put_beside(tmp_path / "data", names)
    config = config_for(None, tmp_path, **{flag: str(tmp_path / "data")})
    assert open_source(config).num_images == trained
    judged = config_for(None, tmp_path, dataset_name=str(tmp_path / "data"))
    assert sorted(available_splits(judged)) == sorted(splits)
    for split in splits:
        assert open_source(judged, split).num_images > 0
    with pytest.raises(UserError, match="has no extra split"):
        open_source(judged, "extra")


def test_a_folder_of_held_out_images_alone_has_nothing_to_train_on(tmp_path):
    put_beside(tmp_path / "data", ["test/a.png", "test/b.png"])
    (tmp_path / "data" / "train").mkdir()
    with pytest.raises(UserError, match=r"has no train split \(it has test\)"):
        open_source(config_for(tmp_path / "data", tmp_path))
    judged = config_for(None, tmp_path, dataset_name=str(tmp_path / "data"))
    assert available_splits(judged) == ["test"] and open_source(judged, "test").num_images == 2


@pytest.mark.parametrize("names", [("train", "cats"), ("test", "cats"), ("cats", "dogs")])
def test_folders_that_are_no_splits_are_all_trained_on(names, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    split_folders(folder, make_folder, names)
    assert len(contents(open_source(config_for(folder, tmp_path)))) == 3


def test_an_address_is_refused_as_it_is(tmp_path):
    with pytest.raises(UserError, match=r"--train_data_dir http://example\.org/faces\.tar is an address"):
        check_source(config_for("http://example.org/faces.tar", tmp_path))
