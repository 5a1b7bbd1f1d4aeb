"""Foreign data: tars, folders, tables, pages of data sets."""

import io
import os
import shutil
import socket
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from security_parts import BOMB, png

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data.decoding import UndecodableImage, decode_image
from pipeline_anime_ddpm.data.reading import Decoder, Skipped, read_unit
from pipeline_anime_ddpm.data.sources import open_source
from pipeline_anime_ddpm.data.units import DataFile, TarFiles
from pipeline_anime_ddpm.evaluation.image_sets import read_folder
from pipeline_anime_ddpm.training.config import TrainingConfig


def read_all(folder, **settings):
    """What is made of each image of a folder, and from where."""
    source = open_source(TrainingConfig(train_data_dir=str(folder), **settings))
    decoder = Decoder(8, True, False, source.remote, threads=1)
    images = [image for unit in range(source.num_units) for image in read_unit(source, unit)]
    return {image.name: pixels for image, pixels in zip(images, decoder.decode(images), strict=True)}


def member(name, kind=tarfile.REGTYPE, size=None, **more):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(png()) if size is None else size
    for key, value in more.items():
        setattr(info, key, value)
    return info


def write_tar(path, *members):
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(png()) if info.type == tarfile.REGTYPE else None)


def test_names_links_and_devices_in_a_tar_reach_no_file(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(png(99))
    write_tar(
        folder / "0.tar",
        member("../../out.png"),
        member(str(tmp_path / "absolute.png")),
        member("link.png", tarfile.SYMTYPE, 0, linkname=str(tmp_path / "secret.png")),
        member("hard.png", tarfile.LNKTYPE, 0, linkname="../secret.png"),
        member("zero.png", tarfile.CHRTYPE, 0, devmajor=1, devminor=5),
        member("pipe.png", tarfile.FIFOTYPE, 0),
    )
    before = sorted(tmp_path.rglob("*"))
    read = read_all(folder)
    assert [pixels[0, 0, 0] for pixels in read.values()] == [7, 7]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("size", [2**33, 2**60, -1024])  # up to the second, tarfile would count
def test_a_tar_that_declares_impossible_sizes_is_a_sentence(size, tmp_path):
    header = member("0.png", size=max(size, 0)).tobuf(tarfile.GNU_FORMAT)
    if size < 0:  # which would lead tarfile back to where it comes from, for ever
        field = (2**96 + size).to_bytes(12, "big")
        header = header[:124] + field + header[136:148] + b" " * 8 + header[156:]
        header = header[:148] + b"%06o\0 " % sum(header) + header[156:]
    (tmp_path / "0.tar").write_bytes(header + png() + bytes(4096))
    with pytest.raises(UserError, match=r"a member claims -?[\d,]+ bytes"):
        read_all(tmp_path)


def test_a_tar_that_is_damaged_in_the_middle_is_not_taken_for_a_shorter_one(tmp_path):
    write_tar(tmp_path / "0.tar", member("0.png"), member("1.png"), member("2.png"))
    whole = (tmp_path / "0.tar").read_bytes()
    for spoilt in (whole[:1024] + b"\1" + whole[1025:], whole[:1100]):
        (tmp_path / "0.tar").write_bytes(spoilt)
        with pytest.raises(UserError, match="damaged after 1,024 bytes"):
            read_all(tmp_path)


def sparse_member(size, holes=b"1\n0\n0\n"):
    """A few bytes that stand for `size`, most of them zeros."""
    names = (
        b"GNU.sparse.major=1\n",
        b"GNU.sparse.minor=0\n",
        b"GNU.sparse.name=big.png\n",
        b"GNU.sparse.realsize=%d\n" % size,
    )
    records = b"".join(b"%d %s" % (len(name) + 3, name) for name in names)
    header = member("pax", tarfile.XHDTYPE, len(records)).tobuf(tarfile.USTAR_FORMAT)
    content = holes.ljust(512, b"\0")
    body = member("GNUSparseFile.0/big.png", size=len(content)).tobuf(tarfile.USTAR_FORMAT)
    return header + records.ljust(512, b"\0") + body + content


SPARSE = {99_999_999_999: "a file of 99,999,999,999 bytes", 2**28: "a sparse file, whose zeros are not in the tar"}


@pytest.mark.parametrize("size", SPARSE)
def test_a_sparse_member_of_a_tar_is_not_written_out(size, tmp_path):
    whole = member("small.png").tobuf(tarfile.USTAR_FORMAT) + png().ljust(512, b"\0")
    (tmp_path / "0.tar").write_bytes(whole + sparse_member(size) + bytes(1024))
    small, big = read_all(tmp_path).values()
    assert small.shape == (3, 8, 8)
    assert big == Skipped("0.tar/big.png", SPARSE[size])


def test_tars_among_other_files_are_not_read_by_others(tmp_path):
    """A README.md may name them together; whoever reads them then writes out what is sparse."""
    (tmp_path / "0.tar").write_bytes(sparse_member(2**28) + bytes(1024))
    (tmp_path / "1.tar").write_bytes(sparse_member(2**28) + bytes(1024))
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "README.md").write_text(README.format("data_files: ['0.tar', '1.tar', 'a.png']"))
    with pytest.raises(UserError, match="of one kind alone"):
        open_source(TrainingConfig(dataset_name=str(tmp_path)))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("what", ["holes that are none", "a header before a header"])
