"""Damaged and hostile inputs that `benchmarks/fuzz.py` has found interesting are refused as documented, or read."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests" / "corpus"


@pytest.fixture
def targets(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import fuzz

    return fuzz.TARGETS


def test_every_kept_input_is_refused_as_documented_or_read(targets):
    replayed = dict.fromkeys(targets, 0)
    for path in sorted(CORPUS.glob("*/*")):
        try:
            targets[path.parent.name](path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path.relative_to(CORPUS)} is neither read nor refused") from error
        replayed[path.parent.name] += 1
    assert all(replayed.values()), replayed
    assert sum(path.stat().st_size for path in CORPUS.glob("*/*")) < 200_000
