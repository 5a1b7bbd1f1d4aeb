"""Settings of the data: what follows from them."""

import pytest

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data.config import DataConfig


def test_without_a_data_set_faces_are_drawn():
    assert DataConfig().uses_drawn_faces and DataConfig().name is None
    for flag in ("dataset_name", "train_data_dir"):
        config = DataConfig(**{flag: "faces"})
        assert config.name == "faces" and not config.uses_drawn_faces


def test_label_columns_are_a_list():
    assert DataConfig(label_columns="hair,eyes").label_names == ["hair", "eyes"]
    assert DataConfig().label_names == []


@pytest.mark.parametrize(
    "given", [{"validation_fraction": 1}, {"max_skipped_fraction": 1.1}, {"shuffle_buffer_size": 0}, {"seed": -1}]
)
def test_values_out_of_bounds_are_refused(given):
    (name,) = given
    with pytest.raises(UserError, match=f"--{name}"):
        DataConfig(**given)