def test_a_tar_that_leads_its_reader_astray_is_a_sentence(what, streamed, tmp_path):
    first = [member(f"{n}.png").tobuf(tarfile.GNU_FORMAT) + png().ljust(512, b"\0") for n in range(10)]
    headers = member("pax", tarfile.XHDTYPE, 0).tobuf(tarfile.USTAR_FORMAT) * 3000
    spoilt = {"holes that are none": sparse_member(9, b"9" * 512), "a header before a header": headers}[what]
    (tmp_path / "0.tar").write_bytes(b"".join(first) + spoilt + bytes(1024))
    files = [DataFile("0.tar", (tmp_path / "0.tar").stat().st_size, "1")]
    with pytest.raises(UserError, match="damaged after"):
        if not streamed:
            read_all(tmp_path)
        source = TarFiles("set", [str(tmp_path / "0.tar")], files, True, None)  # of the Hub: not counted when opened
        source.remote = False  # not read again and again
        list(read_unit(source, 0))


def test_a_compressed_tar_is_refused(tmp_path):
    """A megabyte of it may hold a thousand."""
    with tarfile.open(tmp_path / "0.tar", "w:gz") as archive:
        archive.addfile(member("0.png"), io.BytesIO(png()))
    with pytest.raises(UserError, match="cannot be loaded"):
        read_all(tmp_path)


def test_links_of_a_folder_are_followed_to_files_and_said_and_no_pipe_is_opened(tmp_path, caplog):
    folder, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    for place in (folder, elsewhere):
        place.mkdir()
        (place / f"{place.name}.png").write_bytes(png())
    (folder / "file.png").symlink_to(elsewhere / "elsewhere.png")
    (folder / "inside.png").symlink_to(folder / "set.png")
    (folder / "folder.png").symlink_to(elsewhere)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "device.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    assert sorted(read_all(folder)) == ["file.png", "inside.png", "set.png"]
    assert "1 of the 3 files are links that lead out of" in caplog.text and "file.png" in caplog.text
    assert len(read_folder(folder)) == 3


README = """---
configs:
- config_name: default
  {}
---
"""


