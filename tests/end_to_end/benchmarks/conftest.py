"""Fixtures of this folder."""

import pytest
from benchmark_parts import BENCHMARKS


@pytest.fixture
def render(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import render

    return render
