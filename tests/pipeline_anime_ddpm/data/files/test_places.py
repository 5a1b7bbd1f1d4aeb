"""The files of a data set in a folder of this machine; the Hub's are in the tests of streaming and publishing."""

from pipeline_anime_ddpm.data.files.places import MAX_TEXT, local_place


def test_names_leave_out_the_folder_that_all_share(tmp_path):
    (tmp_path / "faces" / "b").mkdir(parents=True)
    names = ["faces/a.png", "faces/b/c.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"12")
    place = local_place(tmp_path)
    assert place.listing.by_kind["image"] == names and place.path(names[0]) == str(tmp_path / names[0])
    assert [file.name for file in place.files(names)] == names
    assert [file.name for file in place.files(names, are_shortened=True)] == ["a.png", "b/c.png"]
    assert [file.name for file in place.files(names[:1], are_shortened=True)] == ["a.png"]
    assert {file.size for file in place.files(names)} == {2}


def test_links_out_of_the_folder_are_said(tmp_path, caplog):
    (tmp_path / "set").mkdir()
    for name in ("outside.png", "set/inside.png"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "set" / "near.png").symlink_to(tmp_path / "set" / "inside.png")
    local_place(tmp_path / "set").files(["inside.png", "link.png", "near.png"])
    assert "1 of the 3 files are links that lead out" in caplog.text and "link.png" in caplog.text


def test_text_is_read_up_to_a_bound(tmp_path):
    place = local_place(tmp_path)
    assert place.text("README.md") is None
    (tmp_path / "README.md").write_bytes(b"\xff" + b"a" * MAX_TEXT)
    assert place.text("README.md") == "\ufffd" + "a" * (MAX_TEXT - 1)