@pytest.fixture
def private(tmp_path):
    """Pictures that lie beside a data set, alone and in a table."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "photo.png").write_bytes(png(99))
    table = pyarrow.table({"image": [{"bytes": png(99), "path": "photo.png"}]})
    pyarrow.parquet.write_table(table, tmp_path / "private" / "train.parquet")
    return tmp_path / "private"


ELSEWHERE = {
    "images": "data_files: {private}/*.png",
    "a table": "data_files: {private}/train.parquet",
    "above": "data_files: ../private/train.parquet",
    "a folder": "data_dir: {private}",
    "a folder above": "data_dir: ../private",
    "an address": "data_files: http://127.0.0.1:{port}/train.parquet",
    "another data set": "data_files: hf://datasets/other/set/train.parquet",
    "a chain": "data_files: zip://*.png::http://127.0.0.1:{port}/faces.zip",
    "a link": "data_files: link/*.parquet",
}


@pytest.mark.parametrize("flag", ["train_data_dir", "dataset_name"])
@pytest.mark.parametrize("what", ELSEWHERE)
def test_a_data_set_that_names_files_elsewhere_is_refused_before_they_are_asked_for(
    what, flag, tmp_path, private, caplog
):
    folder = tmp_path / "set"
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"image": [{"bytes": png(), "path": "a.png"}]}), folder / "a.parquet")
    (folder / "link").symlink_to(private)
    with socket.create_server(("127.0.0.1", 0)) as server:
        named = ELSEWHERE[what].format(private=private, port=server.getsockname()[1])
        (folder / "README.md").write_text(README.format(named))
        with pytest.raises(UserError, match=r"which is not in it, and only its own files are opened"):
            open_source(TrainingConfig(**{flag: str(folder)}))
        server.settimeout(0)
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()
    (folder / "README.md").write_text(README.format("data_files: '*.parquet'"))
    (folder / "b.parquet").symlink_to(private / "train.parquet")  # what lies in the folder is the user's own choice
    assert sorted(picture[0, 0, 0] for picture in read_all(folder).values()) == [7, 99]
    assert "1 of the 2 files are links that lead out of" in caplog.text and "b.parquet" in caplog.text


@pytest.mark.slow
def test_a_data_set_of_the_hub_that_names_files_elsewhere_is_refused(hub, tmp_path, private, run_python):
    code = """
import sys
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.data.sources import open_source
from pipeline_anime_ddpm.common.errors import UserError
for name in sys.argv[1:]:
    try:
        print(open_source(TrainingConfig(dataset_name=name)).num_images)
    except UserError as error:
        print(error)
