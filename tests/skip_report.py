"""How many tests were skipped, and why: a hook of conftest.py that records them, and a program that prints the sum.

`scripts/test` runs pytest several times; each run appends its record to the file named by K22_SKIPS.

    python tests/skip_report.py FILE
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    """Append this run's record; pytest-xdist's workers leave it to the process that started them."""
    file = os.environ.get("K22_SKIPS")
    if file and not hasattr(config, "workerinput"):
        stats = terminalreporter.stats
        record = {
            "passed": [report.nodeid for report in stats.get("passed", [])],
            "skipped": [[report.nodeid, reason_of(report.longrepr)] for report in stats.get("skipped", [])],
        }
        with Path(file).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")


def reason_of(longrepr: Any) -> str:
    """The reason of a skipped test, from pytest's (file, line, text)."""
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ")


def summary(records: list[dict[str, Any]]) -> str:
    """The report of all runs; bf16 is counted apart, because many processors do not compute in it."""
    passed = [name for record in records for name in record["passed"]]
    skipped = [item for record in records for item in record["skipped"]]
    reasons = Counter(reason for _, reason in skipped)
    lines = [f"{len(passed)} tests passed, {len(skipped)} were skipped" + (":" if skipped else "")]
    lines += [f"  {count:4}  {reason}" for reason, count in reasons.most_common()]
    ran = sum("bf16" in name for name in passed)
    left_out = sum("bf16" in f"{name} {reason}" for name, reason in skipped)
    lines.append(f"bf16: {ran} tests passed, {left_out} were skipped")
    return "\n".join(lines)


if __name__ == "__main__":
    texts = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    sys.stdout.write(summary([json.loads(text) for text in texts]) + "\n")
