"""Reads mutants in a process of bounded memory, and reports each one that is not read or refused as it should be.

    python -m benchmarks.mutants.worker KIND SEED FIRST COUNT LOG

The log's lines are JSON: {"at": N} before a mutant is read, and {"fault": N, …} for each fault; the last one has the
counts. A process that dies leaves the number of its mutant there.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.mutants.mutation import mutant
from benchmarks.mutants.subjects import Subject, pictures, read_as_picture_and_mask, weights
from kandinsky_runtime.errors import Kandinsky22Error

_MOST_MORE = 3 << 30  # the bytes of address space that reading may take


class _Stderr:
    """What the process writes to stderr, libraries in C included, goes to a file."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "stderr").open("wb+")
        os.dup2(self._file.fileno(), 2)

    def take(self) -> str:
        """What was written since the last call."""
        sys.stderr.flush()
        self._file.seek(0)
        text = self._file.read().decode(errors="replace")
        self._file.seek(0)
        self._file.truncate()
        return text


def main(kind: str, seed: int, first: int, count: int, log: Path) -> None:
    """Read `count` mutants of a kind from number `first` on."""
    subjects = pictures() | weights()
    place, subject = list(subjects).index(kind), subjects[kind]
    names = list(subject.examples)
    with tempfile.TemporaryDirectory() as folder, log.open("a", buffering=1) as lines:
        stderr = _Stderr(Path(folder))
        faulthandler.enable(lines)
        _limit_memory()
        whole = Path(folder) / "files"
        whole.mkdir()
        for name, data in subject.examples.items():
            (whole / name).write_bytes(data)
        read = refused = 0
        for number in range(first, first + count):
            name = names[number % len(names)]
            other = subject.examples[names[(number // len(names)) % len(names)]]
            data = mutant((seed, place, number), subject.examples[name], other)
            lines.write(json.dumps({"at": number}) + "\n")
            for way in _ways(subject, whole, name, data):
                problem = None
                try:
                    way()
                    read += 1
                except Kandinsky22Error as error:
                    refused += 1
                    if "MemoryError" in str(error) or not str(error).strip():
                        problem = f"{type(error).__name__}: {error}"
                except BaseException as error:  # everything that is not ours is what is looked for
                    problem = f"{type(error).__name__}: {error}"
                if text := stderr.take():
                    problem = f"{problem or ''} stderr: {text}"
                if problem:
                    lines.write(json.dumps({"fault": number, "file": name, "problem": problem[:2000]}) + "\n")
            if not subject.is_picture:
                (whole / name).write_bytes(subject.examples[name])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        lines.write(json.dumps({"read": read, "refused": refused, "peak": peak}) + "\n")


def _ways(subject: Subject, folder: Path, name: str, data: bytes) -> Iterator[Callable[[], object]]:
    if subject.is_picture:
        yield from read_as_picture_and_mask(data)
    else:
        (folder / name).write_bytes(data)
        yield lambda: subject.read(folder, name)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + _MOST_MORE
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
