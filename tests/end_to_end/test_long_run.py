"""What the long run says of memory, files, threads and speed, without running for long."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def long_run(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import long_run

    return long_run


def row(minute, part="cached", **values):
    sound = {"memory": 1000, "files": 9, "threads": 4, "images": 60 * minute, "images_per_second": 50.0}
    sound["images_per_processor_second"] = 25.0
    return {
        "part": part,
        "minutes": float(minute),
        **sound,
        "evaluations": minute // 9,
        "pushes": minute // 10,
        **values,
    }


def test_growth_is_told_after_the_warm_up_and_a_single_peak_is_none(long_run):
    warming = [row(minute, memory=100 * minute) for minute in range(9)]  # 15 % of an hour
    steady = [row(minute) for minute in range(9, 61)]
    steady[-2]["memory"] = 5000
    found = long_run.changes([*warming, *steady])
    assert found["memory_growth"] == found["speed_growth"] == found["work_growth"] == 0 and found["files"] == [9, 9]
    leaking = [row(minute, memory=1000 + 10 * minute, files=9 + minute) for minute in range(61)]
    found = long_run.changes(leaking)
    assert found["memory_growth"] == pytest.approx((1000 + 575) / (1000 + 135) - 1, abs=0.01)
    assert found["files"][1] - found["files"][0] == pytest.approx(44, abs=1)


def test_memory_of_the_first_evaluation_and_push_counts_as_warm_up(long_run):
    rows = [row(minute, evaluations=minute // 25, pushes=minute // 30) for minute in range(61)]
    for late in rows[30:]:
        late |= {"memory": 1200, "files": 17}
    rows[30]["images_per_second"] = 1.0
    found = long_run.changes(rows)
    assert found["memory_growth"] == found["speed_growth"] == 0 and found["files"] == [17, 17]
    assert found["warm_up"] == 31


def test_result_is_whole_after_every_look_and_rendered(long_run, tmp_path):
    report = long_run.Report(tmp_path / "long_run.json", "A test", "python benchmarks/long_run.py")
    for part in ("cached", "streaming"):
        for minute in range(1, 11):
            report.add(row(minute, part, memory=1000 + 10 * minute))
            assert json.loads((tmp_path / "long_run.json").read_text())["rows"][-1]["minutes"] == minute
    assert [path.name for path in tmp_path.iterdir()] == ["long_run.json"]
    import render

    text = render.rendered("<!-- results:long_run -->\n<!-- end results:long_run -->", tmp_path)
    assert "| streaming | 10 | +7.8% | 9 to 9 | 4 to 4 | +0.0% | +0.0% | 1 | 1 |" in text
