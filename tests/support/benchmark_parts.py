"""Shared by the tests of benchmarks."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


def shortened(name, **constants):
    """The start of a command: a benchmark that does less of the same."""
    changes = "; ".join(f"{name}.{constant} = {value!r}" for constant, value in constants.items())
    program = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import {name}; {changes}; {name}.main()"
    return [sys.executable, "-c", program]
