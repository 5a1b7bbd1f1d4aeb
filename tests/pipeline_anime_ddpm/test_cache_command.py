"""`anime-ddpm cache` lists and deletes what is kept."""

import numpy as np
import pytest
from evaluation_data import pictures, save

from pipeline_anime_ddpm.cli import main
from pipeline_anime_ddpm.data import cache, open_data
from pipeline_anime_ddpm.data.config import DataConfig
from pipeline_anime_ddpm.evaluation.metrics.statistics import (
    FACTS,
    kept,
    statistics_root,
)


def test_caches_can_be_listed_and_deleted(tmp_path, capsys):
    faces = save(tmp_path / "faces", pictures(4, seed=0))
    config = DataConfig(train_data_dir=str(faces), cache_dir=str(tmp_path / "cache"))
    entries = [open_data(config, resolution, False).entry for resolution in (8, 10)]
    where = ["--cache_dir", str(tmp_path / "cache")]
    main(["cache", "ls", *where])
    listed = capsys.readouterr().out
    assert all(entry.folder.name in listed for entry in entries)
    assert "2 caches" in listed
    main(["cache", "rm", entries[0].folder.name, *where])
    assert cache.list_caches(entries[0].folder.parent) == {entries[1].folder: entries[1]}
    entries[1].folder.rename(old := entries[1].folder.with_name("faces-of-an-earlier-version"))
    main(["cache", "ls", *where])
    assert f"{old.name}  0.0 MB  of an earlier version, or damaged" in capsys.readouterr().out
    for arguments in (["rm"], ["rm", "nothing"]):
        with pytest.raises(SystemExit) as exit:
            main(["cache", *arguments, *where])
        assert exit.value.code == 2
    main(["cache", "rm", "--all", *where])
    assert not cache.list_caches(entries[0].folder.parent)


def test_damaged_entry_is_listed_and_can_be_deleted(tmp_path, capsys):
    root = statistics_root(str(tmp_path))
    kept(root, "something", {"a": 1}, lambda: {"x": np.arange(3)})
    (folder,) = root.glob("something-*")
    (folder / FACTS).write_text("{")
    main(["cache", "ls", "--cache_dir", str(tmp_path)])
    assert f"{folder.name}  0.0 MB  damaged" in capsys.readouterr().out
    main(["cache", "rm", "--all", "--cache_dir", str(tmp_path)])
    assert not folder.exists()
