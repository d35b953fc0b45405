"""Mutated pictures of 12 formats, and mutated safetensors, LoRA and tokenizer files: typed errors only.

    python -m benchmarks.mutants                          # 100,000 pictures, 20,000 other files
    python -m benchmarks.mutants --pictures 600 --others 300 --seed 5

Every picture is read as picture and as mask. A mutant is a fault if reading it raises an error that is not ours, kills
the process, needs more than 3 GiB of address space, or writes to stderr. The exit status is 1 if there are faults.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PART = 2500  # mutants for each process
_SHOWN = 20


def kinds() -> tuple[list[str], list[str]]:
    """The names of the formats of pictures, and of the other kinds of files."""
    from benchmarks.mutants.subjects import pictures, weights

    return list(pictures()), list(weights())


def run(kind: str, count: int, seed: int) -> dict[str, Any]:
    """Read mutants of a kind: how many were read and refused, the largest memory in bytes, and the faults."""
    result: dict[str, Any] = {"mutants": count, "read": 0, "refused": 0, "peak": 0, "faults": []}
    first = 0
    while first < count:
        part = min(_PART, count - first)
        status, lines = _work(kind, seed, first, part)
        result["faults"] += [line for line in lines if "fault" in line]
        done = next((line for line in lines if "read" in line), None)
        if done is None:  # the process died with the last mutant
            last = max((line["at"] for line in lines if "at" in line), default=first)
            result["faults"].append({"fault": last, "problem": f"the process ended with status {status}"})
            first = last + 1
            continue
        result["read"] += done["read"]
        result["refused"] += done["refused"]
        result["peak"] = max(result["peak"], done["peak"])
        first += part
    return result


def _work(kind: str, seed: int, first: int, count: int) -> tuple[int, list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        arguments = [kind, str(seed), str(first), str(count), str(log)]
        status = subprocess.run([sys.executable, "-m", "benchmarks.mutants.worker", *arguments], check=False).returncode
        return status, list(_objects(log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""))


def _objects(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:  # what faulthandler wrote
            continue
        if isinstance(found, dict):
            yield found


def main() -> int:
    """Read all mutants and print a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000, metavar="N", help="pictures (default: 100000)")
    parser.add_argument("--others", type=int, default=20_000, metavar="N", help="other files (default: 20000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed (default: 0)")
    args = parser.parse_args()
    formats, others = kinds()
    bad = 0
    for names, total in ((formats, args.pictures), (others, args.others)):
        for place, kind in enumerate(names):
            count = total // len(names) + (place < total % len(names))
            result = run(kind, count, args.seed)
            bad += len(result["faults"])
            sys.stdout.write(
                f"{kind:12}{result['mutants']:8,} mutants {result['read']:8,} read {result['refused']:8,} refused"
                f" {result['peak'] / 1e6:7.0f} MB {len(result['faults']):5} faults\n"
            )
            for fault in result["faults"][:_SHOWN]:
                sys.stdout.write(f"    {fault}\n")
            sys.stdout.flush()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
