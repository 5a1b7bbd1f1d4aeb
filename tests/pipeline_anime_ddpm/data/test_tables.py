"""Images in tables."""

import datasets
import pytest
from input_table import config_for
from PIL import Image

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data import open_data
from pipeline_anime_ddpm.data.sources import open_source


def test_the_image_column_is_found_or_asked_for(tmp_path):
    features = datasets.Features({"face": datasets.Image(), "mask": datasets.Image()})
    rows = {"face": [Image.new("RGB", (8, 8), (9, 9, 9))], "mask": [Image.new("RGB", (8, 8), (5, 5, 5))]}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / "train.parquet")
    with pytest.raises(UserError, match=r"face, mask, of which 2 hold images; .*--image_column"):
        open_source(config_for(tmp_path / "set"))
    with pytest.raises(UserError, match="--image_column fase is not one of the columns"):
        open_source(config_for(tmp_path / "set", image_column="fase"))
    data = open_data(config_for(tmp_path / "set", image_column="mask"), 8, False)
    assert set(data.entry.pixels().tolist()) == {5}
