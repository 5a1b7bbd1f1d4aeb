"""The curve of crops and the operations of a step are measured, and rendered from their files."""

import json
import subprocess
import sys

import pytest
import torch
from benchmark_parts import BENCHMARKS

RESULTS = BENCHMARKS.parent / "model_card" / "results"


def test_curves_part_where_the_excess_has_risen(render):
    import patch_curve

    rows = [{"log_sigma": x, "excess": y} for x, y in ((-2, 0.06), (-1, 0.05), (0, 0.06), (1, 0.1), (2, 0.09))]
    assert patch_curve.parting(rows, 0.02) == pytest.approx(0.25)
    assert patch_curve.parting(rows, 0.2) == 2


def test_views_and_allocation_are_no_operations(render):
    import step_calls

    with step_calls.OperationCounter() as counter:
        x = torch.empty(2, 3).fill_(1).view(3, 2).t()
        y = x @ x.T
        torch._foreach_add_([x, y], 1.0)
        y[0].add_(1)
    assert dict(counter.calls) == {"fill_": 1, "mm": 1, "_foreach_add_": 1, "add_": 1}


def test_measured_files_are_rendered(render):
    for name in ("patch_curve", "step_calls"):
        result = json.loads((RESULTS / f"{name}.json").read_text())
        text = render.RENDERERS[name](result)
        assert f"Again: `{result['command']}`" in text and text.count("\n|") >= 4


@pytest.mark.slow
def test_operations_are_counted_from_end_to_end(render, tmp_path):
    command = [sys.executable, str(BENCHMARKS / "step_calls.py"), "--resolution", "32", "--channels", *["32"] * 4]
    output = tmp_path / "result.json"
    done = subprocess.run(
        [*command, "--batch", "4", "--output", str(output)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(output.read_text())
    calls = {row["contender"]: row["network_calls"] for row in result["rows"]}
    assert calls["peer"] == calls["speed"] == 1 and calls["gated"] == 2
    assert 2 < result["summary"]["gated_over_full_operations"] < 2.5