"""
    named = [ELSEWHERE["images"].format(private=private), ELSEWHERE["a folder"].format(private=private)]
    named += ["data_files: hf://datasets/me/own/*.parquet", "data_dir: ../own@main", "data_files: '*.parquet'"]
    readmes = [tmp_path / f"{number}.md" for number in range(len(named))]
    for number, readme in enumerate(readmes):
        readme.write_text(README.format(named[number]))
        hub.add_dataset(f"me/set{number}", {"README.md": readme, "train.parquet": private / "train.parquet"})
    hub.add_dataset("me/own", {"train.parquet": private / "train.parquet"})
    names = [*(f"me/set{number}" for number in range(len(named))), "me/own"]
    *refused, own, plain = run_python(code, *names, env=hub.env | {"HF_DATASETS_OFFLINE": "0"}).splitlines()
    assert [own, plain] == ["1", "1"]
    assert len(refused) == 4 and all("which is not in it" in sentence for sentence in refused), refused


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
def test_the_yaml_of_a_data_set_does_not_repeat_itself_without_end(name, tmp_path, private):
    shutil.copy(private / "train.parquet", tmp_path)
    fence = "---\n" if name == "README.md" else ""
    for lines, refused in ((2, False), (8, True)):
        text = "\n".join([*BOMB.splitlines()[: 1 + lines], "configs: *b"])
        (tmp_path / name).write_text(f"{fence}{text}\n{fence}")
        with pytest.raises(UserError, match="its YAML repeats parts" if refused else "config_name"):
            open_source(TrainingConfig(dataset_name=str(tmp_path)))


def test_other_files_of_a_data_set_are_not_opened(tmp_path):
    """HDF5 links to other files, and the readers of more formats than are looked through here."""
    (tmp_path / "train.h5").write_bytes(b"x")
    with pytest.raises(UserError, match=r"files such as train\.h5; give one of images"):
        open_source(TrainingConfig(dataset_name=str(tmp_path)))


@pytest.mark.parametrize("kind", ["absolute", "relative", "address", "pipe"])
def test_a_row_of_a_table_opens_no_file_outside_of_the_data_set(kind, tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.png").write_bytes(png())
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.chdir(tmp_path)
    paths = {"absolute": str(tmp_path / "secret.png"), "relative": "secret.png", "pipe": str(tmp_path / "pipe.png")}
    rows = [{"image": {"bytes": png(), "path": "/elsewhere/first.png"}}]
    rows += [{"image": {"bytes": None, "path": paths.get(kind, "http://127.0.0.1:9/secret.png")}}]
    schema = pyarrow.schema(
        {"image": pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})}
    ).with_metadata({"huggingface": '{"info": {"features": {"image": {"_type": "Image"}}}}'})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), tmp_path / "set" / "train.parquet")
    first, second = read_all(tmp_path / "set").values()
    assert isinstance(first, np.ndarray)
    assert isinstance(second, Skipped) and "which is not opened" in second.reason


def test_a_row_of_a_table_opens_nothing_through_a_chain_that_ends_in_its_own_file(tmp_path, private):
    folder = tmp_path / "set"
    folder.mkdir()
    own = folder / "own.parquet"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.png"
        begins = [f"file://{private}/photo.png", f"local://{private}/photo.png", address, f"zip://a.png::{address}"]
        rows = [{"bytes": png(), "path": None}]  # a table of nothing but names is refused as a whole
        rows += [{"bytes": None, "path": f"{begin}::{own}"} for begin in begins]
        kinds = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
        pyarrow.parquet.write_table(pyarrow.table({"image": pyarrow.array(rows, kinds)}), own)
        _, *read = read_all(folder).values()
        server.settimeout(0)
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()
    assert [skipped.reason for skipped in read] == ["a row that names a file, which is not opened"] * 4


def write_table(path, contents, **options):
    image = pyarrow.StructArray.from_arrays([pyarrow.array(contents, pyarrow.binary())], ["bytes"])
    pyarrow.parquet.write_table(pyarrow.table({"image": image}), path, **options)


def test_a_value_that_repeats_in_a_table_is_unpacked_once_and_not_without_end(tmp_path):
    """As a dictionary, a megabyte stands in a thousand rows for the price of one."""
    write_table(
        tmp_path / "0.parquet", [png() + bytes(2**20)] * 1000, compression="zstd", dictionary_pagesize_limit=2**30
    )
    assert (tmp_path / "0.parquet").stat().st_size < 5000
    source = open_source(TrainingConfig(train_data_dir=str(tmp_path)))
    before = pyarrow.default_memory_pool().max_memory()
    read = list(read_unit(source, 0))
    assert pyarrow.default_memory_pool().max_memory() - before < 20 * 2**20
    assert 10 < sum(image.content is not None for image in read) < 20
    assert read[999].refused.startswith("a row of 1,048,")


def test_a_table_that_unpacks_to_what_no_pictures_do_is_refused(tmp_path):
    contents = [png(number) + bytes(2**20) for number in range(20)]
    write_table(tmp_path / "0.parquet", contents, compression="zstd", use_dictionary=False)
    assert (tmp_path / "0.parquet").stat().st_size < 20_000
    with pytest.raises(UserError, match=r"0\.parquet unpacks [\d,]+ bytes to 2\d,\d{3},\d{3}, as no pictures do"):
        open_source(TrainingConfig(train_data_dir=str(tmp_path)))
    write_table(tmp_path / "0.parquet", contents, compression="none", use_dictionary=False)
    assert len(read_all(tmp_path)) == 20


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_value_of_a_table_that_is_too_large_is_not_read(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline_anime_ddpm.data.tables.MAX_BYTES", 1000)
    rows = [{"bytes": png(), "path": "a.png"}, {"bytes": bytes(1001), "path": "b.png"}]
    table = pyarrow.table({"image": rows})
    if kind == "parquet":
        pyarrow.parquet.write_table(table, tmp_path / "0.parquet")
    else:
        with pyarrow.ipc.new_stream(str(tmp_path / "0.arrow"), table.schema) as writer:
            writer.write_table(table)
    read = read_all(tmp_path)
    assert read["a.png"].shape == (3, 8, 8)
    assert read["b.png"] == Skipped("b.png", "a file of 1,001 bytes")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(2**40)
    (skipped,) = read_all(tmp_path).values()
    assert skipped == Skipped("sparse.png", "a file of more than 268,435,456 bytes")


def test_a_format_that_starts_a_program_is_not_opened(monkeypatch):
    """Pillow knows EPS by its first bytes, and would give it to Ghostscript."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "EPS")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", None)  # an error of another kind, were it called
    with pytest.raises(UndecodableImage, match="not an image"):
        decode_image(buffer.getvalue(), 8)
