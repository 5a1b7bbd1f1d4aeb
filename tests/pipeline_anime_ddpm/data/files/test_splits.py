"""Which files are for training, by their names."""

import pytest

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data.files.splits import as_datasets, by_split, chosen, matching


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["Training/a.png", "val/b.png"], {"train": ["Training/a.png"], "validation": ["val/b.png"]}),
        (["train-0.tar", "faces_test.tar"], {"train": ["train-0.tar"], "test": ["faces_test.tar"]}),
        (["a/train/a.png", "a/test/b.png"], {"train": ["a/train/a.png", "a/test/b.png"]}),
        (["test/a.png", "cats/b.png"], {"train": ["test/a.png", "cats/b.png"]}),
        (["test/a.png"], {"test": ["test/a.png"]}),
    ],
)
def test_topmost_folder_and_words_of_a_tar_tell_the_split(names, expected):
    assert by_split(names) == expected


def test_patterns_are_those_of_datasets():
    names = ["data/a.parquet", "data/deep/b.parquet", "c.parquet"]
    assert matching(names, "data/**/*.parquet") == names[:2] and matching(names, "*.parquet") == names[2:]


def test_unused_splits_are_said(caplog):
    splits = {"train": ["a"], "test": ["b", "c"]}
    assert chosen(splits, "train", "faces", 4, is_told=True) == ["a"]
    assert "train is used (1 file), and not 2 of test, 1 without a split in their names." in caplog.text
    with pytest.raises(UserError, match=r"'faces' has no extra split \(it has train, test\); choose another"):
        chosen(splits, "extra", "faces", 4, is_told=True)


def test_pictures_called_like_splits_are_no_splits_at_the_hub_either():
    names = ["a.png", "test_1.png", "train.png", "valid-2.png"]
    assert as_datasets(names, by_file_name=False) == {"train": names}
    assert as_datasets(["x/train/a.png", "x/test/b.png"], False) == {
        "train": ["x/train/a.png"],
        "test": ["x/test/b.png"],
    }
