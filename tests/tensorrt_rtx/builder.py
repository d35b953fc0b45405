"""NVIDIA's builder as an oracle: compiles graphs in the environment `rtx`, from tests and benchmarks in any other.

`scripts/test` makes the environment. Nothing is run on a GPU, and no GPU is needed.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-rtx" / "bin" / "python"
COMPILER = Path(__file__).with_name("compiler.py")
TOOLS = ("cc", "nm", "readelf")

# Compute capability 8.6, 8.9, 12.0 and 12.1: all that this version compiles for.
TARGETS = ("sm86", "sm89", "sm120", "sm121")
# Not about the graph: the parser reminds of every int64 input that its buffer has to be int64, which it is.
_REMINDER = re.compile(r"Make sure input \w+ has Int64 binding")
# A context graph holds one node, which names the engine; a graph with anything else is larger.
CONTEXT_BYTES = 4096


@dataclass(frozen=True)
class Job:
    """A graph to compile.

    Attributes:
        graph: the ONNX file.
        folder: for what is made, empty or not there.
        target: one of `TARGETS`.
        options: the provider's, by name.
    """

    graph: Path
    folder: Path
    target: str
    options: Mapping[str, str]

    def to_line(self) -> str:
        """For the compiler's standard input."""
        return json.dumps(asdict(self), default=str) + "\n"


@dataclass(frozen=True)
class Built:
    """What came of a job.

    Attributes:
        error: why there is no engine, or None.
        messages: warnings and errors of the vendor's libraries.
        engines: the files; one where the whole graph became one engine.
        context_bytes: the size of the graph of what is left outside the engines.
        seconds: that compiling took.
        peak_bytes: the resident memory of the process that compiled, at its highest so far.
    """

    error: str | None = None
    messages: tuple[str, ...] = ()
    engines: tuple[Path, ...] = ()
    context_bytes: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Built:
        """The result that the compiler wrote."""
        lists = {"messages": tuple(data["messages"]), "engines": tuple(map(Path, data.get("engines", ())))}
        return cls(**{**data, **lists})

    def faults(self) -> list[str]:
        """What speaks against the engine: an error, a warning, or a part of the graph that is not in it."""
        found = [text for text in self.messages if not _REMINDER.search(text)]
        if self.error is not None:
            return [self.error, *found]
        if len(self.engines) != 1:
            found.append(f"{len(self.engines)} engines instead of one")
        if self.context_bytes > CONTEXT_BYTES:
            found.append("a part of the graph is left outside the engine")
        return found


def missing() -> str | None:
    """Why NVIDIA's builder cannot be asked here, or None."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"TensorRT-RTX has no package for {sys.platform} on {platform.machine()}: it is for x86-64 Linux here"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{', '.join(absent)} is not installed: stand-ins for the driver are compiled with it"
    if not PYTHON.exists():
        return f"there is no environment {PYTHON.parents[1].name}: scripts/test makes it"
    return None


def build(jobs: Sequence[Job]) -> list[Built]:
    """Compile the graphs, those of one target in one process; where a graph ends it, the next go on in another."""
    found: dict[int, Built] = {}
    for target in dict.fromkeys(job.target for job in jobs):
        numbers = [number for number, job in enumerate(jobs) if job.target == target]
        while numbers:
            results = _run([jobs[number] for number in numbers])
            found |= zip(numbers, results, strict=False)
            numbers = numbers[len(results) :]
    return [found[number] for number in range(len(jobs))]


def _run(jobs: Sequence[Job]) -> list[Built]:
    """The results of one process: as many as there are jobs, or as many as it took to end it."""
    lines = "".join(job.to_line() for job in jobs)
    done = subprocess.run([str(PYTHON), str(COMPILER)], input=lines, capture_output=True, text=True, check=False)
    results = [Built.from_json(json.loads(line)) for line in done.stdout.splitlines()]
    if len(results) < len(jobs):
        results.append(Built(f"the compiler's process ended with {done.returncode}: {done.stderr[-2000:].strip()}"))
    return results
