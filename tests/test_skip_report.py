"""The report of skipped tests: a real run of pytest, and the sum of several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest

def test_a(): pass

def test_b_bf16(): pass

@pytest.mark.skipif(True, reason="this processor does not compute in bf16")
def test_c(): raise AssertionError

def test_d(): pytest.skip("no GPU")
"""


def test_two_runs_are_summed(tmp_path: Path) -> None:
    (tmp_path / "test_sample.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text("from skip_report import pytest_terminal_summary\n")
    record = tmp_path / "skips"
    environment = os.environ | {"K22_SKIPS": str(record), "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    for _ in range(2):
        subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True)
    report = [sys.executable, str(ROOT / "tests" / "skip_report.py"), str(record)]
    lines = subprocess.run(report, check=True, capture_output=True, text=True).stdout.splitlines()
    assert lines[0] == "4 tests passed, 4 were skipped:"
    assert sorted(lines[1:3]) == ["     2  no GPU", "     2  this processor does not compute in bf16"]
    assert lines[3] == "bf16: 2 tests passed, 2 were skipped"
