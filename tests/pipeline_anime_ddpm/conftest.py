"""Shared by the tests of data and training."""

import pytest


@pytest.fixture
def make_set(tmp_path):
    def make(write):
        (tmp_path / "set").mkdir()
        (tmp_path / "run").mkdir(exist_ok=True)
        write(tmp_path / "set")
        return tmp_path

    return make
