"""A network to be planned for."""

import pytest
from diffusers import UNet2DModel
from plan_parts import TWO_LEVELS


@pytest.fixture
def folder(tmp_path):
    """The config of a network, in a folder."""
    UNet2DModel.from_config(TWO_LEVELS).save_config(tmp_path / "network")
    return tmp_path / "network"
