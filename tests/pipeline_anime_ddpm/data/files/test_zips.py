"""Images in zip archives."""

from input_table import config_for
from odd_sets import png, zipped

from pipeline_anime_ddpm.data.files.zips import ZipFiles
from pipeline_anime_ddpm.data.reading import read_unit
from pipeline_anime_ddpm.data.sources import open_source
from pipeline_anime_ddpm.data.units import DataFile


def test_hidden_members_are_left_out_and_the_order_is_that_of_folders(tmp_path):
    path = tmp_path / "faces.zip"
    path.write_bytes(zipped({"b/2.png": png(2), "a/1.png": png(1), "z.png": png(9), "__MACOSX/._z.png": b"x"}))
    source = ZipFiles("faces", [str(path)], [DataFile("faces.zip", path.stat().st_size, "1")], remote=False)
    images = list(source.read(0))
    assert [image.name for image in images] == ["faces.zip/z.png", "faces.zip/a/1.png", "faces.zip/b/2.png"]
    assert [image.opened() for image in images] == [png(9), png(1), png(2)] and source.num_found == 3


def test_labels_of_a_zip_come_from_the_metadata_and_folders_in_it(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    table = b"file_name,hair\na/0.png,red\na/1.png,blue\nb/2.png,red\n"
    files = {f"{'ab'[n // 2]}/{n}.png": png(n) for n in range(3)}
    (folder / "faces.zip").write_bytes(zipped({**files, "metadata.csv": table}))
    source = open_source(config_for(folder, label_columns="hair,label"))
    assert source.labels.names == {"hair": ["blue", "red"], "label": ["a", "b"]}
    assert [image.labels for image in read_unit(source, 0)] == [(2, 1), (1, 1), (2, 2)]
